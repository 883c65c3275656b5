"""Exercises of lesson 04: swap the head, discriminative learning rates, the crossover point."""

import copy
import math

import numpy as np
import torch
from torch import nn

from replearn.lesson.exercises import Exercise
from replearn.lesson.exercises.compare import kind


def swap_head(network, classes):
    """A new network for a new task: the backbone of `network`, shared, under a fresh linear head.

    network: nn.Sequential whose last module is the head, nn.Linear(d, old classes). Returns an nn.Module that maps
    pictures to (N, classes). The backbone's modules are the same objects; `network` itself still works as before.
    """
    head = nn.Linear(network[-1].in_features, classes)
    return nn.Sequential(*network[:-1], head)


def _swap_cases(generator):
    torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))

    def network(*modules):
        net = nn.Sequential(*modules)
        net.before = copy.deepcopy(net.state_dict())  # for the judge: the network as it was
        return net

    conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    return {
        "a small network": (
            network(nn.Flatten(), nn.Linear(108, 8), nn.ReLU(), nn.Linear(8, 6)),
            4,
        ),
        "convolutions inside a block": (
            network(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)),
            2,
        ),
    }


def _swap_judge(found, _, network, classes):
    if not isinstance(found, nn.Module):
        return f"expected an nn.Module, found {kind(found)}"
    now, before = network.state_dict(), network.before
    if now.keys() != before.keys() or any(
        now[k].shape != v.shape or (now[k] != v).any() for k, v in before.items()
    ):
        return "expected the network you were given to stay as it was, found its weights or its head changed"
    shared, old = list(network[:-1].parameters()), list(network[-1].parameters())
    mine = list(found.parameters())
    if missing := sum(all(p is not q for q in mine) for p in shared):
        return f"expected the backbone's own parameters (shared, not copied), found {missing} of {len(shared)} missing"
    if any(p is q for p in old for q in mine):
        return "expected the old head to be gone, found its parameters in the new network"
    new = [p for p in mine if all(p is not q for q in shared)]
    if {tuple(p.shape) for p in new} - {(classes,)} != {(classes, network[-1].in_features)} or len(
        new
    ) > 2:
        return f"expected one new layer of {classes} outputs, found new parameters {[tuple(p.shape) for p in new]}"
    x = torch.randn(5, 3, 6, 6)
    with torch.no_grad():
        output, h = found.eval()(x), network.eval()[:-1](x)
    scores = sum((h @ p.T if p.ndim == 2 else p) for p in new)
    if (
        not torch.is_tensor(output)
        or output.shape != scores.shape
        or not torch.allclose(output, scores, atol=1e-5)
    ):
        return f"expected the new head's scores for the backbone's features, found {kind(output)} with other values"
    return None


SWAP = Exercise(
    solution=swap_head,
    cases=_swap_cases,
    judge=_swap_judge,
    difficulty=1,
    minutes=10,
    hints=(
        "network[:-1] is the backbone, and network[-1].in_features is how many features it gives.",
        "nn.Sequential(*modules) makes a new network of modules that exist; they are shared, not copied.",
        "Do not assign to network[-1]: that changes the network you were given, and the source task is lost.",
    ),
    wrong={
        "changes the network itself": lambda net, classes: (
            net.__setitem__(-1, nn.Linear(net[-1].in_features, classes)),
            net,
        )[1],
        "backbone copied": lambda net, classes: swap_head(copy.deepcopy(net), classes),
        "backbone forgotten": lambda net, classes: (
            [m.reset_parameters() for m in net.modules() if isinstance(m, nn.Linear)],
            swap_head(net, classes),
        )[1],
        "new head on the old one": lambda net, classes: nn.Sequential(
            *net, nn.Linear(net[-1].out_features, classes)
        ),
        "no head": lambda net, classes: net[:-1],
        "softmax at the end": lambda net, classes: nn.Sequential(
            *swap_head(net, classes), nn.Softmax(dim=1)
        ),
    },
    alternatives=(
        lambda net, classes: nn.Sequential(net[:-1], nn.Linear(net[-1].in_features, classes)),
        lambda net, classes: nn.Sequential(*net[:-1]).append(
            nn.Linear(net[-1].weight.shape[1], classes)
        ),
    ),
)


def parameter_groups(blocks, lr, decay):
    """Discriminative learning rates: the last block gets lr, each block before it `decay` times that of the next.

    blocks: list of modules, from the input to the head; one without parameters (pooling) counts as a block too.
    Returns a list of dicts with "params" and "lr", as torch.optim takes them; every parameter stands in one of them.
    """
    last = len(blocks) - 1
    return [
        {"params": list(block.parameters()), "lr": lr * decay ** (last - i)}
        for i, block in enumerate(blocks)
    ]


def _groups_cases(generator):
    torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
    lr = 1e-3 * (1 + torch.rand(1, generator=generator).item())
    linear = lambda n: [nn.Linear(2, 3) for _ in range(n)]
    conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    return {
        "three blocks": (linear(3), lr, 0.3),
        "decay 0 (only the head learns)": (linear(3), lr, 0.0),
        "a block without parameters in between": ([conv, nn.Flatten(), *linear(1)], lr, 0.5),
    }


def _groups_judge(found, expected, blocks, *_):
    if not all(isinstance(group, dict) and {"params", "lr"} <= group.keys() for group in found):
        return f'expected a list of dicts with "params" and "lr", found {kind(found)}'
    rates = [(p, float(group["lr"])) for group in found for p in group["params"]]
    for i, (group, _) in enumerate(zip(expected, blocks, strict=True), 1):
        for p in group["params"]:
            mine = [rate for q, rate in rates if q is p]
            if len(mine) != 1:
                return f"expected each parameter in one group, found one of block {i} of {len(blocks)} in {len(mine)}"
            if not math.isclose(mine[0], group["lr"], rel_tol=1e-4, abs_tol=1e-12):
                return f"expected lr {group['lr']:.3g} for block {i} of {len(blocks)}, found {mine[0]:.3g}"
    return None


def _rates(rate):  # rate(i, last, lr, decay)
    return lambda bs, lr, d: [
        dict(params=b.parameters(), lr=rate(i, len(bs) - 1, lr, d)) for i, b in enumerate(bs)
    ]


GROUPS = Exercise(
    solution=parameter_groups,
    cases=_groups_cases,
    judge=_groups_judge,
    difficulty=2,
    minutes=10,
    hints=(
        "A group is a dict: {'params': list(block.parameters()), 'lr': a number}.",
        "Block i of n, counted from 0, is n - 1 - i steps below the head: its rate is lr times decay that often.",
        "Check the ends: the head (the last block) must get lr itself, and the first block the lowest rate.",
    ),
    wrong={
        "upside down": _rates(lambda i, last, lr, decay: lr * decay**i),
        "the head is decayed too": _rates(lambda i, last, lr, decay: lr * decay ** (last - i + 1)),
        "one rate for all": _rates(lambda i, last, lr, decay: lr),
        "the head left out": lambda blocks, lr, decay: parameter_groups(blocks, lr, decay)[:-1],
    },
    alternatives=(
        lambda blocks, lr, decay: [
            dict(params=block.parameters(), lr=lr * decay**k)
            for k, block in enumerate(reversed(blocks))
        ],
        lambda blocks, lr, decay: tuple(parameter_groups(blocks, lr, decay)[::-1]),
    ),
)


def crossover(counts, frozen, scratch):
    """The number of labels from which training from scratch is at least as good as frozen features.

    counts (K,), rising; frozen, scratch (K,): accuracies at these counts. Between two counts the gap is a straight line
    over log(count). Returns the first crossing, counts[0] if scratch leads from the start, inf if it never does.
    """
    gap = scratch - frozen
    ahead = (gap >= 0).nonzero()
    if len(ahead) == 0:
        return float("inf")
    i = ahead[0].item()
    if i == 0:
        return counts[0].item()
    share = -gap[i - 1] / (gap[i] - gap[i - 1])  # of the way from count i - 1 to count i
    return (counts[i - 1].log().lerp(counts[i].log(), share)).exp().item()


def _crossover_cases(generator):
    counts = torch.tensor([1.0, 3.0, 10.0, 30.0, 100.0, 300.0])

    def curves(*gap):
        gap = torch.tensor(gap) * (0.6 + 0.4 * torch.rand(len(gap), generator=generator))
        frozen = (
            0.5 + 0.06 * torch.arange(len(gap)) + 0.02 * torch.rand(len(gap), generator=generator)
        )
        return counts[: len(gap)], frozen, frozen + gap

    touch = curves(-0.2, -0.1, -0.1, -0.05)
    touch[2][2] = touch[1][2]
    return {
        "one crossing": curves(-0.2, -0.2, -0.1, -0.05, 0.04, 0.1),
        "curves that cross three times": curves(-0.1, -0.05, 0.05, -0.05, -0.06, 0.1),
        "curves that never cross": curves(-0.2, -0.2, -0.1, -0.05),
        "scratch ahead from the start": curves(0.1, 0.1, -0.1, 0.1),
        "curves that meet at a count": touch,
    }


def _crossover_interp(counts, frozen, scratch):
    gap, x = (scratch - frozen).tolist(), counts.log10().tolist()
    i = next((i for i, g in enumerate(gap) if g >= 0), len(gap))
    if i in (0, len(gap)):
        return math.inf if i else counts[0]
    return 10 ** np.interp(0.0, gap[i - 1 : i + 1], x[i - 1 : i + 1])


CROSSOVER = Exercise(
    solution=crossover,
    cases=_crossover_cases,
    difficulty=2,
    minutes=15,
    hints=(
        "Look at the gap scratch - frozen: find the first count where it is 0 or more.",
        "Between count a (gap g < 0) and count b (gap k >= 0) the zero lies the share -g / (k - g) of the way.",
        "The way is measured in logarithms: exp of log a + share (log b - log a). Then see to the two ends.",
    ),
    wrong={
        "straight over counts, not over log(count)": lambda c, f, s: (
            10 * math.log(crossover((c / 10).exp(), f, s))
        ),
        "the next count on the grid": lambda c, f, s: c[(s >= f).int().argmax()].item(),
        "curves swapped": lambda c, f, s: crossover(c, s, f),
        "the logarithm itself": lambda c, f, s: math.log(crossover(c, f, s)),
        "the last count where it never does": lambda c, f, s: min(crossover(c, f, s), c[-1].item()),
    },
    alternatives=(
        _crossover_interp,
        lambda c, f, s: 2 * crossover(c / 2, f - s, torch.zeros_like(c)),
    ),
)

EXERCISES = [SWAP, GROUPS, CROSSOVER]
