import math

import pytest
import torch
from torch import nn

from replearn import train


def toy(n=64):
    return torch.randint(
        0, 256, (n, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 2))


def test_fit_minimizes_and_records():
    images = toy()
    labels = (images.float().mean((1, 2, 3)) > 127).long()
    model = net()
    loss = lambda x, y: (nn.functional.cross_entropy(model(x), y), {"mean": x.mean()})
    history = train.fit(
        loss,
        [model],
        images,
        labels,
        steps=200,
        batch_size=32,
        lr=1e-2,
        after_step=lambda step: {"step": step},
    )
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert history["step"] == list(range(200)) and len(history["mean"]) == 200


def test_fit_gives_floats_in_zero_one_and_matching_labels():
    images = toy()
    model, seen = net(), []

    def loss(x, y):
        seen.append((x.min().item(), x.max().item(), torch.equal(x, images[y].float() / 255)))
        return model(x).square().mean()

    train.fit(loss, [model], images, torch.arange(64), steps=3, batch_size=16)
    assert all(low >= 0 and high <= 1 and same for low, high, same in seen)


def test_fit_is_repeatable_with_a_generator():
    def run():
        model = net()
        generator = torch.Generator().manual_seed(7)
        train.fit(
            lambda x: model(x).square().mean(),
            [model],
            toy(),
            steps=5,
            batch_size=8,
            generator=generator,
        )
        return model[1].weight

    assert torch.equal(run(), run())


def test_nan_loss_stops_with_a_diagnosis():
    model = net()
    with pytest.raises(
        ValueError, match="step 0: expected a finite loss, found nan; try a smaller lr"
    ):
        train.fit(lambda x: model(x).mean() * math.nan, [model], toy(), steps=5, batch_size=8)


@pytest.mark.parametrize("size", [0, 1, 65])
def test_bad_batch_size(size):
    with pytest.raises(ValueError, match="expected 2 to 64"):
        train.fit(lambda x: x.mean(), [net()], toy(), steps=1, batch_size=size)


def test_batches_cover_every_picture_once_an_epoch():
    index = list(train.batches(10, 5, 4, torch.Generator().manual_seed(0)))
    for epoch in (index[:2], index[2:]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(10))
    assert not torch.equal(torch.cat(index[:2]), torch.cat(index[2:]))
    assert [len(b) for b in train.batches(10, 4, 5)] == [4] * 5  # the incomplete batch is left out


def test_ema_update():
    target, online = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    nn.init.constant_(online.weight, 3.0)
    online.running_mean.fill_(5.0)
    train.ema_update(target, online, momentum=0.9)
    torch.testing.assert_close(target.weight.detach(), torch.full((3,), 0.9 * 1 + 0.1 * 3))
    assert torch.equal(target.running_mean, online.running_mean)  # buffers are copied
    assert torch.equal(online.weight.detach(), torch.full((3,), 3.0))


@pytest.mark.parametrize(("momentum", "expected"), [(0.0, 3.0), (1.0, 1.0)])
def test_ema_endpoints(momentum, expected):
    target, online = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    nn.init.constant_(online.weight, 3.0)
    train.ema_update(target, online, momentum=momentum)
    assert target.weight.tolist() == [expected] * 2


@pytest.mark.parametrize("momentum", [-0.1, 1.1, math.nan])
def test_ema_bad_momentum(momentum):
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        train.ema_update(net(), net(), momentum=momentum)


def test_cosine_endpoints_and_warmup():
    assert train.cosine(0, 100) == 1.0 and train.cosine(100, 100) == pytest.approx(0, abs=1e-12)
    assert train.cosine(50, 100, start=1.0, end=0.0) == pytest.approx(0.5)
    assert train.cosine(0, 100, start=0.996, end=1.0) == 0.996
    assert train.cosine(100, 100, start=0.996, end=1.0) == pytest.approx(1.0)
    assert (
        train.cosine(0, 100, warmup=10) == pytest.approx(0.1)
        and train.cosine(10, 100, warmup=10) == 1.0
    )


def test_amp_dtype_on_cpu_and_on_gpus(monkeypatch):
    assert train.amp_dtype("cpu") is None
    for capability, expected in (
        ((7, 5), torch.float16),
        ((8, 0), torch.bfloat16),
        ((9, 0), torch.bfloat16),
    ):
        monkeypatch.setattr(
            torch.cuda, "get_device_capability", lambda device=None, c=capability: c
        )
        assert train.amp_dtype("cuda") == expected


def test_set_seed_seeds_all_three():
    import random

    import numpy as np

    draw = lambda: (torch.rand(1).item(), np.random.rand(), random.random())
    train.set_seed(5)
    first = draw()
    train.set_seed(5)
    assert draw() == first
