"""Runs side by side: the same results as one after the other, whatever goes wrong."""

import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from replearn import models, train
from replearn.lesson.parallel import side_by_side

pytestmark = pytest.mark.usefixtures("one_silent_thread")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="processes are split off on Linux")


def trained(seed):
    """A small training, with random numbers of all three generators."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(64, 3, 32, 32, generator=generator)
    encoder = models.small_cnn(4)
    train.fit(lambda x: encoder(x).square().mean(), [encoder], images, steps=3, batch_size=16)
    return encoder, random.random(), np.random.rand()  # noqa: NPY002


@pytest.mark.parametrize("workers", [2, 5])
def test_results_are_those_of_one_call_after_the_other(workers):
    train.set_seed(0)
    alone = side_by_side(trained, [3, 1, 2])
    train.set_seed(0)
    beside = side_by_side(trained, [3, 1, 2], workers=workers)
    assert list(beside) == [3, 1, 2]
    for seed in alone:
        for a, b in zip(alone[seed][0].parameters(), beside[seed][0].parameters(), strict=True):
            assert torch.equal(a, b)
        assert alone[seed][1:] == beside[seed][1:]


def draw(count):
    """Draw so many numbers from each of the three generators, and return the last."""
    for _ in range(count):
        drawn = torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002
    return drawn


@pytest.mark.parametrize("workers", [1, 2])
def test_random_numbers_start_from_this_moment(workers):
    train.set_seed(5)
    expected = draw(1)
    train.set_seed(5)
    assert side_by_side(lambda _: draw(1), ["a", "b"], workers=workers) == dict(
        a=expected, b=expected
    )


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("last", [1, 3])
def test_random_numbers_go_on_as_after_the_last_call(workers, last):
    train.set_seed(5)
    draw(last)
    expected = draw(1)
    train.set_seed(5)
    side_by_side(draw, [2, last], workers=workers)
    assert draw(1) == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_where_a_function_seeds_itself_it_is_a_loop(workers):
    def seeded(seed):
        train.set_seed(seed)
        return draw(2)

    looped = {seed: seeded(seed) for seed in (7, 8)}
    then = draw(1)
    assert side_by_side(seeded, (7, 8), workers=workers) == looped
    assert draw(1) == then


@linux_only
def test_calls_have_processes_of_their_own():
    pids = side_by_side(lambda _: os.getpid(), range(3), workers=2)
    assert len({*pids.values(), os.getpid()}) == 4
    assert set(side_by_side(lambda _: os.getpid(), range(3)).values()) == {os.getpid()}
    assert set(side_by_side(lambda _: os.getpid(), [0], workers=2).values()) == {os.getpid()}


@linux_only
def test_calls_are_at_the_same_time():
    def meets(item):
        """Wait for a sign from the other one; called after the other it would wait in vain."""
        reader, writer = pipes[item], pipes["ab".replace(item, "")]
        os.write(writer[1], b"!")
        return os.read(reader[0], 1)

    pipes = {name: os.pipe() for name in "ab"}
    try:
        assert side_by_side(meets, "ab", workers=2) == {"a": b"!", "b": b"!"}
    finally:
        for ends in pipes.values():
            for end in ends:
                os.close(end)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_printed_comes_in_the_order_of_the_items(workers, capsys):
    def late(item):
        time.sleep(0.2 if item == "first" else 0)
        print(item)

    side_by_side(late, ["first", "second"], workers=workers)
    assert capsys.readouterr().out == "first\nsecond\n"


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_is_raised_with_its_own_traceback(workers):
    def fails(item):
        if item == 2:
            raise ValueError("the loss is not finite")
        return item

    with pytest.raises(ValueError, match="the loss is not finite") as caught:
        side_by_side(fails, [1, 2, 3], workers=workers)
    assert caught.traceback[-1].name == "fails"


@linux_only
def test_a_process_that_dies_is_made_up_for():
    here = os.getpid()

    def dies(item):
        if item == "dies" and os.getpid() != here:
            os._exit(9)
        return item.upper()

    assert side_by_side(dies, ["dies", "lives"], workers=2) == {"dies": "DIES", "lives": "LIVES"}


def test_a_result_that_cannot_be_sent_is_made_here():
    result = side_by_side(lambda item: lambda: item, ["a", "b"], workers=2)
    assert result["b"]() == "b"


def test_a_large_result_comes_whole():
    result = side_by_side(lambda n: torch.full((n,), float(n)), [3_000_000, 2], workers=2)
    assert result[3_000_000].shape == (3_000_000,)
    assert (result[3_000_000] == 3_000_000).all()


@linux_only
def test_an_interrupt_leaves_no_process(tmp_path):
    script = f"""
import os, time
from replearn.lesson.parallel import side_by_side
def work(item):
    open(r"{tmp_path}/" + str(os.getpid()), "w").close()
    time.sleep(60)
try:
    side_by_side(work, [1, 2, 3], workers=2)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(2)
    assert process.communicate(timeout=20)[0] == "interrupted\n"
    for path in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.name), 0)


@linux_only
def test_a_child_splits_off_no_other():
    def pids(_):
        inner = side_by_side(lambda _: os.getpid(), [1, 2], workers=2)
        return os.getpid(), *inner.values()

    for pid, first, second in side_by_side(pids, [1, 2], workers=2).values():
        assert pid == first == second != os.getpid()


@linux_only
def test_children_use_one_thread_and_draw_no_bars():
    def told(_):
        return torch.get_num_threads(), "REPLEARN_STATIC" in os.environ

    torch.set_num_threads(2)
    assert set(side_by_side(told, [1, 2], workers=2).values()) == {(1, True)}
    assert torch.get_num_threads() == 2


def test_networks_of_a_notebook_come_back():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    result = side_by_side(lambda _: net, ["a", "b"], workers=2)
    assert torch.equal(result["a"][0].weight, net[0].weight)
    assert result["a"][0].weight.requires_grad


IMPORTS_OF_A_CHILD = """
import sys
import torch
from replearn import probe
from replearn.lesson.parallel import side_by_side

def new_modules(_):
    before = set(sys.modules)
    features, labels = torch.rand(40, 3), torch.arange(40) % 2
    probe.linear_probe(features, labels, features, labels)
    torch.optim.Adam([torch.ones(1, requires_grad=True)]).step()
    return sorted(set(sys.modules) - before)

for names in side_by_side(new_modules, "ab", workers=2).values():
    print(len(names), *names)
"""


@linux_only
def test_a_child_imports_no_library_anew():
    told = subprocess.run(
        [sys.executable, "-c", IMPORTS_OF_A_CHILD], capture_output=True, text=True, check=True
    )
    counts = [int(line.split()[0]) for line in told.stdout.splitlines()]
    assert len(counts) == 2
    assert max(counts) < 20, told.stdout
