"""What a lesson needs from the machine: packages, and a folder that is there tomorrow."""

import importlib
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

DRIVE = Path("/content/drive/MyDrive")  # where Colab mounts the learner's own Google Drive


def is_hosted() -> bool:
    """Return whether this is a machine of Colab or Kaggle, where a lesson may install packages."""
    return "google.colab" in sys.modules or "KAGGLE_KERNEL_RUN_TYPE" in os.environ


def have(*packages: str) -> bool:
    """Return whether all packages can be imported; in Colab and Kaggle install those that cannot.

    Where one is missing in the end, a sentence says how to get it.

    Args:
        packages: Their names, for `import` and for pip alike.

    Returns:
        Whether all of them are there.

    Example:
        >>> have("json", "not_a_package")
        Left out. To see it: %pip install not_a_package, then run this cell again.
        False
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing and is_hosted():
        print(f"Installing {', '.join(missing)} …", flush=True)
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *missing], check=False)
        importlib.invalidate_caches()
        missing = [name for name in missing if find_spec(name) is None]
    if missing:
        print(
            f"Left out. To see it: %pip install {' '.join(missing)}, then run this cell again.",
            flush=True,
        )
    return not missing


def folder_to_keep(name: str, *, long_run: bool) -> Path:
    """Return a folder for what a training writes, if possible one that outlives this session.

    In Colab that is a folder in the learner's Google Drive: where Drive is mounted, or where the
    learner says yes to a question that is asked before a long run. Elsewhere a long run gets a
    folder beside the notebook. A short run gets a temporary folder. A sentence says which it is.

    Args:
        name: Of the folder.
        long_run: Whether it would be a pity to lose what is written.

    Returns:
        An existing folder.
    """
    if "google.colab" in sys.modules:
        if long_run and not DRIVE.exists() and _says_yes():
            _mount_drive()
        if DRIVE.exists():
            return _made(DRIVE / name, "in your Google Drive, where you find it again tomorrow")
    elif long_run:
        return _made(Path(name).resolve(), "beside the notebook")
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    print("A temporary folder, which is lost when the session ends.")
    return folder


def _made(folder: Path, where: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{folder}: {where}.")
    return folder


def _says_yes() -> bool:
    question = (
        "Keep the checkpoints in your Google Drive? Without it they are lost with this "
        "session. [y/n] "
    )
    try:
        return input(question).strip().lower().startswith("y")
    except (EOFError, RuntimeError, NotImplementedError):
        # Nobody can answer: a notebook that is executed by a program has no input.
        print("Nobody answered, so the checkpoints do not go to Google Drive.")
        return False


def _mount_drive() -> None:
    from google.colab import drive

    try:
        drive.mount(str(DRIVE.parent))
    except Exception as error:  # the learner refused, or the mount timed out: the lesson goes on
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        print(f"Google Drive could not be mounted: {reason}")
