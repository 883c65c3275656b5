"""Faults that only a real kernel can plant: kills at every line and byte of a save, a full disk."""

import multiprocessing
import os
import resource
import signal
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import kills
import pytest
import torch
from test_download import mounted

from replearn import files
from replearn.pretrain import SHAPES, checkpoint, pretrain, read_log

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
TENSORS = {"x": torch.arange(20_000), "y": torch.tensor(0.5)}
TRACED = {checkpoint.__file__, files.__file__}  # the files whose lines are run when one saves


def signal_that_ended(work, *arguments):
    """Do some work in a child of this process; return the signal that ended it, 0 for none."""
    child = os.fork()
    if child == 0:
        try:
            work(*arguments)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return status


def save(folder, step):
    checkpoint.save(folder, TENSORS, dict(step=step))


def saved_step(folder):
    """Return the step of the checkpoint in a folder, None if there is none; it has to be whole."""
    saved = checkpoint.load(folder)  # a warning of a damaged file is an error in these tests
    if saved is None:
        return None
    tensors, about = saved
    assert torch.equal(tensors["x"], TENSORS["x"])
    return about["step"]


def check_next_save(folder):
    """The next save works, and once the folder is tidied up nothing lies beside it."""
    checkpoint.remove_leftovers(folder)  # as the next start of the training does
    save(folder, 9)
    assert saved_step(folder) == 9
    assert {path.name for path in folder.iterdir()} <= {checkpoint.LAST, checkpoint.PREVIOUS}


def save_until_line(folder, step, n):
    """Save, and send this process SIGKILL just before the n-th traced line that it would run."""
    lines_left = n

    def trace(frame, event, argument):
        nonlocal lines_left
        if frame.f_code.co_filename not in TRACED:
            return None
        if event == "line":
            lines_left -= 1
        if lines_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    save(folder, step)


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("before", [0, 1, 2])
def test_killed_at_every_line_of_a_save(tmp_path, before, record_property):
    last_step = before - 1 if before else None
    kills = 0
    steps = set()
    for n in range(1, 200):
        folder = tmp_path / str(n)
        folder.mkdir()
        for step in range(before):
            save(folder, step)
        ended_by = signal_that_ended(save_until_line, folder, before, n)
        if ended_by == 0:  # fewer lines than that
            break
        assert ended_by == signal.SIGKILL
        kills += 1
        steps.add(saved_step(folder))
        assert steps <= {last_step, before}
        check_next_save(folder)
    assert n < 199, "a save has more lines than were tried"
    record_property("count", kills)
    assert kills >= 20
    assert steps == {last_step, before}  # some kills before the renames, some after


@pytest.mark.filterwarnings("error::UserWarning")
def test_every_line_of_the_write_is_among_those(tmp_path):
    """The kills reach the lines that write, push to the disk and rename."""
    seen = set()

    def trace(frame, event, argument):
        if frame.f_code.co_filename not in TRACED:
            return None
        if event == "line":
            seen.add((os.path.basename(frame.f_code.co_filename), frame.f_lineno))
        return trace

    save(tmp_path, 1)
    sys.settrace(trace)
    try:
        save(tmp_path, 2)
    finally:
        sys.settrace(None)
    for path in TRACED:
        name = os.path.basename(path)
        with open(path) as file:
            lines = enumerate(file, 1)
            run = {text.strip() for number, text in lines if (name, number) in seen}
        if name == "files.py":
            assert "os.replace(partial, path)" in run
            assert "os.replace(path, previous)" in run
            assert "os.fsync(file.fileno())" in run
        else:
            assert any("previous=" in text for text in run)


TINY = replace(SHAPES, width=4, hidden=8, out=8, batch_size=16, epochs=1)
CLOCK = ("seconds", "images_per_second")  # of a log's records


def train(folder):
    """Train two steps, and save after each."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8, generator=generator)
    pretrain(TINY, images, folder=folder, device="cpu", log_every=1, checkpoint_seconds=0)


def left_by(folder):
    """Return the bytes of the encoder, and the log without what a clock has measured."""
    log = []
    for record in read_log(folder):
        log.append({name: value for name, value in record.items() if name not in CLOCK})
    return (folder / "encoder.safetensors").read_bytes(), log


def killed_at_every_write_of_a_training(folder):
    """Kill a training at every moment of its writes, and let it go on; return the kills."""
    torch.set_num_threads(1)
    warnings.simplefilter("error", UserWarning)
    train(folder / "whole")
    whole = left_by(folder / "whole")
    seen = []
    for own, kill in kills.kill_at_every_moment(folder, train):
        if kill is not None:
            seen.append(kill)
            train(own)
        assert left_by(own) == whole, kill
        names = {path.name for path in own.iterdir()}
        written = {checkpoint.LAST, checkpoint.PREVIOUS, "encoder.safetensors", "encoder.json"}
        assert names == {*written, "log.jsonl"}
    return seen


@pytest.mark.usefixtures("one_silent_thread")
def test_killed_at_every_write_of_a_training_it_ends_with_the_same_bits(tmp_path, record_property):
    # In a new process: where a test has exported a program before its first training, torch refuses
    # to train in a child of that process.
    new = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=new) as pool:
        seen = pool.submit(killed_at_every_write_of_a_training, tmp_path).result()
    for name in (checkpoint.LAST, "encoder.safetensors", "encoder.json", "log.jsonl"):
        assert {(moment, name) for moment in files.MOMENTS} <= set(seen)
    record_property("count", len(seen))
    assert len(seen) >= 25


@pytest.mark.filterwarnings("error::UserWarning")
def test_ended_at_any_byte_of_a_save(tmp_path, record_property):
    def save_at_most(size):
        # The kernel ends a process that writes beyond its limit.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        save(tmp_path, 2)

    save(tmp_path, 1)
    whole = (tmp_path / checkpoint.LAST).stat().st_size
    cuts = [1, 7, 8, 9, 100, 400, 4096, whole // 4, whole // 2, whole - 4096, whole - 1]
    for size in cuts:
        assert signal_that_ended(save_at_most, size) == signal.SIGXFSZ
        (partial,) = tmp_path.glob("*.partial")
        assert partial.stat().st_size <= size
        assert saved_step(tmp_path) == 1
        checkpoint.remove_leftovers(tmp_path)
    record_property("count", len(cuts))
    check_next_save(tmp_path)


TRAINING = """
import hashlib, os, pathlib, sys
from replearn.__main__ import main

full = pathlib.Path(sys.argv[1])
roomy = pathlib.Path(sys.argv[2])
options = (
    "pretrain --recipe shapes --size 96 --test-size 40 --width 4 --hidden 16 --out 8 "
    "--batch-size 16 --epochs 2 --log-every 1 --knn-every 0 --checkpoint-seconds 0 --device cpu "
    "--folder"
).split()


def digest(folder):
    return hashlib.sha256((folder / "encoder.safetensors").read_bytes()).hexdigest()


main([*options, str(roomy)])
# A filler leaves room for one checkpoint, not for the two and a half that a save needs.
filler = full / "filler"
disk = os.statvfs(full)
free = disk.f_bavail * disk.f_frsize
filler.write_bytes(bytes(free - (roomy / "last.safetensors").stat().st_size * 3 // 2))
try:
    main([*options, str(full)])
except SystemExit as error:
    print(error)
print(sorted(path.name for path in full.iterdir()))
filler.unlink()
main([*options, str(full)])
print(digest(full) == digest(roomy))
"""


def test_training_on_a_disk_that_fills_up_goes_on_once_there_is_room(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    told = mounted(
        small,
        "size=8m",
        TRAINING,
        str(small),
        str(tmp_path / "roomy"),
        REPLEARN_STATIC="1",
        OMP_NUM_THREADS="1",
    )
    lines = told.splitlines()
    errors = [i for i, line in enumerate(lines) if line.startswith("error: ")]
    assert len(errors) == 1, told
    sentence, left = lines[errors[0] : errors[0] + 2]
    assert "the disk is full" in sentence, told
    assert "make room or choose another folder" in sentence, told
    assert "last.safetensors" in left, told
    assert "partial" not in left, told
    assert lines[-1] == "True", told
