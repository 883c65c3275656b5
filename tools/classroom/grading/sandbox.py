"""The wall around a notebook: one process in bubblewrap, and what is read back from it.

Inside there are the system's programs, Python with its packages, and this package, all read-only;
an empty /tmp of 64 MB; no network, no process but its own, no capability. Your home folder and the
other notebooks are not there at all. The process gets the notebook's text through a pipe and sends
lines of JSON through another one. `inside` limits memory, processes and files, and closes what no
wall holds (`calls`); the time is limited here.

What is protected is the machine, not the verdict: code that works at it can send one of its own.
That gains nothing, because the solutions are public, and whoever copies one has all points too.
"""

import atexit
import functools
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from replearn.lesson.exercises.checker import GRADING_SEED
from replearn.lesson.lesson import EVERY_LESSON
from tools.project import ROOT

SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache")
TMP_BYTES = 64 * 2**20
WALL = (
    "--unshare-all --unshare-user --disable-userns --die-with-parent --new-session "
    f"--as-pid-1 --cap-drop ALL --size {TMP_BYTES} --tmpfs /tmp"
)
# A private /dev, in which /dev/shm would have no limit otherwise.
DEVICES = (
    "--proc /proc --dev /dev --size 1048576 --tmpfs /dev/shm --remount-ro /dev --remount-ro / "
    "--chdir /tmp"
)
REACH = "--unshare-pid --die-with-parent --tmpfs /tmp --dev-bind /dev /dev --bind /proc /proc"
NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups"
LOAD = "from tools.classroom.grading import inside"
START_SECONDS = 180.0  # in which torch must be imported, on a busy machine
LONGEST_LINE = 4096  # bytes
MOST_LINES = 64
STOPPED = "✗ wrong: it does not come to an end: stopped after {seconds:g} seconds"
NO_VERDICT = "✗ wrong: its process sent what is no verdict"


class Limits(NamedTuple):
    """What a notebook may take.

    Attributes:
        seconds: Of time, for one exercise.
        memory: MB of memory, beyond what torch takes.
        protected: Whether it runs inside bubblewrap.
        seed: Of the inputs that its answers are tried on; a class may have its own.
    """

    seconds: float = 10.0
    memory: int = 1024
    protected: bool = True
    seed: int = GRADING_SEED


class NoVerdict(Exception):
    """The process sent no verdict; the message says what happened."""


def fault() -> str:
    """Say why bubblewrap cannot be used here; "" if it can."""
    if shutil.which("bwrap") is None:
        return "there is no program bwrap"
    tried = subprocess.run(
        [*_wall(), "true"], capture_output=True, text=True, errors="replace", env=_environment()
    )
    return tried.stderr.strip() if tried.returncode else ""


class Run:
    """A process that grades one notebook, from one of its exercises on; to be used with `with`.

    Args:
        content: The notebook.
        name: Of its file.
        skip: How many exercises are graded already.
        limits: What it may take.
    """

    def __init__(self, content: bytes, name: str, skip: int, limits: Limits) -> None:
        options = dict(limits._asdict(), name=name, skip=skip)
        python = [*_python(_bytecode()), "-B", "-c", f"{_start()}; inside.main()"]
        python.append(json.dumps(options))
        self._folder = tempfile.TemporaryDirectory(prefix="grade-", ignore_cleanup_errors=True)
        folder = self._folder.name
        self._seconds = 5 * limits.seconds + 5  # `inside` is to notice by itself, and says more
        self._first = None  # the process inside bubblewrap, as a descriptor
        info, told = os.pipe()
        self._process = subprocess.Popen(
            [*_wall("--info-fd", str(told)), *python] if limits.protected else python,
            pass_fds=[told] if limits.protected else [],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=_environment() if limits.protected else _environment(home=folder),
            start_new_session=True,
        )
        os.close(told)
        # Read to its end: bubblewrap must not find the pipe closed. It may have ended already.
        with open(info) as file, suppress(ValueError, OSError):
            self._first = os.pidfd_open(json.load(file)["child-pid"])
        self._lines: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        # It may have ended already: `_line` will notice.
        with suppress(OSError), self._process.stdin as stdin:
            stdin.write(content)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        self._process.wait()
        self._folder.cleanup()

    def lesson(self) -> str:
        """Return the number of the lesson.

        Raises:
            NoVerdict: The process says why there is none, or says nothing.
        """
        line = self._line(START_SECONDS, lesson=str, fault=str)
        if line["fault"]:
            raise NoVerdict(line["fault"])
        if line["lesson"] not in EVERY_LESSON:
            raise NoVerdict(NO_VERDICT)
        return line["lesson"]

    def verdict(self, name: str) -> dict[str, Any]:
        """Return what the process says of its next exercise: score, text, answer, mistake.

        Args:
            name: The exercise.

        Raises:
            NoVerdict: It says nothing in time, or nothing that is a verdict.
        """
        line = self._line(
            self._seconds, exercise=str, score=float, text=str, answer=str, mistake=str
        )
        if line["exercise"] != name or not 0.0 <= line["score"] <= 1.0:
            raise NoVerdict(NO_VERDICT)
        return line

    def _listen(self) -> None:
        """Put the first lines of the process into the queue, and an empty one at its end."""
        for _ in range(MOST_LINES):
            line = self._process.stdout.readline(LONGEST_LINE + 1)
            self._lines.put(line)
            if not line:
                break

    def _line(self, seconds: float, **kinds: type) -> dict[str, Any]:
        """Return the next line: a dictionary with exactly these keys, and values of these types."""
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise NoVerdict(STOPPED.format(seconds=seconds)) from None
        if not line:
            raise NoVerdict(f"✗ wrong: its process ended{self._ending()}")
        try:
            found = json.loads(line) if len(line) <= LONGEST_LINE else None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or {key: type(found[key]) for key in found} != kinds:
            raise NoVerdict(NO_VERDICT)
        return found

    def _ending(self) -> str:
        """Say how the process ended."""
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return ""
        number = code - 128 if code > 128 else -code  # bubblewrap's way, and Python's
        if number <= 0:
            return f" (exit code {code})"
        names = {int(one): one.name for one in signal.Signals}
        return f" ({names.get(number, f'signal {number}')})"

    def _kill(self) -> None:
        """End the process and its group, and inside bubblewrap the first process of all.

        That ends by itself with the group, too, unless it has asked the system not to.
        """
        if self._first is not None:
            with suppress(OSError):
                signal.pidfd_send_signal(self._first, signal.SIGKILL)
            os.close(self._first)
        with suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()


def _wall(*options: str) -> list[str]:
    """Return the command that runs another one inside bubblewrap, with more options for it."""
    mine = [ROOT / "replearn", ROOT / "tools"]
    seen = []
    python = [os.path.realpath(sys.base_prefix), *_packages(), _bytecode()]
    for place in map(Path, [*SYSTEM, *filter(None, python), *mine]):
        # Folders that bubblewrap makes without being told may be closed to others than root.
        for folder in reversed(place.parents):
            seen += ["--dir", str(folder)]
        seen += ["--ro-bind-try", str(place), str(place)]
    wall = [*WALL.split(), *seen, *DEVICES.split()]
    if os.geteuid() != 0:
        return ["bwrap", *options, *wall]
    # No limit on processes binds root, and nobody else may read root's own folders. So root sees
    # only what is to be seen, becomes nobody, and then does as everybody does.
    reach = [*REACH.split(), *seen, *NOBODY.split()]
    return ["bwrap", *options, *reach, "bwrap", *wall]


def _python(bytecode: str) -> list[str]:
    """Return the command that starts Python: without what variables, `.pth` files and the current
    folder would add to it; compiled modules lie in the folder `bytecode`, unless that is ""."""
    python = [os.path.realpath(sys.executable), "-I", "-S"]
    return [*python, "-X", f"pycache_prefix={bytecode}"] if bytecode else python


def _start() -> str:
    """Return the code that loads `inside`."""
    return f"import sys; sys.path[:0] = {[str(ROOT), *_packages()]}; {LOAD}"


@functools.cache
def _bytecode() -> str:
    """Return the folder of compiled modules, or "" if they lie beside their source.

    Nothing can be stored inside the wall, and to compile torch takes longer than to grade: where
    it is not compiled, that is done once.
    """
    if os.path.exists(torch.__cached__):
        return os.path.abspath(sys.pycache_prefix) if sys.pycache_prefix else ""
    folder = tempfile.mkdtemp(prefix="grade-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.chmod(folder, 0o755)
    subprocess.run([*_python(folder), "-c", _start()], env=_environment(), check=True)
    return folder


def _packages() -> list[str]:
    """Return the folders that Python's packages are installed in."""
    kinds = ("site-packages", "dist-packages")
    return [os.path.realpath(path) for path in sys.path if Path(path).name in kinds]


def _environment(home: str = "/tmp") -> dict[str, str]:
    """Return the variables of the process: none of those that the grader has itself."""
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    variables = dict.fromkeys(threads, "1")
    if "SYSTEMROOT" in os.environ:  # without it Windows starts no Python
        variables["SYSTEMROOT"] = os.environ["SYSTEMROOT"]
    path = os.path.dirname(shutil.which("bwrap") or "")
    return {**variables, "PATH": f"{path}:{os.defpath}", "HOME": home, "CUDA_VISIBLE_DEVICES": ""}
