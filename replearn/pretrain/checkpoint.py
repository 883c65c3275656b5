"""Checkpoints that survive: a kill at any moment, a full disk, a damaged file.

A folder holds last.safetensors and the one before, previous.safetensors: tensors, and as metadata a
JSON text about the run and the SHA-256 of both. A new one is written beside them under another
name, pushed to the disk, then renamed. Reading one runs no code of its writer.
"""

import hashlib
import json
import os
import warnings
from pathlib import Path

import torch

from replearn import _schema
from replearn.files import explained, write_atomically

LAST = "last.safetensors"
PREVIOUS = "previous.safetensors"
# The name of the file format, by which a checkpoint is known. The package that wrote the first ones
# was replearn.simclr; with another name here nobody could go on from them.
FORMAT = "replearn.simclr/1"
MOST_STEPS = 10**12
SCALER = _schema.Record(  # of float16, as PyTorch's GradScaler saves it
    {
        "scale": _schema.Number(low=1e-30),
        "growth_factor": _schema.Number(low=1),
        "backoff_factor": _schema.Number(low=1e-30),
        "growth_interval": _schema.Whole(1, MOST_STEPS),
        "_growth_tracker": _schema.Whole(0, MOST_STEPS),
    }
)
FINISHED = _schema.Record(  # what a run had reached before it went on longer
    needed={"epochs": _schema.Number(low=0), "steps": _schema.Whole(1, MOST_STEPS)},
    optional={"minutes": _schema.Number(low=0)},
)
FORM = _schema.Record(  # of what a checkpoint says, as far as a run is restored from it
    needed={
        "format": _schema.Choice((FORMAT,)),
        "step": _schema.Whole(0, MOST_STEPS),
    },
    optional={
        "steps": _schema.Whole(1, MOST_STEPS),
        "seconds": _schema.Number(low=0),
        "scaler": _schema.EmptyOr(SCALER),
        "earlier": _schema.ListOf(FINISHED),
        "recipe": _schema.Record(),
        "images": _schema.Text(),
    },
)
REMEDY = (
    "it was not written by this training: choose another folder, or pass resume=False "
    "(--no-resume) to start over"
)


class Damaged(ValueError):
    """A checkpoint whose content is not what was written."""


def save(folder: str | Path, tensors: dict[str, torch.Tensor], about: dict) -> None:
    """Write a checkpoint; the one before becomes `previous`.

    Args:
        folder: An existing folder.
        tensors: By name, on any device.
        about: What else there is to say, as far as JSON can hold it; `step` is the step.

    Raises:
        OSError: The disk is full or does not let us write; the old files are still in place.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(folder, {"x": torch.ones(2)}, {"step": 7})
        ...     tensors, about = load(folder)
        >>> tensors["x"].tolist(), about["step"]
        ([1.0, 1.0], 7)
    """
    from safetensors.torch import save as to_bytes

    folder = Path(folder)
    tensors = {name: x.detach().to("cpu").contiguous() for name, x in tensors.items()}
    text = json.dumps({**about, "format": FORMAT})
    content = to_bytes(tensors, metadata={"about": text, "sha256": _sha256(tensors, text)})
    what = f"save the checkpoint of step {about.get('step')}, {len(content) / 1e6:,.1f} MB"
    with explained(folder, what):
        write_atomically(folder / LAST, content, previous=folder / PREVIOUS)


def load(folder: str | Path) -> tuple[dict[str, torch.Tensor], dict] | None:
    """Return the last good checkpoint in a folder.

    A damaged last one is set aside with a warning, and the one before is used.

    Args:
        folder: Any path.

    Returns:
        The tensors and what was said about them, or None if the folder has no checkpoint.

    Raises:
        ValueError: There is a checkpoint and none is good, or something else has written it.
    """
    folder = Path(folder)
    problems = []
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            tensors, about = read(path)
        except Damaged as error:
            problems.append(str(error))
            continue
        if problems:
            # Out of the way: the next save must not push out the good one in its favor.
            os.replace(folder / LAST, folder / "damaged.safetensors")
            warnings.warn(
                f"{problems[0]}; going on from {path.name}, step {about.get('step')}",
                stacklevel=2,
            )
        return tensors, about
    if problems:
        raise ValueError(
            f"no good checkpoint: {'; '.join(problems)}. Fetch the file again if you copied it "
            "here; else delete it, or pass resume=False (--no-resume), to start over"
        )
    return None


def read(path: str | Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Return the content of one file.

    Args:
        path: What `save` wrote.

    Returns:
        The tensors and what was said about them.

    Raises:
        Damaged: The content is not what was written.
        ValueError: Something else has written it, or in another form.
    """
    from safetensors.torch import load as from_bytes

    content = Path(path).read_bytes()
    try:
        tensors = from_bytes(content)
        header_size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + header_size])
        notes = header.get("__metadata__", {})
    except Exception as error:  # the parser has errors of its own
        raise Damaged(f"{path}: damaged, or not a checkpoint ({type(error).__name__})") from error
    if FORMAT not in notes.get("about", ""):
        raise ValueError(
            f"{path}: not a checkpoint of this training (format {FORMAT}): choose another folder"
        )
    if _sha256(tensors, notes["about"]) != notes.get("sha256"):
        raise Damaged(f"{path}: damaged, its SHA-256 is not the one written into it")
    try:
        about = _schema.parse(notes["about"].encode())
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, found {str(error)[:80]}; {REMEDY}") from error
    _schema.check(path, about, FORM, remedy=REMEDY)
    return tensors, about


def remove_leftovers(folder: str | Path) -> None:
    """Remove what a process left that was killed while it wrote.

    Not done on each save: another process may be writing into the folder, such as an evaluation.

    Args:
        folder: A folder in which no other process is training.
    """
    for path in Path(folder).glob("*.partial"):
        path.unlink(missing_ok=True)


def _sha256(tensors: dict[str, torch.Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name, x in sorted(tensors.items()):
        digest.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
        digest.update(x.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
