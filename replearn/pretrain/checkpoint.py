"""Checkpoints that survive: a kill at any moment, a full disk, a damaged file. Nothing is ever unpickled.

A folder holds last.safetensors and the one before, previous.safetensors: tensors, and as metadata a JSON text about the
run and the SHA-256 of both. A new one is written beside them under another name, pushed to the disk, then renamed.
"""

import errno
import hashlib
import json
import os
import shutil
import warnings
from contextlib import contextmanager
from pathlib import Path

import torch

LAST, PREVIOUS = "last.safetensors", "previous.safetensors"
FORMAT = "replearn.simclr/1"


class Damaged(ValueError):
    """A checkpoint whose content is not what was written."""


def _sha256(tensors, text):
    digest = hashlib.sha256(text.encode())
    for name, x in sorted(tensors.items()):
        digest.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
        digest.update(x.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@contextmanager
def writing(folder, what="write"):
    """Turn an OSError inside the block into one sentence: where, why, what to do."""
    try:
        yield
    except OSError as error:
        reasons = {
            errno.ENOSPC: "the disk is full",
            errno.EDQUOT: "the disk quota is used up",
            errno.EACCES: "no permission to write",
            errno.EPERM: "no permission to write",
            errno.EROFS: "the disk is read-only",
        }
        reason = reasons.get(error.errno, error.strerror or str(error))
        try:
            free = f" ({shutil.disk_usage(folder).free / 1e6:,.0f} MB free)"
        except OSError:
            free = ""
        raise OSError(
            f"{folder}: could not {what}: {reason}{free}; what was saved before is kept: make room or choose "
            "another folder, then run the same again to go on from there"
        ) from error


def prepare(folder):
    """Make the folder and try writing to it, before any training; return its Path. OSError if that fails."""
    folder = Path(folder).expanduser()
    with writing(folder, "write to this folder"):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.partial"
        probe.write_bytes(b"replearn")
        probe.unlink()
    return folder


def replace(path, content):
    """Write bytes to a file so that it is, at any moment, the whole old or the whole new one."""
    partial = path.with_suffix(".partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.name == LAST and path.exists():
            os.replace(path, path.with_name(PREVIOUS))
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def save(folder, tensors, about):
    """Write a checkpoint: named tensors and a dict for JSON; the one before becomes `previous`.

    Raises OSError (disk full, no permission) with the old files still in place."""
    from safetensors.torch import save as to_bytes

    tensors = {name: x.detach().to("cpu").contiguous() for name, x in tensors.items()}
    text = json.dumps({**about, "format": FORMAT})
    content = to_bytes(tensors, metadata={"about": text, "sha256": _sha256(tensors, text)})
    with writing(
        folder, f"save the checkpoint of step {about.get('step')}, {len(content) / 1e6:,.1f} MB"
    ):
        replace(Path(folder) / LAST, content)


def read(path):
    """Return (tensors, about) of one file. Raises Damaged, or ValueError for a file that something else has written."""
    from safetensors.torch import load as from_bytes

    content = Path(path).read_bytes()
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        tensors, notes = from_bytes(content), header.get("__metadata__", {})
    except Exception as error:  # the parser has errors of its own
        raise Damaged(f"{path}: damaged, or not a checkpoint ({type(error).__name__})") from error
    if FORMAT not in notes.get("about", ""):
        raise ValueError(
            f"{path}: not a checkpoint of this training (format {FORMAT}): choose another folder"
        )
    if _sha256(tensors, notes["about"]) != notes.get("sha256"):
        raise Damaged(f"{path}: damaged, its SHA-256 is not the one written into it")
    return tensors, json.loads(notes["about"])


def load(folder):
    """Return (tensors, about) of the last good checkpoint in a folder, or None if it has none.

    A damaged last one is set aside with a warning, and the one before is used. Raises ValueError if none is good."""
    folder, problems = Path(folder), []
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            found = read(path)
        except Damaged as error:
            problems.append(str(error))
            continue
        if problems:  # out of the way: the next save must not push out the good one in its favor
            os.replace(folder / LAST, folder / "damaged.safetensors")
            warnings.warn(
                f"{problems[0]}; going on from {path.name}, step {found[1].get('step')}",
                stacklevel=2,
            )
        return found
    if problems:
        raise ValueError(
            f"no good checkpoint: {'; '.join(problems)}. Fetch the file again if you copied it here; else "
            "delete it, or pass resume=False (--no-resume), to start over"
        )
    return None
