"""Exercises of lesson 04: swap the head, discriminative learning rates, the crossover point."""

import copy
import math

import numpy as np
import torch
from torch import nn

from replearn.lesson.exercises import Exercise
from replearn.lesson.exercises.compare import kind

# --- swap_head --------------------------------------------------------------------------------


def swap_head(network, classes):
    """A new network for a new task: the backbone of `network`, shared, under a fresh linear head.

    network: nn.Sequential whose last module is the head, nn.Linear(d, old classes). Returns an
    nn.Module that maps pictures to (N, classes). The backbone's modules are the same objects;
    `network` itself still works as before.
    """
    head = nn.Linear(network[-1].in_features, classes)
    return nn.Sequential(*network[:-1], head)


def _swap_cases(generator: torch.Generator) -> dict[str, tuple]:
    torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))  # of the weights

    def network(*modules):
        made = nn.Sequential(*modules)
        made.before = copy.deepcopy(made.state_dict())  # for the judge: the network as it was
        return made

    conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    small = network(nn.Flatten(), nn.Linear(108, 8), nn.ReLU(), nn.Linear(8, 6))
    with_block = network(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    return {
        "a small network": (small, 4),
        "convolutions inside a block": (with_block, 2),
    }


def _was_changed(network):
    now = network.state_dict()
    before = network.before
    if now.keys() != before.keys():
        return True
    for name, value in before.items():
        if now[name].shape != value.shape or (now[name] != value).any():
            return True
    return False


def _stands_in(parameter, parameters):
    """Whether this very parameter, not only an equal one, is among the others."""
    return any(parameter is other for other in parameters)


def _swap_judge(answer, _, network, classes):
    """Any module will do that shares the backbone and scores its features with a new layer."""
    if not isinstance(answer, nn.Module):
        return f"expected an nn.Module, found {kind(answer)}"
    if _was_changed(network):
        return (
            "expected the network you were given to stay as it was, "
            "found its weights or its head changed"
        )
    backbone = list(network[:-1].parameters())
    old_head = list(network[-1].parameters())
    parameters = list(answer.parameters())
    missing = sum(not _stands_in(parameter, parameters) for parameter in backbone)
    if missing:
        return (
            "expected the backbone's own parameters (shared, not copied), "
            f"found {missing} of {len(backbone)} missing"
        )
    if any(_stands_in(parameter, parameters) for parameter in old_head):
        return "expected the old head to be gone, found its parameters in the new network"

    new = [parameter for parameter in parameters if not _stands_in(parameter, backbone)]
    shapes = [tuple(parameter.shape) for parameter in new]
    weights = {shape for shape in shapes if shape != (classes,)}  # the bias may be missing
    if weights != {(classes, network[-1].in_features)} or len(new) > 2:
        return f"expected one new layer of {classes} outputs, found new parameters {shapes}"

    x = torch.randn(5, 3, 6, 6)
    with torch.no_grad():
        output = answer.eval()(x)
        h = network.eval()[:-1](x)
        scores = 0
        for parameter in new:
            scores = scores + (h @ parameter.T if parameter.ndim == 2 else parameter)
    same_shape = torch.is_tensor(output) and output.shape == scores.shape
    if not same_shape or not torch.allclose(output, scores, atol=1e-5):
        return (
            "expected the new head's scores for the backbone's features, "
            f"found {kind(output)} with other values"
        )
    return None


def _swap_by_nesting(network, classes):
    return nn.Sequential(network[:-1], nn.Linear(network[-1].in_features, classes))


def _swap_by_appending(network, classes):
    width = network[-1].weight.shape[1]
    return nn.Sequential(*network[:-1]).append(nn.Linear(width, classes))


def _changes_the_network(network, classes):
    """The head of the given network is replaced: the source task is lost."""
    network[-1] = nn.Linear(network[-1].in_features, classes)
    return network


def _backbone_copied(network, classes):
    """Training the new network would not train the old one's backbone."""
    return swap_head(copy.deepcopy(network), classes)


def _backbone_forgotten(network, classes):
    """The linear layers start again from random weights."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
    return swap_head(network, classes)


def _head_on_head(network, classes):
    """The new head reads the scores of the old one, not the features."""
    return nn.Sequential(*network, nn.Linear(network[-1].out_features, classes))


def _no_head(network, classes):
    """The backbone alone."""
    return network[:-1]


def _softmax_at_the_end(network, classes):
    """Probabilities in place of scores."""
    return nn.Sequential(*swap_head(network, classes), nn.Softmax(dim=1))


SWAP = Exercise(
    solution=swap_head,
    cases=_swap_cases,
    judge=_swap_judge,
    difficulty=1,
    minutes=10,
    hints=(
        "network[:-1] is the backbone, and network[-1].in_features is how many features it gives.",
        "nn.Sequential(*modules) makes a new network of modules that exist; they are shared, not "
        "copied.",
        "Do not assign to network[-1]: that changes the network you were given, and the source "
        "task is lost.",
    ),
    wrong={
        "changes the network itself": _changes_the_network,
        "backbone copied": _backbone_copied,
        "backbone forgotten": _backbone_forgotten,
        "new head on the old one": _head_on_head,
        "no head": _no_head,
        "softmax at the end": _softmax_at_the_end,
    },
    alternatives=(_swap_by_nesting, _swap_by_appending),
)


# --- parameter_groups -------------------------------------------------------------------------


def parameter_groups(blocks, lr, decay):
    """Discriminative learning rates: the last block gets lr, each earlier one a lower rate.

    A block gets `decay` times the rate of the next block. blocks: list of modules, from the input
    to the head; one without parameters (pooling) counts as a block too. Returns a list of dicts
    with "params" and "lr", as torch.optim takes them; every parameter stands in one of them.
    """
    last = len(blocks) - 1
    return [
        {"params": list(block.parameters()), "lr": lr * decay ** (last - i)}
        for i, block in enumerate(blocks)
    ]


def _groups_cases(generator: torch.Generator) -> dict[str, tuple]:
    torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))  # of the weights
    lr = 1e-3 * (1 + torch.rand(1, generator=generator).item())

    def linear_layers(count):
        return [nn.Linear(2, 3) for _ in range(count)]

    conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    return {
        "three blocks": (linear_layers(3), lr, 0.3),
        "decay 0 (only the head learns)": (linear_layers(3), lr, 0.0),
        "a block without parameters in between": (
            [conv, nn.Flatten(), *linear_layers(1)],
            lr,
            0.5,
        ),
    }


def _groups_judge(answer, expected, blocks, *_):
    """Groups may come in any order, or be split, if every parameter has its rate."""
    for group in answer:
        if not isinstance(group, dict) or not {"params", "lr"} <= group.keys():
            return f'expected a list of dicts with "params" and "lr", found {kind(answer)}'
    answered = []
    for group in answer:
        for parameter in group["params"]:
            answered.append((parameter, float(group["lr"])))

    for i, group in enumerate(expected, 1):
        where = f"block {i} of {len(blocks)}"
        for parameter in group["params"]:
            rates = [rate for other, rate in answered if other is parameter]
            if len(rates) != 1:
                return f"expected each parameter in one group, found one of {where} in {len(rates)}"
            if not math.isclose(rates[0], group["lr"], rel_tol=1e-4, abs_tol=1e-12):
                return f"expected lr {group['lr']:.3g} for {where}, found {rates[0]:.3g}"
    return None


def _groups_from_the_head(blocks, lr, decay):
    groups = []
    for steps, block in enumerate(reversed(blocks)):
        groups.append(dict(params=block.parameters(), lr=lr * decay**steps))
    return groups


def _groups_in_a_tuple(blocks, lr, decay):
    return tuple(reversed(parameter_groups(blocks, lr, decay)))


def _upside_down(blocks, lr, decay):
    """The first block gets lr, and the head the lowest rate."""
    return [
        dict(params=block.parameters(), lr=lr * decay**i)  # i counts from the input
        for i, block in enumerate(blocks)
    ]


def _head_decayed(blocks, lr, decay):
    """Off by one: the head is slowed down too."""
    return parameter_groups(blocks, lr * decay, decay)


def _one_rate(blocks, lr, decay):
    """Every block learns at lr."""
    return [dict(params=block.parameters(), lr=lr) for block in blocks]


def _head_left_out(blocks, lr, decay):
    """The head stands in no group, and would never learn."""
    return parameter_groups(blocks, lr, decay)[:-1]


GROUPS = Exercise(
    solution=parameter_groups,
    cases=_groups_cases,
    judge=_groups_judge,
    difficulty=2,
    minutes=10,
    hints=(
        "A group is a dict: {'params': list(block.parameters()), 'lr': a number}.",
        "Block i of n, counted from 0, is n - 1 - i steps below the head: its rate is lr times "
        "decay that often.",
        "Check the ends: the head (the last block) must get lr itself, and the first block the "
        "lowest rate.",
    ),
    wrong={
        "upside down": _upside_down,
        "the head is decayed too": _head_decayed,
        "one rate for all": _one_rate,
        "the head left out": _head_left_out,
    },
    alternatives=(_groups_from_the_head, _groups_in_a_tuple),
)


# --- crossover --------------------------------------------------------------------------------


def crossover(counts, frozen, scratch):
    """The number of labels from which training from scratch is at least as good as frozen features.

    counts (K,), rising; frozen, scratch (K,): accuracies at these counts. Between two counts the
    gap is a straight line over log(count). Returns the first crossing, counts[0] if scratch leads
    from the start, inf if it never does.
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


def _crossover_cases(generator: torch.Generator) -> dict[str, tuple]:
    counts = torch.tensor([1.0, 3.0, 10.0, 30.0, 100.0, 300.0])

    def curves(*gap):
        k = len(gap)
        gap = torch.tensor(gap) * (0.6 + 0.4 * torch.rand(k, generator=generator))
        rise = 0.5 + 0.06 * torch.arange(k)
        frozen = rise + 0.02 * torch.rand(k, generator=generator)
        return counts[:k], frozen, frozen + gap

    touching = curves(-0.2, -0.1, -0.1, -0.05)
    _, frozen, scratch = touching
    scratch[2] = frozen[2]
    return {
        "one crossing": curves(-0.2, -0.2, -0.1, -0.05, 0.04, 0.1),
        "curves that cross three times": curves(-0.1, -0.05, 0.05, -0.05, -0.06, 0.1),
        "curves that never cross": curves(-0.2, -0.2, -0.1, -0.05),
        "scratch ahead from the start": curves(0.1, 0.1, -0.1, 0.1),
        "curves that meet at a count": touching,
    }


def _crossover_by_numpy(counts, frozen, scratch):
    gap = (scratch - frozen).tolist()
    log_counts = counts.log10().tolist()
    ahead = [i for i, value in enumerate(gap) if value >= 0]
    if not ahead:
        return math.inf
    i = ahead[0]
    if i == 0:
        return counts[0]
    return 10 ** np.interp(0.0, gap[i - 1 : i + 1], log_counts[i - 1 : i + 1])


def _crossover_by_the_gap(counts, frozen, scratch):
    """Half the counts, and the gap turned around against a line at 0."""
    return 2 * crossover(counts / 2, frozen - scratch, torch.zeros_like(counts))


def _straight_over_counts(counts, frozen, scratch):
    """The gap as a straight line over the counts, not over their logarithms."""
    return 10 * math.log(crossover((counts / 10).exp(), frozen, scratch))


def _next_count(counts, frozen, scratch):
    """The first count at which scratch leads, without the point between two counts."""
    return counts[(scratch >= frozen).int().argmax()].item()


def _curves_swapped(counts, frozen, scratch):
    """The count from which frozen features lead."""
    return crossover(counts, scratch, frozen)


def _logarithm_itself(counts, frozen, scratch):
    """The last step back from log(count) to the count is missing."""
    return math.log(crossover(counts, frozen, scratch))


def _last_count_for_never(counts, frozen, scratch):
    """Where scratch never leads, the last count in place of infinity."""
    return min(crossover(counts, frozen, scratch), counts[-1].item())


CROSSOVER = Exercise(
    solution=crossover,
    cases=_crossover_cases,
    difficulty=2,
    minutes=15,
    hints=(
        "Look at the gap scratch - frozen: find the first count where it is 0 or more.",
        "Between count a (gap g < 0) and count b (gap k >= 0) the zero lies the share -g / (k - g) "
        "of the way.",
        "The way is measured in logarithms: exp of log a + share (log b - log a). Then see to the "
        "two ends.",
    ),
    wrong={
        "straight over counts, not over log(count)": _straight_over_counts,
        "the next count on the grid": _next_count,
        "curves swapped": _curves_swapped,
        "the logarithm itself": _logarithm_itself,
        "the last count where it never does": _last_count_for_never,
    },
    alternatives=(_crossover_by_numpy, _crossover_by_the_gap),
)

EXERCISES = [SWAP, GROUPS, CROSSOVER]
