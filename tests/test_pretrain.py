"""The training of notebook 12: recipes, steps, checkpoints, kills, two processes. Tiny networks."""

import errno
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from replearn import files, losses, models
from replearn.__main__ import main
from replearn.pretrain import (
    COURSE,
    LIGHTLY,
    NAMED,
    SHAPES,
    SOURCE,
    Recipe,
    checkpoint,
    distributed,
    loop,
    planning,
    plot_log,
    pretrain,
    read_log,
)
from replearn.pretrain.log import append_log, restart_log
from replearn.pretrain.recipe import differences, from_json, networks, to_json
from replearn.pretrain.step import LOSSES, Batches, contrast, make_views, new_run, train_step

TINY = replace(SHAPES, width=4, hidden=16, out=8, batch_size=16, epochs=2)
WEIGHTS = "encoder.safetensors"
CLOCK = ("seconds", "images_per_second")  # what differs between two runs of the same recipe

pytestmark = pytest.mark.usefixtures("one_silent_thread")


class Stop(Exception):
    """What a person does who stops a run."""


def random_images(n=64, side=32):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=generator)


def run(recipe=TINY, images=None, **options):
    """Pretrain on a CPU with a record each step, if the options do not say otherwise."""
    images = random_images() if images is None else images
    return pretrain(recipe, images, **{"device": "cpu", "log_every": 1} | options)


def weights(result):
    return torch.cat([x.flatten().double() for x in result.encoder.state_dict().values()])


def parameters_of(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def steps_of(history):
    return [record["step"] for record in history]


def losses_of(history):
    return [record["loss"] for record in history]


def without_clock(history):
    return [{k: v for k, v in record.items() if k not in CLOCK} for record in history]


# Recipes


def test_named_recipes_say_what_their_sources_say():
    assert SOURCE.epochs == 200
    assert SOURCE.batch_size == 256
    assert SOURCE.temperature == 0.1
    assert SOURCE.hidden == 2048
    assert SOURCE.crop == (0.08, 1)
    assert SOURCE.jitter == (0.4, 0.4, 0.4, 0.1)
    assert SOURCE.grayscale == 0.2
    assert SOURCE.blur == 0.5
    assert LIGHTLY.lr == 6e-2 * LIGHTLY.batch_size / 128
    assert LIGHTLY.weight_decay == 5e-4
    assert LIGHTLY.optimizer == "sgd"
    assert LIGHTLY.temperature == 0.5
    assert LIGHTLY.blur == 0
    assert LIGHTLY.hidden == 512
    assert LIGHTLY.out == 128
    assert SHAPES.network == "small_cnn"
    assert SHAPES.crop == (0.5, 1)
    assert SHAPES.jitter == (0.4, 0.4, 0.4, 0.5)


@pytest.mark.parametrize("name", NAMED)
def test_recipes_survive_json(name):
    assert from_json(to_json(NAMED[name])) == NAMED[name]


def test_recipes_are_frozen():
    with pytest.raises(AttributeError):
        Recipe().lr = 1.0


@pytest.mark.parametrize(
    "field, value, expected",
    [
        ("network", "vgg", "resnet18, small_cnn or timm:NAME"),
        ("network", "timm:", "resnet18, small_cnn or timm:NAME"),
        ("width", 0, "a whole number from 1 to 4,096"),
        ("width", True, "a whole number from 1 to 4,096"),
        ("data", 3, "a name"),
        ("epochs", 0, "a number from 1e-06 to 1000000"),
        ("epochs", float("nan"), "a number from 1e-06 to 1000000"),
        ("minutes", -1, "None or a number above 0"),
        ("batch_size", 1, "a whole number of 2 or more"),
        ("batch_size", 2.5, "a whole number of 2 or more"),
        ("optimizer", "lars", "one of sgd, adamw"),
        ("lr", 0, "a number of 1e-12 or more"),
        ("lr", float("inf"), "a number of 1e-12 or more"),
        ("weight_decay", -1, "a number of 0 or more"),
        ("warmup", 1, "a number from 0 to 0.9"),
        ("temperature", 0, "a number of 1e-06 or more"),
        ("crop", (1, 0.2), "two rising shares of the area, or None"),
        ("crop", (0, 1), "two rising shares of the area, or None"),
        ("crop", 0.2, "two rising shares of the area, or None"),
        ("jitter", (1, 1, 1), "four strengths of 0 or more, the hue's up to 0.5"),
        ("jitter", (0.4, 0.4, 0.4, 0.6), "four strengths of 0 or more, the hue's up to 0.5"),
        ("jitter", (0.4, 0.4, 0.4, "0"), "four strengths of 0 or more, the hue's up to 0.5"),
        ("grayscale", 1.1, "a number from 0 to 1"),
        ("blur", -0.1, "a number from 0 to 1"),
        ("flip", 2, "a number from 0 to 1"),
        ("hidden", 0, "a whole number from 1 to 100,000"),
        ("out", 0, "a whole number from 1 to 100,000"),
        ("layers", 0, "a whole number from 1 to 16"),
        ("queue", -1, "a whole number from 0 to 1,000,000"),
        ("momentum", 1.5, "a number from 0 to 1"),
        ("average", 1, "a number from 0 to 0.99999"),
        ("n_small", 1.5, "a whole number from 0 to 64"),
        ("seed", "0", "a whole number from 0 to 4,294,967,295"),
        ("predictor", -1, "a whole number from 0 to 100,000"),
        ("n_views", 1, "a whole number from 2 to 64"),
        ("n_views", 65, "a whole number from 2 to 64"),
        ("n_views", 4.0, "a whole number from 2 to 64"),
        ("mean_target", 1, "true or false"),
        ("loss", "dino", "one of nt_xent, decoupled_contrastive, byol, simsiam"),
    ],
)
def test_a_bad_field_is_named(field, value, expected):
    sentence = f"recipe: {field}: expected {expected}, found {value!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        replace(COURSE, **{field: value})


def test_unknown_fields_and_broken_json():
    with pytest.raises(ValueError, match="unknown field tau; known are network"):
        from_json('{"tau": 0.1}')
    for text in ("{", "[1]"):
        with pytest.raises(ValueError, match="expected"):
            from_json(text)
    with pytest.raises(ValueError, match="a queue brings a loss of its own"):
        replace(SHAPES, queue=64, loss="decoupled_contrastive")


def test_differences_name_the_fields():
    assert differences(COURSE, COURSE) == ""
    changes = differences(COURSE, replace(COURSE, lr=1.0, seed=3))
    assert changes == "lr was 0.1, is now 1.0; seed was 0, is now 3"


def test_networks_of_timm():
    pytest.importorskip("timm")
    encoder, projector = networks(replace(TINY, network="timm:resnet10t"))
    assert projector(encoder.eval()(torch.rand(2, 3, 32, 32))).shape == (2, 8)
    with pytest.raises(ValueError, match="timm:nothing: no such network"):
        networks(replace(TINY, network="timm:nothing"))


# A step


def test_each_image_once_an_epoch_in_a_new_order():
    images = torch.arange(64, dtype=torch.uint8).view(64, 1, 1, 1).expand(64, 3, 2, 2)
    epochs = []
    for first_step in (0, 4):
        numbers = []
        for step in range(first_step, first_step + 4):
            batch = Batches(images, TINY.batch_size, TINY.seed).at(step)
            numbers += batch[:, 0, 0, 0].tolist()
        epochs.append(numbers)
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(64))
    assert epochs[0] != epochs[1]
    one_after_the_other = Batches(images, TINY.batch_size, TINY.seed)
    numbers = torch.cat([one_after_the_other.at(step)[:, 0, 0, 0] for step in range(8)]).tolist()
    assert numbers == epochs[0] + epochs[1]


def flat_net(out=8):
    torch.manual_seed(0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, out))


def test_contrast_is_the_loss_of_all_pairs():
    net = flat_net()
    views = [torch.rand(6, 3, side, side) for side in (32, 32, 16, 16)]
    z = [net(view) for view in views]
    for name, loss in LOSSES.items():
        recipe = replace(TINY, loss=name, temperature=0.3)
        large = loss(z[0], z[1], temperature=0.3)
        torch.testing.assert_close(contrast(recipe, net, views[:2])[0], large)
        pairs = [large]
        for small in (2, 3):
            for key in (0, 1):
                pairs.append(loss(z[small], z[key], temperature=0.3))
        torch.testing.assert_close(contrast(recipe, net, views)[0], sum(pairs) / 5)


def test_contrast_with_a_queue_is_moco():
    net = flat_net()
    target = flat_net()
    queue = torch.randn(32, 8)
    with torch.no_grad():
        target[2].weight.mul_(0.5).add_(0.1)
    a, b = torch.rand(2, 6, 3, 32, 32)
    recipe = replace(TINY, temperature=0.2)
    loss, _ = contrast(recipe, net, [a, b], target=target, queue=queue)
    a_finds_b = losses.moco(net(a), target(b), queue, temperature=0.2)
    b_finds_a = losses.moco(net(b), target(a), queue, temperature=0.2)
    torch.testing.assert_close(loss, (a_finds_b + b_finds_a) / 2)
    loss.backward()
    assert all(p.grad is None for p in target.parameters())
    assert net[2].weight.grad.abs().sum() > 0


def test_the_queue_keeps_the_newest_keys():
    state = new_run(replace(TINY, queue=40, out=8), random_images())
    state.steps = 2
    before = state.queue.clone()
    train_step(state)
    assert torch.equal(state.queue[32:], before[:8])
    assert not torch.isin(state.queue[:32], before).any()
    torch.testing.assert_close(state.queue.norm(dim=1), torch.ones(40))
    apart = (parameters_of(state.online) - parameters_of(state.target)).abs().max()
    assert 0 < apart < 0.01


def test_the_mean_of_past_weights_is_what_is_kept():
    state = new_run(replace(TINY, average=0.9), random_images())
    state.steps = 100
    online = state.online[0].block1[0].weight
    expected = online.detach().clone()
    for step in range(5):
        train_step(state)
        momentum = min(0.9, (1 + step) / (10 + step))
        expected = torch.lerp(online.detach(), expected, momentum)
    assert state.kept is state.average
    torch.testing.assert_close(state.average[0].block1[0].weight, expected)
    assert not torch.allclose(expected, online, atol=1e-4)
    without_average = new_run(TINY, random_images())
    assert without_average.kept is without_average.online
    assert without_average.kept.training


def test_one_small_view():
    views = make_views(replace(TINY, n_small=1), random_images(4))
    assert [view.shape[2] for view in views] == [32, 32, 16]


# A run


def test_pretraining_learns_and_tells(tmp_path):
    from replearn.data import shapes

    train = shapes.render(256, seed=0)
    test = shapes.render(100, seed=1)
    recipe = replace(TINY, width=8, batch_size=64, epochs=12, lr=5e-3)
    options = dict(folder=tmp_path, knn=(train, test), knn_every=6, log_every=4)
    seen = []

    def callback(record, history):
        seen.append((record["step"], len(history)))

    random_state = torch.get_rng_state()
    result = run(recipe, train.images, callback=callback, **options)
    assert torch.equal(torch.get_rng_state(), random_state)  # a notebook's own numbers stay
    history = result.history
    assert history == read_log(tmp_path) == read_log(tmp_path / "log.jsonl")
    assert seen == [(4 * i, i) for i in range(1, 13)]
    assert history[-1]["loss"] < history[0]["loss"] - 0.2
    assert [record["epoch"] for record in history if "knn" in record] == [6, 12]
    assert {"std", "effective_rank", "lr", "images_per_second", "seconds"} <= set(history[-1])
    assert plot_log(tmp_path)[1].get_ylabel() == "accuracy (%)"
    shipped = models.load(tmp_path)  # what others can load
    white = torch.ones(1, 3, 32, 32)
    assert torch.equal(shipped(white), result.encoder(white))
    scores = models.card(tmp_path)["scores"]
    assert scores == {name: history[-1][name] for name in ("knn", "loss", "effective_rank")}
    again = run(recipe, train.images, **options)  # nothing left to do
    assert again.history == history
    assert torch.equal(weights(again), weights(result))


def test_the_seed_is_the_run():
    first = run()
    again = run()
    other = run(replace(TINY, seed=1))
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))
    assert losses_of(first.history) == losses_of(again.history)


def test_bfloat16_trains_the_same_weights():
    # Autocast keeps copies of the weights until its end: around the whole training it would train
    # on the first weights.
    recipe = replace(TINY, width=8, epochs=6)
    full = run(recipe)
    half = run(recipe, dtype=torch.bfloat16)
    assert full.history[-1]["loss"] < full.history[0]["loss"] - 0.05
    assert abs(full.history[-1]["loss"] - half.history[-1]["loss"]) < 0.05
    images = random_images(16).float() / 255
    cosine = torch.nn.functional.cosine_similarity(full.encoder(images), half.encoder(images))
    assert cosine.min() > 0.98
    assert not torch.equal(weights(full), weights(half))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(optimizer="sgd", lr=0.1, loss="decoupled_contrastive"),
        dict(queue=48, n_small=2),
        dict(average=0.9),
    ],
    ids=["adamw", "sgd", "moco, multi-crop", "average"],
)
def test_a_stopped_run_ends_with_the_same_weights(tmp_path, changes):
    def stop_at(step):
        def callback(record, history):
            if record["step"] == step:
                raise Stop

        return callback

    recipe = replace(TINY, **changes)
    options = dict(folder=tmp_path, checkpoint_seconds=0)
    whole = run(recipe)
    with pytest.raises(Stop):
        run(recipe, callback=stop_at(3), **options)
    with pytest.raises(Stop):  # goes on from the checkpoint of step 2, does step 3 again
        run(recipe, callback=stop_at(6), **options)
    resumed = run(recipe, **options)
    assert torch.equal(weights(whole), weights(resumed))
    assert steps_of(resumed.history) == list(range(1, 9))
    assert losses_of(resumed.history) == losses_of(whole.history)


class SlowSteps:
    """A clock by which a step takes half a second, on every machine."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        for module in (loop, planning):
            monkeypatch.setattr(module, "time", self)
            monkeypatch.setattr(module, "train_step", self.train_step)

    def monotonic(self):
        return self.now

    def train_step(self, run):
        self.now += 0.5
        return train_step(run)


def test_minutes_fix_the_steps_and_leave_no_trace(tmp_path, monkeypatch):
    options = dict(log_every=10, knn_every=0)
    with monkeypatch.context() as patched:
        clock = SlowSteps(patched)
        timed = run(replace(TINY, minutes=0.5), folder=tmp_path, **options)
    steps = timed.history[-1]["step"]
    assert steps == 53  # one step and six more are tried, in 3.5 s of the 30
    assert clock.now == 30
    assert timed.history[-1]["lr"] < 0.3 * SHAPES.lr
    _, about = checkpoint.load(tmp_path)
    assert about["steps"] == steps
    counted = run(replace(TINY, epochs=steps / 4), **options)
    assert torch.equal(weights(timed), weights(counted))


def test_what_does_not_fit_is_refused():
    with pytest.raises(TypeError, match="images: expected a uint8 tensor"):
        run(images=random_images().float())
    with pytest.raises(ValueError, match=r"images: expected shape \(N, 3, H, H\)"):
        run(images=random_images()[:, :1])
    with pytest.raises(ValueError, match="batch_size: expected at most 8, the number of pictures"):
        run(images=random_images(8))
    with pytest.raises(TypeError, match=r"expected a Recipe, such as replearn\.pretrain\.COURSE"):
        pretrain("course", random_images())


# Nothing lost


def saved(folder, steps=2):
    """Return a folder with `last` and `previous`."""
    for step in range(1, steps + 1):
        tensors = {"x": torch.full((1000,), step), "y": torch.tensor(0.5)}
        checkpoint.save(folder, tensors, dict(step=step))
    return folder


def saved_step(folder):
    _, about = checkpoint.load(folder)
    return about["step"]


def test_a_checkpoint_comes_back(tmp_path):
    tensors, about = checkpoint.load(saved(tmp_path))
    assert about["step"] == 2
    assert torch.equal(tensors["x"], torch.full((1000,), 2))
    assert tensors["y"] == 0.5
    assert {path.name for path in tmp_path.iterdir()} == {checkpoint.LAST, checkpoint.PREVIOUS}
    assert checkpoint.load(tmp_path / "empty") is None


def damaged(content, damage):
    if damage == "cut":
        return content[:-7]
    if damage == "empty":
        return b""
    if damage == "text":
        return b"hello"
    content = bytearray(content)
    place = random.Random(damage).randrange(400, len(content))
    content[place] ^= 4  # one bit, anywhere
    return bytes(content)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", *range(5)])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, damage):
    path = saved(tmp_path) / checkpoint.LAST
    path.write_bytes(damaged(path.read_bytes(), damage))
    warning = r"last\.safetensors: damaged.*going on from previous\.safetensors, step 1"
    with pytest.warns(UserWarning, match=warning):
        assert saved_step(tmp_path) == 1
    checkpoint.save(tmp_path, {}, dict(step=5))
    # Still one good one, not pushed out by the damaged one.
    path.write_bytes(b"")
    with pytest.warns(UserWarning, match="step 1"):
        assert saved_step(tmp_path) == 1


def test_two_damaged_checkpoints_are_an_error_each_time(tmp_path):
    saved(tmp_path)
    (tmp_path / checkpoint.PREVIOUS).write_bytes(b"")
    (tmp_path / checkpoint.LAST).write_bytes(b"")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"no good checkpoint.*resume=False \(--no-resume\)"):
            checkpoint.load(tmp_path)


def test_a_foreign_file_is_left_alone(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.ones(3)}, tmp_path / checkpoint.LAST)
    sentence = r"not a checkpoint of this training.*choose another folder"
    with pytest.raises(ValueError, match=sentence):
        run(folder=tmp_path)
    assert (tmp_path / checkpoint.LAST).exists()


def test_nothing_is_unpickled():
    for path in Path(checkpoint.__file__).parent.glob("*.py"):
        text = path.read_text("utf-8")
        assert "pickle" not in text
        assert "torch.load" not in text


def test_a_changed_recipe_is_named(tmp_path):
    run(folder=tmp_path)
    content = (tmp_path / checkpoint.LAST).read_bytes()
    sentence = r"another recipe: lr was 0.002, is now 0.1; seed was 0, is now 1\. Go back"
    with pytest.raises(ValueError, match=sentence):
        run(replace(TINY, lr=0.1, seed=1), folder=tmp_path)
    with pytest.raises(ValueError, match="the pictures are others"):
        run(images=random_images(65), folder=tmp_path)
    assert (tmp_path / checkpoint.LAST).read_bytes() == content
    run(replace(TINY, seed=1), folder=tmp_path, resume=False)
    _, about = checkpoint.load(tmp_path)
    assert about["recipe"]["seed"] == 1


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_keeps_the_last_good_one(tmp_path, monkeypatch, call):
    real = getattr(os, call)
    calls = []

    def full_at_the_ninth(*args):
        calls.append(args)
        if len(calls) == 9:  # replace: between the two renames of a save
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    whole = run()
    monkeypatch.setattr(os, call, full_at_the_ninth)
    sentence = r"could not save the checkpoint of step \d.*disk is full.*saved before is kept"
    with pytest.raises(OSError, match=sentence):
        run(folder=tmp_path, checkpoint_seconds=0)
    monkeypatch.undo()
    assert saved_step(tmp_path) >= 3
    assert not list(tmp_path.glob("*.partial"))
    assert torch.equal(weights(whole), weights(run(folder=tmp_path)))


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full"
)
def test_a_disk_that_is_really_full(tmp_path, monkeypatch):
    def open_full(path, mode):
        return open("/dev/full", mode.replace("x", "w"))

    saved(tmp_path)
    monkeypatch.setattr(files, "open", open_full, raising=False)
    sentence = r"save the checkpoint of step 3, .* MB: the disk is full \([\d,]+ MB free\)"
    with pytest.raises(OSError, match=sentence):
        checkpoint.save(tmp_path, {"x": torch.ones(10_000)}, dict(step=3))
    monkeypatch.undo()
    assert saved_step(tmp_path) == 2
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="could not write the log: the disk is full"):
        append_log(tmp_path, dict(step=1))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("error::UserWarning")  # neither file is ever damaged
def test_killed_while_it_saves(tmp_path):
    tensors = {"x": torch.ones(500_000)}
    chance = random.Random()
    checkpoint.save(tmp_path, tensors, dict(step=0))
    step = 0
    for kill in range(1, 11):
        child = os.fork()
        if child == 0:
            try:
                for _ in range(1000):
                    checkpoint.save(tmp_path, tensors, dict(step=kill))
            finally:
                os._exit(0)
        time.sleep(chance.uniform(0.02, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        before = step
        step = saved_step(tmp_path)
        assert before <= step <= kill
    checkpoint.remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {checkpoint.LAST, checkpoint.PREVIOUS}


def test_a_run_removes_what_a_killed_save_left(tmp_path):
    for name in (".0123456789abcdef.partial", "last.partial"):  # as written now, and by old runs
        (tmp_path / name).write_bytes(bytes(1000))
    run(folder=tmp_path)
    assert not list(tmp_path.glob("*.partial"))


def test_a_second_run_in_a_folder_is_told_who_works_there(tmp_path):
    refused = []

    def start_another(record, history):
        sentence = rf"another run works in this folder: process {os.getpid()} on .*; wait for it"
        with pytest.raises(OSError, match=sentence):
            run(folder=tmp_path, callback=pytest.fail)
        refused.append(record["step"])

    whole = run()
    first = run(folder=tmp_path, callback=start_another, checkpoint_seconds=0)
    assert refused == list(range(1, 9))
    assert torch.equal(weights(first), weights(whole))
    assert not (tmp_path / "run.lock").exists()
    run(folder=tmp_path)  # and now there is nobody


FOREIGN_LINES = b"\xff\xfe\x00 not of a run\n[1]\n{}\n" + b'{"step": "4"}\n' + b"[" * 9000 + b"\n"


def test_a_log_with_foreign_bytes_does_not_block_a_good_checkpoint(tmp_path):
    def stop(record, history):
        if record["step"] == 5:
            raise Stop

    whole = run()
    with pytest.raises(Stop):
        run(folder=tmp_path, callback=stop, checkpoint_seconds=0)
    log = tmp_path / "log.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    damaged = lines[0] + FOREIGN_LINES + b"".join(lines[1:]) + b'{"step": 6, "ep\xff'
    log.write_bytes(damaged)
    assert steps_of(read_log(tmp_path)) == [1, 2, 3, 4, 5]
    with pytest.warns(
        UserWarning, match=r"5 of its lines are no records .* 4 records up to step 4"
    ):
        resumed = run(folder=tmp_path)
    assert torch.equal(weights(resumed), weights(whole))
    assert steps_of(read_log(tmp_path)) == list(range(1, 9))
    assert (tmp_path / "log.damaged.jsonl").read_bytes() == damaged
    # No log at all is no hindrance either.
    log.unlink()
    assert torch.equal(weights(run(folder=tmp_path)), weights(whole))


def test_an_unwritable_folder_is_seen_before_training(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="could not write to this folder"):
        run(folder=tmp_path / "file" / "run", callback=pytest.fail)


def test_a_loss_that_is_not_finite_gets_a_diagnosis(tmp_path):
    recipe = replace(TINY, optimizer="sgd", lr=1e30, warmup=0.0)
    sentence = (
        r"step \d: the loss is not finite.*\(lr 1e\+30, temperature 0.2, torch.float32; "
        r"last finite loss: .*\)\. Try a third of the lr.*checkpoint in .* is kept"
    )
    with pytest.raises(ValueError, match=sentence):
        run(recipe, folder=tmp_path, checkpoint_seconds=0)
    good = checkpoint.load(tmp_path)
    if good is not None:
        tensors, _ = good
        assert all(x.isfinite().all() for x in tensors.values() if x.is_floating_point())


def command(folder, **fields):
    """Return the words of a command that trains a tiny network."""
    options = dict(
        recipe="shapes",
        size=96,
        test_size=40,
        width=4,
        hidden=16,
        out=8,
        batch_size=16,
        epochs=10,
        log_every=1,
        knn_every=5,
        checkpoint_seconds=0,
        device="cpu",
    )
    words = ["pretrain", "--folder", str(folder)]
    for name, value in (options | fields).items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def test_killed_three_times_ends_with_the_same_bits(tmp_path, capsys):
    whole = tmp_path / "whole"
    killed = tmp_path / "killed"
    main(command(whole))
    source = str(Path(models.__file__).parents[1])
    environment = os.environ | dict(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", PYTHONPATH=source)
    start = [sys.executable, "-m", "replearn", *command(killed)]
    chance = random.Random()
    steps = 0
    for _ in range(3):
        process = subprocess.Popen(start, env=environment)
        while len(read_log(killed)) < steps + 10 and process.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        steps = len(read_log(killed))
    assert steps < 60
    main(command(killed))  # from where the third kill left it
    assert (killed / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert without_clock(read_log(killed)) == without_clock(read_log(whole))
    assert len(read_log(killed)) == 60
    assert not list(killed.glob("*.partial"))
    capsys.readouterr()


# The command line and what is shown


def test_problems_end_in_one_sentence(tmp_path, capsys):
    main(command(tmp_path, epochs=1))
    assert capsys.readouterr().out.startswith("6 steps (1 epoch) in ")
    with pytest.raises(SystemExit, match=r"error: .*another recipe: epochs was 1, is now 0\.5"):
        main(command(tmp_path, epochs=0.5))  # more epochs would go on longer
    with pytest.raises(SystemExit, match="error: recipe: crop: expected two rising shares"):
        main(command(tmp_path, crop="[1, 0]"))


def test_the_parser_loads_nothing_heavy():
    code = (
        "import contextlib, sys\n"
        "from replearn.__main__ import main\n"
        "with contextlib.suppress(SystemExit):\n"
        "    main(['--help'])\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'fastapi', 'onnxruntime'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    for name in ("pretrain", "evaluate", "finetune", "export", "serve"):
        assert name in process.stdout


def test_plain_lines_or_silence(monkeypatch, capsys):
    run(knn_every=1)
    assert capsys.readouterr() == ("", "")
    monkeypatch.delenv("REPLEARN_STATIC")
    run(knn_every=1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("pretraining: 8 steps, about")
    assert lines[-1].startswith("pretraining: 100 % · step 8 of 8 · loss ")
    assert "pictures/s · rank" in lines[-1]


def test_logs_forget_what_will_be_done_again(tmp_path):
    for step in (1, 2, 3):
        append_log(tmp_path, dict(step=step, epoch=step, loss=1.0))
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    assert steps_of(restart_log(tmp_path, 2)) == [1, 2]
    assert steps_of(read_log(tmp_path)) == [1, 2]


def test_an_empty_log_cannot_be_drawn():
    with pytest.raises(ValueError, match="found none"):
        plot_log([])


def test_the_core_does_not_know_this_part():
    pattern = re.compile(
        r"(from|import) replearn\.(pretrain|serve)|from replearn import .*\b(pretrain|serve)\b"
    )
    core = [path for path in Path(models.__file__).parent.glob("*.py") if path.stem != "__main__"]
    assert len(core) > 8
    for path in core:
        assert not pattern.search(path.read_text("utf-8")), path.name


# More than one process

CASES = [
    replace(TINY, loss="nt_xent"),
    replace(TINY, loss="decoupled_contrastive"),
    replace(TINY, queue=32),
    replace(TINY, n_views=3),
    replace(TINY, n_views=3, mean_target=True),
    replace(TINY, loss="byol", predictor=8),
    replace(TINY, loss="simsiam", predictor=8, n_views=3, mean_target=True),
]


def joint_views(recipe):
    """Return the views of a joint batch of 12: the recipe's large ones, and a small one."""
    generator = torch.Generator().manual_seed(1)
    sides = [32] * recipe.n_views + [16]
    return [torch.rand((12, 3, side, side), generator=generator) for side in sides]


def outcome(recipe, views):
    """Return the loss of some views, its gradient summed over the processes, and the keys."""
    net = flat_net()
    trained = list(net.parameters())
    others = {}
    if recipe.queue:
        queue = torch.randn(32, 8, generator=torch.Generator().manual_seed(2))
        others = dict(target=flat_net(), queue=queue)
    if recipe.predictor:
        others = dict(predictor=nn.Linear(8, 8))
        trained += others["predictor"].parameters()
    if recipe.loss == "byol":
        others["target"] = nn.Sequential(flat_net(), nn.Linear(8, 8))
    loss, keys = contrast(recipe, net, views, **others)
    loss.backward()
    distributed.sum_gradients(trained)
    gradient = torch.cat([p.grad.flatten() for p in trained])
    return loss.detach(), gradient, torch.cat(keys).detach()


def be_one_of_two(rank, folder):
    """Tell PyTorch in a child process that it is this one of two."""
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=(folder / "port").read_text(),
    )
    torch.set_num_threads(1)


def one_of_two_processes(rank, folder):
    folder = Path(folder)
    be_one_of_two(rank, folder)
    os.environ["REPLEARN_STATIC"] = "1"
    assert distributed.join("cpu") == torch.device("cpu")
    assert distributed.rank() == rank
    half = slice(6 * rank, 6 * rank + 6)
    outcomes = []
    for recipe in CASES:
        outcomes.append(outcome(recipe, [view[half] for view in joint_views(recipe)]))
    result = pretrain(TINY, random_images(), folder=folder / "run", device="cpu", log_every=2)
    with_predictor = new_run(replace(TINY, loss="byol", predictor=8), random_images())
    with_predictor.steps = 4
    for _ in range(2):
        train_step(with_predictor)
    trained = [parameters_of(result.encoder), parameters_of(with_predictor.predictor)]
    torch.save([outcomes, *trained], folder / f"{rank}.pt")
    distributed.leave()


def test_two_processes_train_as_one(tmp_path):
    """Without BatchNorm, which PyTorch cannot join across processes on CPUs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (tmp_path / "port").write_text(str(free.getsockname()[1]))
    torch.multiprocessing.spawn(one_of_two_processes, (str(tmp_path),), nprocs=2)
    outcomes_0, trained_0, predictor_0 = torch.load(tmp_path / "0.pt")
    outcomes_1, trained_1, predictor_1 = torch.load(tmp_path / "1.pt")
    for recipe, *by_process in zip(CASES, outcomes_0, outcomes_1, strict=True):
        expected = outcome(recipe, joint_views(recipe))
        for found in by_process:
            for part, whole in zip(found, expected, strict=True):
                torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-6)
    assert torch.equal(trained_0, trained_1)
    assert torch.equal(predictor_0, predictor_1)
    assert steps_of(read_log(tmp_path / "run")) == [2, 4, 6, 8]
    # BatchNorm and augmentation are those of half batches.
    assert not torch.equal(trained_0, parameters_of(run().encoder))


def one_that_waits(rank, folder):
    """Two processes that wait for each other: with success, for one that fails, in vain."""
    folder = Path(folder)
    be_one_of_two(rank, folder)
    (folder / f"{rank} is here").touch()
    while not (folder / f"{1 - rank} is here").exists():  # it may still import PyTorch
        time.sleep(0.01)
    distributed.STEP_SECONDS = 4
    distributed.join("cpu")
    said = []

    def slow_download():
        if rank == 0:
            time.sleep(6)  # longer than a step may take
        return rank

    def fails():
        raise ValueError("no such data")

    assert distributed.first(slow_download) == rank
    try:
        distributed.first(fails, "to load the data")
    except (OSError, ValueError) as error:
        said.append(f"{type(error).__name__}: {error}")
    if rank == 1:
        try:
            distributed.gather(torch.ones(2, 3))
        except OSError as error:
            said.append(f"{type(error).__name__}: {error}")
        try:
            distributed.first(slow_download, "to load the data")
        except OSError as error:
            said.append(f"{type(error).__name__}: {error}")
    else:
        time.sleep(8)
    (folder / f"{rank}.json").write_text(json.dumps(said))
    os._exit(0)


def test_who_waits_in_vain_says_for_whom(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (tmp_path / "port").write_text(str(free.getsockname()[1]))
    torch.multiprocessing.spawn(one_that_waits, (str(tmp_path),), nprocs=2)
    assert json.loads((tmp_path / "0.json").read_text()) == ["ValueError: no such data"]
    failed, late, ended = json.loads((tmp_path / "1.json").read_text())
    assert failed == (
        "ConnectionError: process 1 of 2 waited for process 0 to load the data, and process 0 has "
        "failed: its own words say why"
    )
    assert late.startswith(
        "TimeoutError: process 1 of 2 waited 4 s for the others' features in vain: another process"
    )
    assert ended.startswith("ConnectionError: process 1 of 2 waited ")
    assert " for process 0 to load the data, and the connection broke: another process" in ended
