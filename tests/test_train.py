"""The training loop: what it feeds to a loss, what it records, its schedules and its seeds."""

import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from replearn import train


def make_images(n=64):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, 4, 4), dtype=torch.uint8, generator=generator)


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 2))


def test_fit_minimizes_and_records():
    images = make_images()
    is_bright = (images.float().mean((1, 2, 3)) > 127).long()
    model = make_model()

    def loss_fn(x, y):
        return nn.functional.cross_entropy(model(x), y), {"mean": x.mean()}

    def after_step(step):
        return {"step": step}

    history = train.fit(
        loss_fn,
        [model],
        images,
        is_bright,
        steps=200,
        batch_size=32,
        lr=1e-2,
        after_step=after_step,
    )
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert history["step"] == list(range(200))
    assert len(history["mean"]) == 200


def test_after_step_may_return_nothing():
    model = make_model()
    steps = []

    def loss_fn(x):
        return model(x).square().mean()

    history = train.fit(
        loss_fn, [model], make_images(), steps=3, batch_size=8, after_step=steps.append
    )
    assert steps == [0, 1, 2]
    assert list(history) == ["loss"]


def test_fit_gives_floats_in_zero_one_and_matching_labels():
    images = make_images()
    model = make_model()
    batches = []

    def loss_fn(x, y):
        batches.append((x, y))
        return model(x).square().mean()

    train.fit(loss_fn, [model], images, torch.arange(64), steps=3, batch_size=16)
    assert len(batches) == 3
    for x, y in batches:
        assert x.min() >= 0
        assert x.max() <= 1
        assert torch.equal(x, images[y].float() / 255)


def test_fit_is_repeatable_with_a_generator():
    def trained_weight():
        model = make_model()

        def loss_fn(x):
            return model(x).square().mean()

        generator = torch.Generator().manual_seed(7)
        train.fit(loss_fn, [model], make_images(), steps=5, batch_size=8, generator=generator)
        return model[1].weight

    assert torch.equal(trained_weight(), trained_weight())


def test_fit_takes_an_optimizer():
    """At a learning rate of 0 nothing moves, whatever `lr` says."""
    model = make_model()
    before = model[1].weight.detach().clone()

    def loss_fn(x):
        return model(x).square().mean()

    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    train.fit(loss_fn, [model], make_images(), steps=3, batch_size=8, lr=1, optimizer=optimizer)
    assert torch.equal(model[1].weight, before)


def test_nan_loss_stops_with_a_diagnosis():
    model = make_model()

    def loss_fn(x):
        return model(x).mean() * math.nan

    message = "step 0: expected a finite loss, found nan; try a smaller lr"
    with pytest.raises(ValueError, match=message):
        train.fit(loss_fn, [model], make_images(), steps=5, batch_size=8)


@pytest.mark.parametrize("size", [0, 1, 65])
def test_bad_batch_size(size):
    with pytest.raises(ValueError, match="expected 2 to 64"):
        train.fit(torch.mean, [make_model()], make_images(), steps=1, batch_size=size)


def test_batches_cover_every_image_once_an_epoch():
    batches = list(train.batches(10, 5, 4, torch.Generator().manual_seed(0)))
    first_epoch = torch.cat(batches[:2])
    second_epoch = torch.cat(batches[2:])
    assert sorted(first_epoch.tolist()) == list(range(10))
    assert sorted(second_epoch.tolist()) == list(range(10))
    assert not torch.equal(first_epoch, second_epoch)


def test_batches_leave_out_the_incomplete_one():
    sizes = [len(batch) for batch in train.batches(10, 4, 5)]
    assert sizes == [4] * 5


def test_ema_update():
    target = nn.BatchNorm1d(3)
    online = nn.BatchNorm1d(3)
    nn.init.constant_(online.weight, 3.0)
    online.running_mean.fill_(5.0)
    train.ema_update(target, online, momentum=0.9)
    torch.testing.assert_close(target.weight.detach(), torch.full((3,), 0.9 * 1 + 0.1 * 3))
    assert torch.equal(target.running_mean, online.running_mean)  # buffers are copied
    assert torch.equal(online.weight.detach(), torch.full((3,), 3.0))


@pytest.mark.parametrize(("momentum", "expected"), [(0.0, 3.0), (1.0, 1.0)])
def test_ema_endpoints(momentum, expected):
    target = nn.BatchNorm1d(2)
    online = nn.BatchNorm1d(2)
    nn.init.constant_(online.weight, 3.0)
    train.ema_update(target, online, momentum=momentum)
    assert target.weight.tolist() == [expected] * 2


@pytest.mark.parametrize("momentum", [-0.1, 1.1, math.nan])
def test_ema_bad_momentum(momentum):
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        train.ema_update(make_model(), make_model(), momentum=momentum)


def test_cosine_endpoints():
    assert train.cosine(0, 100) == 1.0
    assert train.cosine(50, 100, start=1.0, end=0.0) == pytest.approx(0.5)
    assert train.cosine(100, 100) == pytest.approx(0, abs=1e-12)
    assert train.cosine(0, 100, start=0.996, end=1.0) == 0.996
    assert train.cosine(100, 100, start=0.996, end=1.0) == pytest.approx(1.0)


def test_cosine_warmup():
    assert train.cosine(0, 100, warmup=10) == pytest.approx(0.1)
    assert train.cosine(10, 100, warmup=10) == 1.0


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_amp_dtype_on_gpus(monkeypatch, capability, expected):
    def get_device_capability(device=None):
        return capability

    monkeypatch.setattr(torch.cuda, "get_device_capability", get_device_capability)
    assert train.amp_dtype("cuda") == expected


def test_amp_dtype_on_a_cpu():
    assert train.amp_dtype("cpu") is None


def test_set_seed_seeds_all_three():
    def draw():
        # NumPy's global generator is what set_seed seeds for notebooks.
        return torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002

    train.set_seed(5)
    first = draw()
    train.set_seed(5)
    assert draw() == first
