"""Devices: nothing in a training step waits for one, none is asked for what it does not have.

tests/test_device.py runs this file in a process of its own, since PyTorch learns of a new device
only before its first backward pass, and for good.

    python -m pytest tests/device_cases.py
"""

import re
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch
from fake_device import NAME, FakeDevice, fake_device
from torch import nn

from replearn import _device, augment, losses, metrics, models, probe, train
from replearn.__main__ import main
from replearn.audit import audit
from replearn.pretrain import SHAPES, evaluation, pretrain
from replearn.pretrain.ahead import ViewsAhead, put_back, steps_at_once
from replearn.pretrain.step import (
    Batches,
    make_views,
    new_run,
    seed_of,
    train_step,
    views_of_steps,
    why_eager,
)

TINY = replace(SHAPES, width=2, hidden=8, out=4, batch_size=8, epochs=2)

pytestmark = pytest.mark.usefixtures("one_silent_thread")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_images(n=8, side=32):
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=seeded())


@pytest.fixture
def gpu(monkeypatch):
    """A fake device that is like CUDA: pinned memory, fused optimizers."""
    fake_device()
    monkeypatch.setattr(_device, "LIKE_CUDA", {"cuda", NAME})
    with FakeDevice() as fake:
        yield fake


@pytest.fixture
def apple(monkeypatch):
    """A fake device without float64."""
    fake_device()
    monkeypatch.setattr(_device, "WITHOUT_FLOAT64", {"mps", NAME})
    with FakeDevice(has_float64=False) as fake:
        yield fake


# --- the fake device sees what it is there for ---


PLANTED = {
    "item": lambda x: x.sum().item(),
    "if": lambda x: bool(x.sum() > 0),
    "to the CPU": lambda x: x.cpu(),
    "nonzero": lambda x: x.nonzero(),
    "a mask as an index": lambda x: x[x > 0],
    "masked_select": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
    "unpinned": lambda x: torch.ones(3).to(x.device, non_blocking=True),
    "blocking": lambda x: torch.ones(3).to(x.device),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_wait_is_seen(gpu, name):
    x = _device.send(torch.ones(4), gpu.device)
    with gpu.none_allowed():
        (x * 2 + 1).sum()
    with pytest.raises(AssertionError, match=r"1 waits for the device.*device_cases\.py"):
        with gpu.none_allowed():
            PLANTED[name](x)


def test_numbers_of_the_program_cannot_get_there_unseen(gpu):
    """On a GPU these are copies that wait; the fake one does not have them at all."""
    x = _device.send(torch.ones(4), gpu.device)
    for make in (x.new_tensor, lambda numbers: torch.tensor(numbers, device=gpu.device)):
        with pytest.raises(NotImplementedError, match=NAME):
            make((1.0, 2.0))


def test_outside_of_its_block_the_device_is_not_there():
    fake_device()
    assert torch.get_device_module(NAME).device_count() == 0
    with torch.random.fork_rng():
        torch.manual_seed(1)
    with pytest.raises(ValueError, match="device: expected one of this machine"):
        _device.named(NAME)


def test_a_pinned_copy_is_no_wait(gpu):
    with gpu.none_allowed():
        x = _device.send(torch.ones(4), gpu.device)
    assert x.device == gpu.device


def test_tensors_of_two_devices_are_refused(gpu):
    x = _device.send(torch.ones(4), gpu.device)
    with pytest.raises(RuntimeError, match="expected all tensors on one device"):
        x + torch.ones(4)


def test_float64_is_refused_where_there_is_none(apple):
    x = torch.ones(4).to(apple.device)
    with pytest.raises(TypeError, match="float64"):
        x.double()
    assert _device.double(x).device.type == "cpu"


# --- augmentation ---

RANDOM = {
    "crop": augment.random_resized_crop,
    "flip": augment.random_horizontal_flip,
    "jitter": augment.color_jitter,
    "grayscale": augment.random_grayscale,
    "blur": augment.gaussian_blur,
    "two_views": partial(augment.two_views, blur=0.5),
    "strong": partial(augment.two_views, jitter=(0.8, 2.0, 0.8, 0.5), crop=(0.05, 1.0), size=20),
    "plain": partial(augment.two_views, jitter=0, crop=None, grayscale=0, flip=0),
    "one of four": partial(augment.two_views, jitter=(0.0, 0.4, 0.0, 0.1)),
    "multi_crop": partial(augment.multi_crop, n_small=2, blur=0.5),
}


def joined(views):
    """Views of one size or several as one vector."""
    views = [views] if isinstance(views, torch.Tensor) else views
    return torch.cat([view.flatten() for view in views])


@pytest.mark.parametrize("name", RANDOM)
def test_views_without_a_wait_are_those_of_a_cpu(gpu, name):
    images = make_images(24)
    there = images.to(gpu.device)
    for seed in range(3):
        expected = joined(RANDOM[name](images, generator=seeded(seed)))
        with gpu.none_allowed():
            views = joined(RANDOM[name](there, generator=seeded(seed)))
        assert views.device == gpu.device
        assert (views.cpu() - expected).abs().max() < 1e-6


def test_parameters_go_over_in_one_copy(gpu):
    images = make_images().to(gpu.device)
    copies = Counter()
    send = gpu.computed

    def counted(function, args, kwargs):
        if function is torch.ops.aten._to_copy.default and kwargs.get("device") == gpu.device:
            copies["to the device"] += 1
        return send(function, args, kwargs)

    gpu.computed = counted
    augment.two_views(images, blur=0.5)
    assert copies["to the device"] == 1


@pytest.mark.parametrize("name", ["two_views", "strong", "plain", "one of four"])
def test_both_ways_to_a_view_give_the_same(name):
    """The way without masks and the way with them, both on a CPU."""
    images = make_images(64)
    two_views = RANDOM[name]
    for seed in range(5):
        expected = torch.cat(two_views(images, generator=seeded(seed)))
        generator = seeded(seed)
        blur = bool(two_views.keywords.get("blur"))
        numbers = [augment.draw_views(64, blur=blur, generator=generator) for _ in range(2)]
        views = augment.views_from(images, torch.cat(numbers), **two_views.keywords)
        assert (views - expected).abs().max() < 1e-6


@pytest.mark.parametrize("shape", [(8, 34), (7, 35), (0, 35), (35,)])
def test_numbers_of_other_images_are_refused(shape):
    with pytest.raises(ValueError, match="numbers: expected a multiple of 8 rows of 35"):
        augment.views_from(make_images(), torch.zeros(shape, dtype=torch.float64))


# --- checks that nobody waits for ---


def test_a_check_is_put_off_and_not_forgotten(gpu):
    z = torch.randn(8, 4).to(gpu.device)
    bad = torch.full((8, 4), torch.nan).to(gpu.device)
    findings = _device.Findings()
    with _device.deferring(findings):
        with gpu.none_allowed():
            losses.nt_xent(z, z)
        findings.look()
        with gpu.none_allowed():
            losses.nt_xent(z, bad)
            losses.nt_xent(z, z)
        with pytest.raises(ValueError, match="z2: expected finite values"):
            findings.look()
        findings.look()  # said once


def test_the_other_checks_of_a_loss_are_put_off_too(gpu):
    z = torch.randn(8, 4).to(gpu.device)
    cases = {
        "can be squared": lambda: losses.nt_xent(z * 1e30, z),
        "temperature: expected": lambda: losses.nt_xent(z, z, temperature=-z[0, 0].abs()),
        r"images: expected floats in \[0, 1\]": lambda: augment.two_views(
            torch.ones_like(z).expand(2, 3, 8, 4) * 2
        ),
    }
    for sentence, call in cases.items():
        findings = _device.Findings()
        with _device.deferring(findings), gpu.none_allowed():
            call()
        with pytest.raises(ValueError, match=sentence):
            findings.look()


def test_outside_of_a_step_and_on_a_cpu_nothing_is_put_off(gpu):
    bad = torch.full((8, 4), torch.nan)
    with pytest.raises(ValueError, match="z1: expected finite values"):
        losses.nt_xent(bad.to(gpu.device), bad.to(gpu.device))
    with _device.deferring(_device.Findings()):
        with pytest.raises(ValueError, match="z1: expected finite values"):
            losses.nt_xent(bad, bad)


# --- fit ---


def fitted(device, fake=None, steps=6, spoil_at=None, **options):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.BatchNorm1d(8)).to(device)
    generator = seeded(1)
    waits = []

    def loss_fn(x):
        first, second = augment.two_views(x, generator=generator)
        loss = losses.nt_xent(network(first), network(second), temperature=0.5)
        return loss, {"norm": network[1].weight.norm(), "one": 1}

    def after_step(step):
        if step == spoil_at:
            network[1].weight.data.mul_(torch.nan)
        waits.append(fake.total if fake else 0)
        return {"bias": network[1].bias[0]}

    history = train.fit(
        loss_fn,
        [network],
        make_images(32, 8),
        steps=steps,
        batch_size=8,
        generator=seeded(2),
        after_step=after_step,
        **options,
    )
    return history, waits


def test_fit_does_not_wait_and_records_the_same(gpu):
    expected, _ = fitted("cpu")
    history, waits = fitted(gpu.device, gpu)
    assert waits[-1] == waits[0]
    assert list(history) == list(expected) == ["loss", "norm", "one", "bias"]
    for name, values in history.items():
        assert all(type(value) is float for value in values)
        if name != "bias":  # whose gradient is rounding noise, which AdamW makes large
            assert values == pytest.approx(expected[name], abs=1e-3)
    assert len(set(history["bias"])) == 6  # a copy of each step's, not six times the last


def test_a_wait_in_fit_would_be_seen(gpu, monkeypatch):
    monkeypatch.setattr(_device, "is_deferred", lambda x: False)  # as it was: each check waits
    _, waits = fitted(gpu.device, gpu)
    assert waits[-1] - waits[0] >= 5 * 3


def test_fit_tells_of_a_bad_loss_when_it_looks(gpu, monkeypatch):
    monkeypatch.setattr(train, "LOOK_EVERY", 4)
    with pytest.raises(ValueError, match="expected finite values"):
        fitted(gpu.device, gpu, spoil_at=1)
    network = nn.Linear(192, 1).to(gpu.device)

    def loss_fn(x):
        return network(x.flatten(1)).mean() * torch.nan

    with pytest.raises(ValueError, match="step 0: expected a finite loss, found nan; try a"):
        train.fit(loss_fn, [network], make_images(32, 8), steps=9, batch_size=8)


# --- pretraining ---

RECIPES = {
    "plain": TINY,
    "sgd, decoupled": replace(TINY, optimizer="sgd", loss="decoupled_contrastive", lr=0.01),
    "multi-crop": replace(TINY, n_small=1, blur=0.5),
    "mean of weights": replace(TINY, average=0.9),
    "MoCo": replace(TINY, queue=16),
    "three views": replace(TINY, n_views=3, n_small=1, blur=0.5),
    "mean of four views": replace(TINY, n_views=4, mean_target=True),
    "BYOL": replace(TINY, loss="byol", predictor=8),
    "FastSiam": replace(TINY, loss="simsiam", predictor=8, n_views=3, mean_target=True),
}


def run_of(recipe, images, dtype=None):
    run = new_run(recipe, images, dtype=dtype)
    run.steps = 100
    return run


@pytest.mark.seconds
@pytest.mark.parametrize("name", RECIPES)
def test_a_step_waits_for_nothing_and_does_the_same(gpu, name):
    images = make_images(32)
    cpu = run_of(RECIPES[name], images)
    run = run_of(RECIPES[name], images.to(gpu.device))
    for _ in range(2):
        expected = train_step(cpu)
        with gpu.none_allowed():
            loss = train_step(run)
        assert loss.item() == pytest.approx(expected.item(), abs=2e-4)
    run.findings.look()
    assert run.lr == cpu.lr > 0
    assert why_eager(run) == f"a {NAME} has no CUDA graphs"


@pytest.mark.seconds
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_float16_waits_for_nothing_and_leaves_out_a_bad_step(gpu, optimizer):
    """A step that overflows changes nothing but the scale. Without autocast, which this device does
    not have: what matters here are scaler and optimizer."""
    recipe = replace(TINY, optimizer=optimizer, lr=1e-3)
    run = run_of(recipe, make_images(32).to(gpu.device), dtype=torch.float16)
    assert run.scaler.is_enabled()
    run.dtype = None
    run.scaler._scale.fill_(torch.inf)
    before = [weight.detach().clone() for weight in run.online.parameters()]
    with gpu.none_allowed():
        train_step(run)
    after = [weight.detach() for weight in run.online.parameters()]
    assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(before, after, strict=True))
    assert run.scaler._growth_tracker.item() == 0
    run.scaler._scale.fill_(2.0)
    with gpu.none_allowed():
        train_step(run)
        train_step(run)
    assert not torch.equal(before[0].cpu(), after[0].cpu())
    assert all(weight.isfinite().all() for weight in run.online.parameters())


@pytest.mark.seconds
def test_pretraining_on_a_device_is_that_on_a_cpu_and_goes_on(gpu, tmp_path):
    """The whole loop, with checkpoints: waits once a record, and a resumed run ends the same."""
    images = make_images(32)
    options = dict(log_every=4, checkpoint_seconds=0)
    expected = pretrain(TINY, images, device="cpu", **options).history
    records = []
    whole = pretrain(TINY, images, device=gpu.device, folder=tmp_path / "a", **options)
    assert [r["loss"] for r in whole.history] == pytest.approx(
        [r["loss"] for r in expected], abs=1e-3
    )

    class Stop(Exception):
        pass

    def stop(record, history):
        records.append(record)
        if len(records) == 2:  # the first one is saved by now
            raise Stop

    with pytest.raises(Stop):
        pretrain(TINY, images, device=gpu.device, folder=tmp_path / "b", callback=stop, **options)
    again = pretrain(TINY, images, device=gpu.device, folder=tmp_path / "b", **options)
    assert again.history[-1]["loss"] == pytest.approx(whole.history[-1]["loss"], abs=1e-6)


@pytest.mark.parametrize("name", ["plain", "multi-crop", "three views", "mean of four views"])
def test_views_of_several_steps_are_those_of_each(name):
    recipe = RECIPES[name]
    run = run_of(recipe, make_images(32))
    together = views_of_steps(run, 3, 3)  # from one epoch into the next
    for step, views in zip((3, 4, 5), together, strict=True):
        torch.manual_seed(seed_of(recipe.seed, step, 0))
        expected = make_views(recipe, run.batches.at(step))
        assert [view.shape for view in views] == [view.shape for view in expected]
        assert (joined(views) - joined(expected)).abs().max() < 1e-6


def test_views_ahead_follow_a_jump():
    made = []

    def make(first, count):
        made.append((first, count))
        return [[torch.full((1,), step)] for step in range(first, first + count)]

    ahead = ViewsAhead(make, torch.device("cpu"))
    steps = [0, 1, 2, 2, 0, 1]
    assert [ahead.at(step, 3)[0].item() for step in steps] == steps
    assert made == [(0, 1), (1, 1), (2, 1), (0, 1), (1, 1)]


@pytest.mark.parametrize(("batch", "side", "expected"), [(128, 32, 16), (256, 224, 1), (2, 8, 16)])
def test_so_many_steps_at_once(batch, side, expected):
    views = [torch.empty(batch, 3, side, side, device="meta")] * 2
    assert steps_at_once(views) == expected


def test_put_back_restores_where_things_lie():
    x = torch.ones(3)
    place = x.data_ptr()
    put_back({"x": x}, {"x": torch.zeros(3)})
    assert x.data_ptr() == place
    assert x.sum() == 0


def test_order_of_an_epoch_goes_over_without_a_wait(gpu):
    batches = Batches(make_images(32).to(gpu.device), 8, 0)
    with gpu.none_allowed():
        batches.at(0)


# --- a device without float64 ---


def features(device, n=60, d=8):
    z = torch.randn(n, d, generator=seeded())
    return z.to(device), (torch.arange(n) % 3).to(device)


MEASURES = {
    "knn_accuracy": lambda z, y: probe.knn_accuracy(z, y, z, y, k=3),
    "knn_predict": lambda z, y: probe.knn_predict(z, y, z[:5], k=3).sum().item(),
    "linear_probe": lambda z, y: probe.linear_probe(z, y.cpu(), z, y.cpu()),
    "sgd_probe": lambda z, y: evaluation.sgd_probe(z, y, z, y, epochs=2)[0],
    "few_shot": lambda z, y: evaluation.few_shot(z, y, z, y, shots=[2], draws=2)[2][0],
    "precision_at_k": lambda z, y: float(metrics.precision_at_k(z, y, k=3)),
    "linear_cka": lambda z, y: float(metrics.linear_cka(z, z**2, debiased=True)),
    "effective_rank": lambda z, y: float(metrics.effective_rank(z)),
    "uniformity": lambda z, y: float(metrics.uniformity(z)),
    "nt_xent": lambda z, y: losses.nt_xent(z, z**2).item(),
}


@pytest.mark.parametrize("name", MEASURES)
def test_nothing_makes_float64_where_there_is_none(apple, name):
    expected = MEASURES[name](*features("cpu"))
    assert MEASURES[name](*features(apple.device)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.seconds
def test_an_audit_makes_no_float64(apple):
    encoder = models.small_cnn(2)
    images = make_images(24)
    labels = torch.arange(24) % 2
    expected = audit(encoder, images, labels)
    report = audit(encoder.to(apple.device), images.to(apple.device), labels.to(apple.device))
    for name, score in report["invariance"].items():
        assert score == pytest.approx(expected["invariance"][name], abs=1e-3)


# --- names of devices ---

NOT_HERE = ("cuda:99", "mps:7", "tpu", "")


@pytest.mark.parametrize("name", NOT_HERE)
def test_a_device_that_is_not_there_is_one_sentence(name):
    if name == "mps:7" and torch.backends.mps.is_available():
        pytest.skip("an Apple GPU")
    with pytest.raises(ValueError) as error:
        _device.named(name)
    sentence = str(error.value)
    assert sentence.startswith("device: expected one of this machine (cpu")
    assert repr(name) in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    "command",
    [
        ["pretrain", "--recipe", "shapes", "--size", "128", "--device", "cuda:99"],
        ["evaluate", "shapes_simclr", "--device", "cuda:99"],
    ],
)
def test_every_command_refuses_it_before_it_works(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(command)
    told = f"{stopped.value}\n{capsys.readouterr().err}"
    assert re.search(r"device: expected one of this machine \(cpu.*found 'cuda:99'", told)
    assert "Traceback" not in told
