"""A finished run that goes on longer, and what watches a run without touching it."""

import re
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from replearn import models
from replearn.__main__ import main
from replearn.data import ImageSet, shapes
from replearn.pretrain import SHAPES, TensorBoard, checkpoint, pretrain, read_log
from replearn.pretrain.online import OnlineProbe
from replearn.train import cosine

TINY = replace(SHAPES, width=4, hidden=16, out=8, batch_size=16, epochs=2, warmup=0.25)
CLOCK = ("seconds", "images_per_second")

pytestmark = pytest.mark.usefixtures("one_silent_thread")


class Stop(Exception):
    """What a person does who stops a run."""


def stop_at(step):
    def callback(record, history):
        if record["step"] == step:
            raise Stop

    return callback


def drawn(n=64):
    return shapes.render(n, seed=0)


def run(recipe=TINY, **options):
    defaults = dict(device="cpu", log_every=1, checkpoint_seconds=0)
    return pretrain(recipe, drawn().images, **defaults | options)


def same_weights(one, other):
    ours = one.encoder.state_dict()
    theirs = other.encoder.state_dict()
    return all(torch.equal(x, theirs[name]) for name, x in ours.items())


def without_clock(history):
    return [{k: v for k, v in record.items() if k not in CLOCK} for record in history]


# Longer


def test_a_finished_run_goes_on_longer_and_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("REPLEARN_STATIC")
    first = run(folder=tmp_path)
    capsys.readouterr()
    result = run(replace(TINY, epochs=5), folder=tmp_path)
    said = capsys.readouterr().err
    sentence = (
        f"{tmp_path}: the run of 8 steps (2 epochs) was finished; it goes on longer, from its last "
        "weights to step 20 (5 epochs), with a new rise and fall of the learning rate"
    )
    assert said.count(sentence) == 1
    history = read_log(tmp_path)
    assert history == result.history
    assert history[:8] == first.history  # nothing of the first stretch is lost
    assert [record["step"] for record in history] == list(range(1, 21))
    assert [record.get("stretch", 1) for record in history] == 8 * [1] + 12 * [2]
    # A cosine over 8 steps, and then a new one over 12, each with its rise.
    expected = [TINY.lr * cosine(step, 8, warmup=2) for step in range(8)]
    expected += [TINY.lr * cosine(step, 12, warmup=3) for step in range(12)]
    assert [record["lr"] for record in history] == pytest.approx(expected, rel=1e-12)
    card = models.card(tmp_path)
    assert card["earlier"] == [{"epochs": 2, "steps": 8}]
    assert card["steps"] == 20
    assert card["recipe"]["epochs"] == 5
    assert not same_weights(first, result)
    # Once more the same: nothing is left to do. Then a third stretch.
    assert same_weights(run(replace(TINY, epochs=5), folder=tmp_path), result)
    third = run(replace(TINY, epochs=6), folder=tmp_path)
    assert models.card(tmp_path)["earlier"][1] == {"epochs": 5, "steps": 20}
    assert third.history[-1]["stretch"] == 3
    assert third.history[-1]["step"] == 24


def test_it_begins_with_the_last_weights_and_moments(tmp_path):
    """With a learning rate that stays (almost) the same, two stretches are one run."""
    run(folder=tmp_path)
    tensors, _ = checkpoint.load(tmp_path)
    with pytest.raises(Stop):
        run(replace(TINY, epochs=3), folder=tmp_path, callback=stop_at(9))
    again, about = checkpoint.load(tmp_path)
    # Stopped before anything was saved: the checkpoint is still that of the finished run.
    assert about["step"] == 8
    assert all(torch.equal(x, again[name]) for name, x in tensors.items())
    with pytest.raises(Stop):
        run(replace(TINY, epochs=3), folder=tmp_path, callback=stop_at(10))
    moved, about = checkpoint.load(tmp_path)
    assert about["step"] == 9
    assert about["earlier"] == [{"epochs": 2, "steps": 8}]
    name = "online.0.block1.0.weight"
    change = (moved[name] - tensors[name]).abs().max()
    assert 0 < change < 2 * TINY.lr  # AdamW moves a weight by about the rate
    steps = [x.item() for key, x in moved.items() if re.fullmatch(r"optimizer\.\d+\.step", key)]
    assert set(steps) == {9.0}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(optimizer="sgd", lr=0.1),
        dict(average=0.9, queue=32),
        dict(loss="byol", predictor=8, n_views=3, mean_target=True),
    ],
)
def test_a_longer_run_that_is_stopped_ends_with_the_same_weights(tmp_path, changes):
    recipe = replace(TINY, **changes)
    longer = replace(recipe, epochs=4)
    run(recipe, folder=tmp_path / "whole")
    whole = run(longer, folder=tmp_path / "whole")
    folder = tmp_path / "stopped"
    with pytest.raises(Stop):
        run(recipe, folder=folder, callback=stop_at(5))
    run(recipe, folder=folder)
    for step in (10, 14):
        with pytest.raises(Stop):
            run(longer, folder=folder, callback=stop_at(step))
    resumed = run(longer, folder=folder)
    assert same_weights(resumed, whole)
    assert without_clock(resumed.history) == without_clock(whole.history)


def test_only_more_of_a_finished_run_goes_on(tmp_path):
    with pytest.raises(Stop):
        run(folder=tmp_path, callback=stop_at(5))
    with pytest.raises(ValueError, match=r"step 4, .*epochs was 2, is now 3\. Finish it with that"):
        run(replace(TINY, epochs=3), folder=tmp_path)
    run(folder=tmp_path)
    content = (tmp_path / checkpoint.LAST).read_bytes()
    for changes in (dict(epochs=1), dict(epochs=2.01), dict(minutes=1e-6)):
        with pytest.raises(
            ValueError, match="is finished, and this is no longer one: ask for more"
        ):
            run(replace(TINY, **changes), folder=tmp_path)
    with pytest.raises(ValueError, match=r"epochs was 2, is now 3.*Go back to that recipe"):
        run(replace(TINY, epochs=3, lr=0.1), folder=tmp_path)
    with pytest.raises(ValueError, match="Go back to that recipe"):
        pretrain(replace(TINY, epochs=3), drawn(48).images, folder=tmp_path, device="cpu")
    assert (tmp_path / checkpoint.LAST).read_bytes() == content


def test_minutes_can_be_raised_too(tmp_path):
    first = run(replace(TINY, minutes=1e-3), folder=tmp_path)
    longer = replace(TINY, minutes=0.05)
    result = run(longer, folder=tmp_path)
    (earlier,) = models.card(tmp_path)["earlier"]
    assert earlier == {"epochs": 2, "minutes": 1e-3, "steps": first.history[-1]["step"]}
    assert result.history[-1]["step"] > first.history[-1]["step"]
    # Minutes to epochs, as far as they are more.
    steps = result.history[-1]["step"]
    run(replace(TINY, epochs=steps / 4 + 1), folder=tmp_path)
    assert len(models.card(tmp_path)["earlier"]) == 2


@pytest.mark.parametrize(
    "earlier",
    [
        {},
        [{}],
        [{"epochs": 2}],
        [{"epochs": 2, "steps": 0}],
        [{"epochs": 2, "steps": 99}],
        [{"epochs": 2, "steps": 9}, {"epochs": 3, "steps": 9}],
        [{"epochs": "2", "steps": 8}],
        [{"epochs": 2, "minutes": -1, "steps": 8}],
        [{"epochs": 2, "steps": 12}],
    ],
)
def test_a_history_of_another_form_is_refused(tmp_path, earlier):
    run(folder=tmp_path)
    run(replace(TINY, epochs=3), folder=tmp_path)
    tensors, about = checkpoint.load(tmp_path)
    checkpoint.save(tmp_path, tensors, about | {"earlier": earlier})
    with pytest.raises(ValueError, match=r"earlier.*expected .*found .*--no-resume"):
        run(replace(TINY, epochs=3), folder=tmp_path)


# A probe on the way


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(optimizer="sgd", lr=0.1),
        dict(queue=48, n_small=2),
        dict(average=0.9),
        dict(loss="byol", predictor=8, n_views=3, n_small=1),
    ],
    ids=["adamw", "sgd", "moco, multi-crop", "average", "byol, many views"],
)
def test_the_encoder_never_feels_the_probe(tmp_path, changes):
    recipe = replace(TINY, **changes)
    without = run(recipe)
    watched = run(recipe, labels=drawn().labels, folder=tmp_path)
    assert same_weights(watched, without)
    for name, x in without.projector.state_dict().items():
        assert torch.equal(x, watched.projector.state_dict()[name])
    for record, bare in zip(watched.history, without.history, strict=True):
        assert 0 <= record.pop("online") <= 1
        assert without_clock([record]) == without_clock([bare])
    # And nobody listens any more.
    assert not watched.encoder._forward_hooks
    assert not any(module._forward_hooks for module in watched.encoder.modules())


def test_bfloat16_and_the_probe():
    labels = drawn().labels
    without = run(dtype=torch.bfloat16)
    watched = run(dtype=torch.bfloat16, labels=labels)
    assert same_weights(watched, without)


def test_a_stopped_run_goes_on_with_its_probe(tmp_path):
    labels = drawn().labels
    whole = run(labels=labels)
    with pytest.raises(Stop):
        run(labels=labels, folder=tmp_path, callback=stop_at(4))
    resumed = run(labels=labels, folder=tmp_path)
    assert without_clock(resumed.history) == without_clock(whole.history)
    # Somebody may also stop watching, and begin again.
    longer = run(replace(TINY, epochs=3), folder=tmp_path)
    assert "online" not in longer.history[-1]
    watched = run(replace(TINY, epochs=4), folder=tmp_path, labels=labels)
    assert "online" in watched.history[-1]
    tensors, about = checkpoint.load(tmp_path)
    del tensors["probe.bias.exp_avg"]
    checkpoint.save(tmp_path, tensors, about)
    with pytest.raises(ValueError, match=r"expected a tensor .probe\.bias\.exp_avg., found none"):
        run(replace(TINY, epochs=4), folder=tmp_path, labels=labels)


def test_the_probe_is_a_softmax_regression_by_adam():
    """Steps written out, with features that do not change."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (40,), generator=generator)
    centers = torch.randn(3, 8, generator=generator)
    images = 5 + 3 * (centers[labels] + 0.3 * torch.randn(40, 8, generator=generator))
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(8, 8)).train()
    probe = OnlineProbe(encoder, labels, classes=3, dim=8)
    w = torch.zeros(3, 8, requires_grad=True)
    b = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([w, b], lr=3e-3)
    for step in range(200):
        rows = torch.randperm(40, generator=generator)[:20]
        views = torch.cat([images[rows], -images[rows]])
        encoder.eval()(torch.zeros(7, 8))  # a measurement does not count
        encoder.train()
        h = encoder(views)
        encoder(-images[rows])  # nor do multi-crop's small views, which come later
        probe.learn(rows)
        first = h[:20].detach()
        x = (first - first.mean(0)) / (first.std(0, correction=0) + 1e-5)
        logits = x @ w.T + b
        right = (logits.argmax(1) == labels[rows]).double().mean().item()
        assert probe.accuracy() == pytest.approx(right)
        if step == 0:  # judged before it has learned: all are taken for class 0
            assert right == (labels[rows] == 0).double().mean().item()
        optimizer.zero_grad()
        F.cross_entropy(logits, labels[rows]).backward()
        optimizer.step()
    torch.testing.assert_close(probe.weight, w)
    torch.testing.assert_close(probe.bias, b)
    assert right > 0.9
    assert encoder[1].weight.grad is None


@pytest.mark.parametrize("backend", ["eager"])
def test_a_compiled_encoder_is_listened_to_as_well(backend, monkeypatch):
    from replearn.pretrain import step
    from replearn.pretrain.loop import _online_probe

    images = drawn()
    runs = []
    for compiled in (False, True):
        made = step.new_run(TINY, images.images)
        made.steps = 8
        made.probe = _online_probe(made, images.labels)
        if compiled:
            made.forward = torch.compile(made.online, backend=backend)
        accuracies = []
        for _ in range(3):
            step.train_step(made)
            accuracies.append(made.probe.accuracy())
        runs.append((accuracies, made.probe.weight.detach()))
    (plain, weight), (compiled, compiled_weight) = runs
    assert plain == compiled
    torch.testing.assert_close(weight, compiled_weight, atol=1e-3, rtol=1e-2)


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"labels: expected shape \(64,\), one label a row"):
        run(labels=torch.zeros(5, dtype=torch.long))
    with pytest.raises(TypeError, match="labels: expected an integer tensor"):
        run(labels=torch.zeros(64))


def test_the_line_of_progress_shows_the_probe(monkeypatch, capsys):
    monkeypatch.delenv("REPLEARN_STATIC")
    images = ImageSet(drawn().images, drawn().labels, shapes.SHAPES)
    run(labels=images.labels, knn=(images, images))
    assert re.search(r"probe \d+\.\d% · kNN \d+\.\d%", capsys.readouterr().err)


# TensorBoard


def command(folder):
    words = "pretrain --recipe shapes --size 64 --test-size 40 --width 4 --hidden 16 --out 8"
    words += " --batch-size 16 --epochs 1 --log-every 1 --device cpu --tensorboard"
    return [*words.split(), *(["--folder", str(folder)] if folder else [])]


def test_without_the_package_there_is_a_sentence_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as if it were not installed
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    sentence = r"error: tensorboard: expected the package to be installed; run pip install"
    with pytest.raises(SystemExit, match=sentence):
        main(command(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_without_a_folder_there_is_a_sentence(monkeypatch):
    with pytest.raises(SystemExit, match="error: --tensorboard: expected a --folder"):
        main(command(None))


def test_event_files_hold_the_numbers_of_the_log(tmp_path, capsys):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    main(command(tmp_path))
    capsys.readouterr()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    history = read_log(tmp_path)
    assert {"loss", "lr", "online", "knn", "effective_rank"} <= set(events.Tags()["scalars"])
    for name in ("loss", "online"):
        written = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in written] == [1, 2, 3, 4]
        assert [value for _, value in written] == pytest.approx(
            [record[name] for record in history], rel=1e-6
        )


def test_event_files_of_a_stopped_run_have_each_step_once(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def and_stop(board):
        def callback(record, history):
            board(record, history)
            if record["step"] == 5:
                raise Stop

        return callback

    with pytest.raises(Stop), TensorBoard(tmp_path / "tensorboard") as board:
        run(folder=tmp_path, callback=and_stop(board))
    with TensorBoard(tmp_path / "tensorboard") as board:
        run(folder=tmp_path, callback=board)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 9))
    losses = [record["loss"] for record in read_log(tmp_path)]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(losses, rel=1e-6)
