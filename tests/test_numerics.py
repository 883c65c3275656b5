"""Losses and metrics at any scale, with dead rows and outliers, against loops in float64."""

import math
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from replearn import losses, metrics, probe
from replearn.audit import _retrieval, invariance
from replearn.pretrain.evaluation import sgd_probe

CASES = 4000


def random_case(seed):
    """Return two views (n, d) in float32: ordinary, tiny, huge, with dead rows or with outliers."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(4, 9))
    d = int(rng.integers(1, 9))
    views = rng.standard_normal((2, n, d)).astype(np.float32)
    views *= np.float32(10.0 ** rng.integers(-18, 6))  # also all of it at another scale
    row_scales = rng.choice([1.0, 1.0, 1.0, 1e-12, 1e12], size=(2, n, 1)).astype(np.float32)
    views *= row_scales
    if rng.random() < 0.3:
        views[int(rng.integers(2)), int(rng.integers(n))] = 0.0
    return torch.from_numpy(views[0]), torch.from_numpy(views[1])


def direction(row):
    """Return a row of a float64 array at length 1, and a row of zeros as it is."""
    length = math.sqrt(sum(float(value) ** 2 for value in row))
    return np.array([float(value) / length if length else 0.0 for value in row])


def directions(z):
    return np.stack([direction(row) for row in z.double().numpy()])


def loop_nt_xent(z1, z2, temperature):
    z = np.concatenate([directions(z1), directions(z2)])
    n = len(z1)
    total = 0.0
    for i in range(2 * n):
        scores = [z[i] @ z[k] / temperature for k in range(2 * n) if k != i]
        total += np.logaddexp.reduce(scores) - z[i] @ z[(i + n) % (2 * n)] / temperature
    return total / (2 * n)


def loop_clip(z1, z2, temperature):
    scores = directions(z1) @ directions(z2).T / temperature
    total = 0.0
    for i in range(len(scores)):
        total += np.logaddexp.reduce(scores[i]) - scores[i, i]
        total += np.logaddexp.reduce(scores[:, i]) - scores[i, i]
    return total / (2 * len(scores))


def loop_negative_cosine(z1, z2):
    return -np.mean([a @ b for a, b in zip(directions(z1), directions(z2), strict=True)])


def loop_alignment(z1, z2):
    differences = directions(z1) - directions(z2)
    return np.mean([row @ row for row in differences])


def loop_uniformity(z):
    rows = directions(z)
    terms = []
    for i in range(len(rows)):
        for j in range(len(rows)):
            if i != j:
                difference = rows[i] - rows[j]
                terms.append(math.exp(-2 * difference @ difference))
    return math.log(np.mean(terms))


def loop_debiased_cka(x, y):
    """Return Song et al.'s estimate term by term, from Gram matrices without their diagonal."""

    def hsic(k, m):
        n = len(k)
        k = k - np.diag(np.diag(k))
        m = m - np.diag(np.diag(m))
        one = np.ones(n)
        first = np.trace(k @ m)
        second = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        third = 2 / (n - 2) * (one @ k @ m @ one)
        return first + second - third

    gram_x, gram_y = [z @ z.T for z in (centered(x), centered(y))]
    return hsic(gram_x, gram_y), hsic(gram_x, gram_x), hsic(gram_y, gram_y)


def centered(z):
    z = z.double().numpy()
    z = z - z.mean(0)
    return z / max(np.abs(z).max(), 1e-300)


def test_random_inputs_agree_with_loops_in_float64():
    checked_cka = 0
    for seed in range(CASES):
        z1, z2 = random_case(seed)
        pairs = [
            (losses.nt_xent(z1, z2, temperature=0.5), loop_nt_xent(z1, z2, 0.5)),
            (losses.clip_loss(z1, z2, temperature=0.5), loop_clip(z1, z2, 0.5)),
            (losses.negative_cosine(z1, z2), loop_negative_cosine(z1, z2)),
            (metrics.alignment(z1, z2), loop_alignment(z1, z2)),
            (metrics.uniformity(z1), loop_uniformity(z1)),
        ]
        for value, expected in pairs:
            assert abs(value.item() - expected) < 1e-4 * max(1.0, abs(expected)), seed

        hsic, hsic_x, hsic_y = loop_debiased_cka(z1, z2)
        if min(hsic_x, hsic_y) > 1e-9:  # else even float64 has no digits left
            expected = min(hsic / math.sqrt(hsic_x * hsic_y), 1.0)
            assert abs(metrics.linear_cka(z1, z2, debiased=True) - expected) < 1e-3, seed
            checked_cka += 1
    assert checked_cka > CASES / 4


def test_debiased_cka_of_one_large_row_is_that_of_float64():
    """It was 0.0: what is left of a difference of large numbers was taken for noise."""
    generator = torch.Generator().manual_seed(0)
    torch.randn(2, 4, 8, generator=generator)
    x = torch.randn(5, 16, generator=generator)
    y = torch.randn(5, 16, generator=generator)
    x[2] *= 1000
    assert metrics.linear_cka(x, y, debiased=True) == pytest.approx(0.60222, abs=1e-5)
    for seed in range(200):
        generator.manual_seed(seed)
        n = 5 + seed % 26
        x = torch.randn(n, 16, generator=generator)
        y = x[:, :8] + torch.randn(n, 8, generator=generator)
        x[2] *= (300, 1000)[seed % 2]
        hsic, hsic_x, hsic_y = loop_debiased_cka(x, y)
        expected = min(hsic / math.sqrt(hsic_x * hsic_y), 1.0)
        found = metrics.linear_cka(x, y, debiased=True)
        assert found == pytest.approx(expected, abs=1e-3), seed
        assert metrics.linear_cka(x.double(), y.double(), debiased=True) == pytest.approx(
            found, abs=1e-3
        )


LOSSES = [losses.nt_xent, losses.decoupled_contrastive, losses.clip_loss, losses.negative_cosine]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_dead_row_gets_no_gradient_and_spoils_none(loss):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(8, 16, generator=generator)
    other = torch.randn(8, 16, generator=generator)
    z[3] = 0
    z.requires_grad_()
    loss(z, other).backward()
    assert torch.equal(z.grad[3], torch.zeros(16))
    assert z.grad.abs().max() < 10


@pytest.mark.parametrize("scale", [1e-30, 1e-13, 1e16])
def test_losses_and_their_directions_of_descent_do_not_depend_on_the_scale(scale):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(8, 16, generator=generator)
    other = torch.randn(8, 16, generator=generator)
    for loss in LOSSES:
        gradients = []
        for factor in (1.0, scale):
            scaled = (z * factor).requires_grad_()
            (gradient,) = torch.autograd.grad(loss(scaled, other), scaled)
            gradients.append(gradient.double() * factor)
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_rows_of_ordinary_size_are_normalized_as_by_torch_to_the_last_bit():
    for exponent in (-10, -3, 0, 3, 10):
        z = torch.randn(200, 24, generator=torch.Generator().manual_seed(0)) * 10.0**exponent
        one = z.clone().requires_grad_()
        other = z.clone().requires_grad_()
        weights = torch.randn(200, 24, generator=torch.Generator().manual_seed(1))
        ours = losses.unit_rows(one)
        theirs = F.normalize(other, dim=1)
        assert torch.equal(ours, theirs)
        (ours * weights).sum().backward()
        (theirs * weights).sum().backward()
        assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_nearest_neighbor_of_an_example_is_itself_at_any_scale(scale, dtype):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(60, 8, generator=generator, dtype=dtype) * scale
    labels = torch.arange(60) % 3
    assert probe.knn_accuracy(z, labels, z, labels, k=1) == 1.0
    double = z.double() * 1e200
    assert probe.knn_accuracy(double, labels, double, labels, k=1) == 1.0


@pytest.mark.parametrize("k", [1.0, True, "3"])
def test_k_is_a_whole_number(k):
    z = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(10) % 2
    with pytest.raises(TypeError, match="k: expected a whole number, found"):
        probe.knn_accuracy(z, labels, z, labels, k=k)


class NoFloat64(TorchDispatchMode):
    """Stands in for a GPU without float64, as Apple's are: whatever makes such a tensor raises.

    Moving to the CPU is an operation of its own there and none here, so a function that may compute
    on the CPU is allowed its own `cpu().double()`: the mode looks for the line.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        is_float64 = isinstance(out, torch.Tensor) and out.dtype == torch.float64
        if is_float64 and func.overloadpacket is torch.ops.aten._to_copy:
            package = str(Path(losses.__file__).parent)
            frames = [f for f in traceback.extract_stack() if f.filename.startswith(package)]
            last = frames[-1]
            is_on_cpu = "cpu()" in last.line or 'device="cpu"' in last.line
            assert is_on_cpu or last.name in ("double", "_double"), last.line
        return out


def test_accuracies_need_no_float64_on_the_device():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(60, 8, generator=generator)
    y = torch.arange(60) % 3
    with NoFloat64():
        assert 0 <= probe.knn_accuracy(z, y, z, y, k=3) <= 1
        assert 0 <= sgd_probe(z, y, z, y, epochs=1)[0] <= 1
        assert 0 <= _retrieval(z, y, 3)["knn"] <= 1
        assert invariance(z, z + 1) < 1
