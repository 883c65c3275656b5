"""Faults that only a real kernel can plant: a kill at every line and at any byte of a save, a disk that is full."""

import os
import resource
import signal
import sys

import pytest
import torch
from test_download import mounted

from replearn.pretrain import checkpoint

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
TENSORS = {"x": torch.arange(20_000), "y": torch.tensor(0.5)}


def ended_by(work):
    """Do some work in a child of this process; return the signal that ended the child, 0 for none."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


def killed_at_line(n, work):
    """Do some work and send this process SIGKILL just before the n-th line of checkpoint.py that it would run."""
    left = [n]

    def trace(frame, event, argument):
        if frame.f_code.co_filename != checkpoint.__file__:
            return None
        left[0] -= event == "line"
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    work()


def save(folder, step):
    checkpoint.save(folder, TENSORS, dict(step=step))


def check(folder, steps):
    """One of these steps is what a folder holds, whole; the next save works and leaves nothing beside it."""
    found = checkpoint.load(folder)  # a warning of a damaged file is an error here
    assert (found[1]["step"] if found else None) in steps
    assert found is None or torch.equal(found[0]["x"], TENSORS["x"])
    save(folder, 9)
    assert checkpoint.load(folder)[1]["step"] == 9 and {p.name for p in folder.iterdir()} <= {
        checkpoint.LAST,
        checkpoint.PREVIOUS,
    }


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("before", [0, 1, 2])
def test_killed_at_every_line_of_a_save(tmp_path, before, record_property):
    kills, steps = 0, set()
    for n in range(1, 200):
        folder = tmp_path / str(n)
        folder.mkdir()
        for step in range(before):
            save(folder, step)
        how = ended_by(lambda n=n, folder=folder: killed_at_line(n, lambda: save(folder, before)))
        if how == 0:  # fewer lines than that
            break
        assert how == signal.SIGKILL
        kills += 1
        found = checkpoint.load(folder)
        steps.add(found and found[1]["step"])
        check(folder, {before - 1 if before else None, before})
    record_property("count", kills)
    assert kills >= 20 and steps == {
        before - 1 if before else None,
        before,
    }  # some before, some after the renames


@pytest.mark.filterwarnings("error::UserWarning")
def test_ended_at_any_byte_of_a_save(tmp_path, record_property):
    def work(most):
        signal.signal(
            signal.SIGXFSZ, signal.SIG_DFL
        )  # the kernel ends a process that writes beyond its limit
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        save(tmp_path, 2)

    save(tmp_path, 1)
    whole = (tmp_path / checkpoint.LAST).stat().st_size
    cuts = [1, 7, 8, 9, 100, 400, 4096, whole // 4, whole // 2, whole - 4096, whole - 1]
    for most in cuts:
        assert ended_by(lambda most=most: work(most)) == signal.SIGXFSZ
        assert (tmp_path / "last.partial").stat().st_size <= most and checkpoint.load(tmp_path)[1][
            "step"
        ] == 1
    record_property("count", len(cuts))
    check(tmp_path, {1})


TRAINING = """
import hashlib, os, pathlib, subprocess, sys
from replearn.__main__ import main
full, roomy = map(pathlib.Path, sys.argv[1:])
options = ("pretrain --recipe shapes --size 96 --test-size 40 --width 4 --hidden 16 --out 8 --batch-size 16 --epochs 2 "
           "--log-every 1 --knn-every 0 --checkpoint-seconds 0 --device cpu --folder").split()
main([*options, str(roomy)])
need = sum(path.stat().st_size for path in roomy.glob("*.safetensors"))
filler = full / "filler"  # leaves room for one checkpoint, not for the two and a half that a save needs
space = os.statvfs(full).f_bavail * os.statvfs(full).f_frsize
filler.write_bytes(bytes(space - (roomy / "last.safetensors").stat().st_size * 3 // 2))
try:
    main([*options, str(full)])
except SystemExit as error:
    print(error)
print(sorted(path.name for path in full.iterdir()))
filler.unlink()
main([*options, str(full)])
print(len({hashlib.sha256((folder / "encoder.safetensors").read_bytes()).hexdigest() for folder in (full, roomy)}))
"""


def test_training_on_a_disk_that_fills_up_goes_on_once_there_is_room(tmp_path):
    (tmp_path / "small").mkdir()
    told = mounted(
        tmp_path / "small",
        "size=8m",
        TRAINING,
        str(tmp_path / "small"),
        str(tmp_path / "roomy"),
        REPLEARN_STATIC="1",
        OMP_NUM_THREADS="1",
    )
    *_, sentence, left, _, same = told.splitlines()
    assert "the disk is full" in sentence and "make room or choose another folder" in sentence, told
    assert "last.safetensors" in left and "partial" not in left and same == "1", told
