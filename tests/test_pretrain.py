"""The training engine of notebook 12: recipes, steps, checkpoints, kills, two processes. Small networks."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from replearn import losses, models
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
    plot_log,
    pretrain,
    read_log,
)
from replearn.pretrain import log as progress
from replearn.pretrain import step as engine
from replearn.pretrain.recipe import differences, from_json, networks, to_json

TINY = replace(SHAPES, width=4, hidden=16, out=8, batch_size=16, epochs=2)
WEIGHTS = "encoder.safetensors"


pytestmark = pytest.mark.usefixtures("one_silent_thread")


def pictures(n=64, side=32):
    return torch.randint(
        0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def weights(result):
    return torch.cat([x.flatten().double() for x in result.encoder.state_dict().values()])


def run(recipe=TINY, images=None, **options):
    return pretrain(
        recipe,
        pictures() if images is None else images,
        **{"device": "cpu", "log_every": 1} | options,
    )


# Recipes


def test_named_recipes_say_what_their_sources_say():
    assert (SOURCE.epochs, SOURCE.batch_size, SOURCE.temperature, SOURCE.hidden) == (
        200,
        256,
        0.1,
        2048,
    )
    assert (SOURCE.crop, SOURCE.jitter, SOURCE.grayscale, SOURCE.blur) == (
        (0.08, 1),
        (0.4, 0.4, 0.4, 0.1),
        0.2,
        0.5,
    )
    assert (LIGHTLY.lr, LIGHTLY.weight_decay, LIGHTLY.optimizer) == (
        6e-2 * LIGHTLY.batch_size / 128,
        5e-4,
        "sgd",
    )
    assert (LIGHTLY.temperature, LIGHTLY.blur, LIGHTLY.hidden, LIGHTLY.out) == (0.5, 0, 512, 128)
    assert (SHAPES.network, SHAPES.crop, SHAPES.jitter) == (
        "small_cnn",
        (0.5, 1),
        (0.4, 0.4, 0.4, 0.5),
    )


@pytest.mark.parametrize("name", NAMED)
def test_recipes_survive_json(name):
    assert from_json(to_json(NAMED[name])) == NAMED[name]


@pytest.mark.parametrize(
    "field, value",
    [
        ("network", "vgg"),
        ("network", "timm:"),
        ("width", 0),
        ("width", True),
        ("epochs", 0),
        ("epochs", float("nan")),
        ("minutes", -1),
        ("batch_size", 1),
        ("batch_size", 2.5),
        ("optimizer", "lars"),
        ("lr", 0),
        ("lr", float("inf")),
        ("weight_decay", -1),
        ("temperature", 0),
        ("crop", (1, 0.2)),
        ("crop", 0.2),
        ("jitter", (1, 1, 1)),
        ("flip", 2),
        ("jitter", (0.4, 0.4, 0.4, 0.6)),
        ("blur", -0.1),
        ("queue", -1),
        ("average", 1),
        ("n_small", 1.5),
        ("seed", "0"),
        ("loss", "byol"),
    ],
)
def test_a_bad_field_is_named(field, value):
    with pytest.raises(ValueError, match=rf"recipe: {field}: expected .*, found"):
        replace(COURSE, **{field: value})


def test_unknown_fields_and_broken_json():
    with pytest.raises(ValueError, match="unknown field tau; known are network"):
        from_json('{"tau": 0.1}')
    for text in ("{", "[1]"):
        with pytest.raises(ValueError, match="expected"):
            from_json(text)
    with pytest.raises(ValueError, match="a queue brings a loss of its own"):
        replace(SHAPES, queue=64, loss="decoupled_contrastive")
    assert differences(COURSE, COURSE) == ""
    assert (
        differences(COURSE, replace(COURSE, lr=1.0, seed=3))
        == "lr was 0.1, is now 1.0; seed was 0, is now 3"
    )


def test_networks_of_timm():
    timm = pytest.importorskip("timm")
    encoder, projector = networks(replace(TINY, network="timm:resnet10t"))
    assert projector(encoder.eval()(torch.rand(2, 3, 32, 32))).shape == (2, 8) and timm
    with pytest.raises(ValueError, match="timm:nothing: no such network"):
        networks(replace(TINY, network="timm:nothing"))


# A step


def test_each_picture_once_an_epoch_in_a_new_order():
    images = torch.arange(64, dtype=torch.uint8).view(64, 1, 1, 1).expand(64, 3, 2, 2)
    epochs = []
    for epoch in range(2):
        steps = [
            engine.pictures_of(TINY, images, 4 * epoch + place, {})[:, 0, 0, 0]
            for place in range(4)
        ]
        epochs.append(torch.cat(steps).tolist())
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(64)) and epochs[0] != epochs[1]


def flat_net(out=8):
    torch.manual_seed(0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, out))


def test_contrast_is_the_loss_of_all_pairs():
    net, views = (
        flat_net(),
        [torch.rand(6, 3, 32, 32) for _ in range(2)] + [torch.rand(6, 3, 16, 16) for _ in range(2)],
    )
    z = [net(view) for view in views]
    for name in ("nt_xent", "decoupled_contrastive"):
        recipe, loss = replace(TINY, loss=name, temperature=0.3), engine.LOSSES[name]
        expected = loss(z[0], z[1], temperature=0.3)
        torch.testing.assert_close(engine.contrast(recipe, net, views[:2])[0], expected)
        more = sum(loss(z[s], z[k], temperature=0.3) for s in (2, 3) for k in (0, 1))
        torch.testing.assert_close(engine.contrast(recipe, net, views)[0], (expected + more) / 5)


def test_contrast_with_a_queue_is_moco():
    net, target, queue = flat_net(), flat_net(), torch.randn(32, 8)
    with torch.no_grad():
        target[2].weight.mul_(0.5).add_(0.1)
    a, b = torch.rand(2, 6, 3, 32, 32)
    loss, _ = engine.contrast(
        replace(TINY, temperature=0.2), net, [a, b], target=target, queue=queue
    )
    expected = [losses.moco(net(q), target(k), queue, temperature=0.2) for q, k in ((a, b), (b, a))]
    torch.testing.assert_close(loss, sum(expected) / 2)
    loss.backward()
    assert all(p.grad is None for p in target.parameters()) and net[2].weight.grad.abs().sum() > 0


def test_the_queue_keeps_the_newest_keys():
    recipe = replace(TINY, queue=40, out=8)
    state = engine.begin(recipe, 32, torch.device("cpu"))
    state.steps, old = 2, state.queue.clone()
    engine.train_step(recipe, state, pictures(), {})
    assert torch.equal(state.queue[32:], old[:8]) and not torch.isin(state.queue[:32], old).any()
    torch.testing.assert_close(state.queue.norm(dim=1), torch.ones(40))
    online, target = (
        torch.cat([p.flatten() for p in net.parameters()]) for net in (state.online, state.target)
    )
    assert 0 < (online - target).abs().max() < 0.01


def test_the_mean_of_past_weights_is_what_is_kept():
    recipe = replace(TINY, average=0.9)
    state = engine.begin(recipe, 32, torch.device("cpu"))
    state.steps, expected = 100, state.online[0].block1[0].weight.clone()
    for step in range(5):
        engine.train_step(recipe, state, pictures(), {})
        expected = torch.lerp(
            state.online[0].block1[0].weight.detach(), expected, min(0.9, (1 + step) / (10 + step))
        )
    assert engine.kept(state) is state.average
    torch.testing.assert_close(state.average[0].block1[0].weight, expected)
    assert not torch.allclose(expected, state.online[0].block1[0].weight, atol=1e-4)
    assert engine.kept(engine.begin(TINY, 32, torch.device("cpu"))).training


def test_one_small_view():
    assert [v.shape[2] for v in engine.make_views(replace(TINY, n_small=1), pictures(4))] == [
        32,
        32,
        16,
    ]


# A run


def test_pretraining_learns_and_tells(tmp_path):
    from replearn.data import shapes

    train, test = shapes.render(256, seed=0), shapes.render(100, seed=1)
    recipe, seen = replace(TINY, width=8, batch_size=64, epochs=12, lr=5e-3), []
    before = torch.get_rng_state()
    result = run(
        recipe,
        train.images,
        folder=tmp_path,
        knn=(train, test),
        knn_every=6,
        log_every=4,
        callback=lambda record, history: seen.append((record["step"], len(history))),
    )
    assert torch.equal(
        torch.get_rng_state(), before
    )  # a notebook's own random numbers stay as they were
    assert result.history == read_log(tmp_path) == read_log(tmp_path / "log.jsonl")
    assert seen == [(4 * i, i) for i in range(1, 13)]
    assert result.history[-1]["loss"] < result.history[0]["loss"] - 0.2
    assert [r["epoch"] for r in result.history if "knn" in r] == [6, 12]
    assert {"std", "effective_rank", "lr", "images_per_second", "seconds"} <= set(
        result.history[-1]
    )
    shipped = models.load(tmp_path / "encoder")  # what others can load
    assert torch.equal(shipped(torch.ones(1, 3, 32, 32)), result.encoder(torch.ones(1, 3, 32, 32)))
    assert plot_log(tmp_path)[1].get_ylabel() == "accuracy (%)"
    again = run(
        recipe, train.images, folder=tmp_path, knn=(train, test), log_every=4
    )  # nothing left to do
    assert again.history == result.history and torch.equal(weights(again), weights(result))


def test_the_seed_is_the_run():
    first, again, other = run(), run(), run(replace(TINY, seed=1))
    assert torch.equal(weights(first), weights(again)) and not torch.equal(
        weights(first), weights(other)
    )
    assert [r["loss"] for r in first.history] == [r["loss"] for r in again.history]


def test_bfloat16_trains_the_same_weights():
    # Autocast keeps copies of the weights until its end: around the whole training it would train on the first weights.
    recipe = replace(TINY, width=8, epochs=6)
    full, half = (run(recipe, dtype=dtype) for dtype in (None, torch.bfloat16))
    assert full.history[-1]["loss"] < full.history[0]["loss"] - 0.05
    assert abs(full.history[-1]["loss"] - half.history[-1]["loss"]) < 0.05
    h = [r.encoder(pictures(16).float() / 255) for r in (full, half)]
    assert torch.nn.functional.cosine_similarity(*h).min() > 0.98
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
    class Stop(Exception):
        pass

    def stop(record, history):
        if record["step"] in (3, 6):
            raise Stop

    recipe, options = replace(TINY, **changes), dict(folder=tmp_path, checkpoint_seconds=0)
    whole = run(recipe)
    with pytest.raises(Stop):
        run(recipe, callback=stop, **options)
    with pytest.raises(Stop):  # goes on from the checkpoint of step 2, does step 3 again
        run(recipe, callback=lambda r, h: r["step"] == 6 and stop(r, h), **options)
    resumed = run(recipe, **options)
    assert torch.equal(weights(whole), weights(resumed))
    assert [r["step"] for r in resumed.history] == list(range(1, 9))
    assert [r["loss"] for r in resumed.history] == [r["loss"] for r in whole.history]


def test_minutes_fix_the_steps_and_leave_no_trace(tmp_path):
    run()  # the first use of an optimizer imports half of PyTorch
    start = time.monotonic()
    timed = run(replace(TINY, minutes=0.08), folder=tmp_path, log_every=10, knn_every=0)
    took, steps = time.monotonic() - start, timed.history[-1]["step"]
    assert steps > 2 and 2 < took < 20 and timed.history[-1]["lr"] < 0.3 * SHAPES.lr
    assert checkpoint.load(tmp_path)[1]["steps"] == steps
    counted = run(replace(TINY, epochs=steps / 4), log_every=10, knn_every=0)
    assert torch.equal(weights(timed), weights(counted))


def test_what_does_not_fit_is_refused(tmp_path):
    for images, error in (
        (pictures().float(), TypeError),
        (pictures()[:, :1], ValueError),
        (pictures(8), ValueError),
    ):
        with pytest.raises(error, match="expected"):
            run(images=images)
    with pytest.raises(TypeError, match=r"expected a Recipe, such as replearn\.pretrain\.COURSE"):
        pretrain("course", pictures())


# Nothing lost


def saved(folder, steps=2):
    """A folder with `last` and `previous`."""
    for step in range(1, steps + 1):
        checkpoint.save(
            folder, {"x": torch.full((1000,), step), "y": torch.tensor(0.5)}, dict(step=step)
        )
    return folder


def test_a_checkpoint_comes_back(tmp_path):
    tensors, about = checkpoint.load(saved(tmp_path))
    assert (
        about["step"] == 2
        and torch.equal(tensors["x"], torch.full((1000,), 2))
        and tensors["y"] == 0.5
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == [checkpoint.LAST, checkpoint.PREVIOUS]
    assert checkpoint.load(tmp_path / "empty") is None


@pytest.mark.parametrize("damage", ["cut", "empty", "text", *range(5)])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, damage):
    path = saved(tmp_path) / checkpoint.LAST
    content = bytearray(path.read_bytes())
    if isinstance(damage, int):  # one bit, anywhere
        content[random.Random(damage).randrange(400, len(content))] ^= 4
    path.write_bytes(
        {"cut": content[:-7], "empty": b"", "text": b"hello"}.get(damage, bytes(content))
    )
    with pytest.warns(
        UserWarning,
        match=r"last\.safetensors: damaged.*going on from previous\.safetensors, step 1",
    ):
        assert checkpoint.load(tmp_path)[1]["step"] == 1
    checkpoint.save(tmp_path, {}, dict(step=5))
    (tmp_path / checkpoint.LAST).write_bytes(
        b""
    )  # still one good one, not pushed out by the damaged one
    with pytest.warns(UserWarning, match="step 1"):
        assert checkpoint.load(tmp_path)[1]["step"] == 1


def test_two_damaged_checkpoints_are_an_error_each_time(tmp_path):
    for name in (checkpoint.LAST, checkpoint.PREVIOUS):
        (saved(tmp_path) / name).write_bytes(b"")
    (tmp_path / checkpoint.LAST).write_bytes(b"")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"no good checkpoint.*resume=False \(--no-resume\)"):
            checkpoint.load(tmp_path)


def test_a_foreign_file_is_left_alone(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.ones(3)}, tmp_path / checkpoint.LAST)
    with pytest.raises(
        ValueError, match=r"not a checkpoint of this training.*choose another folder"
    ):
        run(folder=tmp_path)
    assert (tmp_path / checkpoint.LAST).exists()


def test_nothing_is_unpickled():
    for path in Path(checkpoint.__file__).parent.glob("*.py"):
        text = path.read_text("utf-8").replace("unpickle", "")
        assert "pickle" not in text and "torch.load" not in text


def test_a_changed_recipe_is_named(tmp_path):
    run(folder=tmp_path)
    content = (tmp_path / checkpoint.LAST).read_bytes()
    with pytest.raises(
        ValueError,
        match=r"another recipe: lr was 0.002, is now 0.1; seed was 0, is now 1\. Go back",
    ):
        run(replace(TINY, lr=0.1, seed=1), folder=tmp_path)
    with pytest.raises(ValueError, match="the pictures are others"):
        run(images=pictures(65), folder=tmp_path)
    assert (tmp_path / checkpoint.LAST).read_bytes() == content
    run(replace(TINY, seed=1), folder=tmp_path, resume=False)
    assert checkpoint.load(tmp_path)[1]["recipe"]["seed"] == 1


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_keeps_the_last_good_one(tmp_path, monkeypatch, call):
    real, calls = getattr(os, call), []

    def full(*args):
        calls.append(args)
        if len(calls) == 9:  # replace: between the two renames of a save
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    whole = run()
    monkeypatch.setattr(os, call, full)
    with pytest.raises(
        OSError,
        match=r"could not save the checkpoint of step \d.*disk is full.*saved before is kept",
    ):
        run(folder=tmp_path, checkpoint_seconds=0)
    monkeypatch.undo()
    assert checkpoint.load(tmp_path)[1]["step"] >= 3 and not list(tmp_path.glob("*.partial"))
    assert torch.equal(weights(whole), weights(run(folder=tmp_path)))


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full"
)
def test_a_disk_that_is_really_full(tmp_path):
    (saved(tmp_path) / "last.partial").symlink_to("/dev/full")
    with pytest.raises(
        OSError, match=r"save the checkpoint of step 3, .* MB: the disk is full \([\d,]+ MB free\)"
    ):
        checkpoint.save(tmp_path, {"x": torch.ones(10_000)}, dict(step=3))
    assert checkpoint.load(tmp_path)[1]["step"] == 2
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="could not write the log: the disk is full"):
        progress.append_log(tmp_path, dict(step=1))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("error::UserWarning")  # neither file is ever damaged
def test_killed_while_it_saves(tmp_path):
    tensors, chance = {"x": torch.ones(500_000)}, random.Random()
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
        before, step = step, checkpoint.load(tmp_path)[1]["step"]
        assert before <= step <= kill


def test_an_unwritable_folder_is_seen_before_training(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="could not write to this folder"):
        run(folder=tmp_path / "file" / "run", callback=pytest.fail)


def test_a_loss_that_is_not_finite_gets_a_diagnosis(tmp_path):
    recipe = replace(TINY, optimizer="sgd", lr=1e30, warmup=0.0)
    with pytest.raises(
        ValueError,
        match=r"step \d: the loss is not finite.*\(lr 1e\+30, temperature 0.2, torch.float32"
        r"; last finite loss: .*\)\. Try a third of the lr.*checkpoint in .* is kept",
    ):
        run(recipe, folder=tmp_path, checkpoint_seconds=0)
    found = checkpoint.load(tmp_path)
    assert found is None or all(
        x.isfinite().all() for x in found[0].values() if x.is_floating_point()
    )


def command(folder, **fields):
    tiny = (
        dict(
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
        | fields
    )
    options = [
        word for name, value in tiny.items() for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    return ["pretrain", "--folder", str(folder), *options]


def test_killed_three_times_ends_with_the_same_bits(tmp_path, capsys):
    main(command(tmp_path / "whole"))
    chance, log, steps = random.Random(), tmp_path / "killed" / "log.jsonl", [0]
    source = str(Path(models.__file__).parents[1])
    environment = os.environ | dict(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", PYTHONPATH=source)
    start = [sys.executable, "-m", "replearn", *command(log.parent)]
    for _ in range(3):
        process, seen = subprocess.Popen(start, env=environment), steps[-1]
        while len(read_log(log)) < seen + 10 and process.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        steps.append(len(read_log(log)))
    assert steps[3] < 60
    main(command(log.parent))  # from where the third kill left it
    assert (log.parent / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
    timeless = [
        [
            {k: v for k, v in r.items() if k not in ("seconds", "images_per_second")}
            for r in read_log(folder)
        ]
        for folder in (log.parent, tmp_path / "whole")
    ]
    assert timeless[0] == timeless[1] and len(timeless[0]) == 60
    capsys.readouterr()


# The command line and what is shown


def test_problems_end_in_one_sentence(tmp_path, capsys):
    main(command(tmp_path, epochs=1))
    assert json.loads(capsys.readouterr().out)["step"] == 6
    with pytest.raises(SystemExit, match=r"error: .*another recipe: epochs was 1, is now 2"):
        main(command(tmp_path, epochs=2))
    with pytest.raises(SystemExit, match="error: recipe: crop: expected two rising shares"):
        main(command(tmp_path, crop="[1, 0]"))


def test_plain_lines_or_silence(monkeypatch, capsys):
    run(knn_every=1)
    assert capsys.readouterr() == ("", "")
    monkeypatch.delenv("REPLEARN_STATIC")
    run(knn_every=1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("8 steps, about") and lines[-1].startswith("step 8/8 · loss ")
    assert "pictures/s · rank" in lines[-1] and len(lines) == 3


def test_logs_forget_what_will_be_done_again(tmp_path):
    for step in (1, 2, 3):
        progress.append_log(tmp_path, dict(step=step, epoch=step, loss=1.0))
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    assert (
        [r["step"] for r in progress.restart_log(tmp_path, 2)]
        == [1, 2]
        == [r["step"] for r in read_log(tmp_path)]
    )
    with pytest.raises(ValueError, match="found none"):
        plot_log([])
    assert (
        progress.duration(40) == "40 s"
        and progress.duration(600) == "10 min"
        and progress.duration(9000) == "2.5 h"
    )


def test_the_core_does_not_know_this_part():
    for path in Path(models.__file__).parent.glob("*.py"):
        assert "simclr import" not in path.read_text(
            "utf-8"
        ) and "import simclr" not in path.read_text("utf-8")


# More than one process


def _views():
    generator = torch.Generator().manual_seed(1)
    return [torch.rand((12, 3, side, side), generator=generator) for side in (32, 32, 16)]


def _gradient(recipe, views):
    net, queue = flat_net(), torch.randn(32, 8, generator=torch.Generator().manual_seed(2))
    loss, keys = engine.contrast(
        recipe, net, views, **(dict(target=flat_net(), queue=queue) if recipe.queue else {})
    )
    loss.backward()
    distributed.sum_gradients(net.parameters())
    return (
        loss.detach(),
        torch.cat([p.grad.flatten() for p in net.parameters()]),
        torch.cat(keys).detach(),
    )


CASES = [
    replace(TINY, loss="nt_xent"),
    replace(TINY, loss="decoupled_contrastive"),
    replace(TINY, queue=32),
]


def _process(rank, folder):
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        REPLEARN_STATIC="1",
        MASTER_PORT=(Path(folder) / "port").read_text(),
    )
    torch.set_num_threads(1)
    assert distributed.join("cpu") == torch.device("cpu") and distributed.rank() == rank
    found = [_gradient(recipe, [v[6 * rank : 6 * rank + 6] for v in _views()]) for recipe in CASES]
    result = pretrain(TINY, pictures(), folder=Path(folder) / "run", device="cpu", log_every=2)
    trained = torch.cat([p.detach().flatten() for p in result.encoder.parameters()])
    torch.save([found, trained], Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_train_as_one(tmp_path):
    """Without BatchNorm, which PyTorch cannot join across processes on CPUs."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (tmp_path / "port").write_text(str(free.getsockname()[1]))
    torch.multiprocessing.spawn(_process, (str(tmp_path),), nprocs=2)
    (found_0, trained_0), (found_1, trained_1) = (
        torch.load(tmp_path / f"{rank}.pt") for rank in range(2)
    )
    for recipe, *found in zip(CASES, found_0, found_1, strict=True):
        expected = _gradient(recipe, _views())
        for one in found:
            for part, whole in zip(one, expected, strict=True):
                torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-6)
    assert torch.equal(trained_0, trained_1)
    assert [r["step"] for r in read_log(tmp_path / "run")] == [2, 4, 6, 8]
    alone = torch.cat([p.detach().flatten() for p in run().encoder.parameters()])
    assert not torch.equal(trained_0, alone)  # BatchNorm and augmentation are those of half batches


def test_recipes_are_frozen():
    with pytest.raises(AttributeError):
        Recipe().lr = 1.0
