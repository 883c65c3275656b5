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

    network: nn.Sequential, (N, 3, H, W) -> (N, old classes), whose last module is the head,
    nn.Linear(d, old classes). classes: int. Returns an nn.Module, (N, 3, H, W) -> (N, classes),
    float32. The backbone's modules are the same objects, and all parameters can be trained;
    `network` itself stays as it was, in weights and in mode.
    """
    head = nn.Linear(network[-1].in_features, classes)
    return nn.Sequential(*network[:-1], head)


def _swap_cases(generator: torch.Generator) -> dict[str, tuple]:
    torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))  # of the weights

    def network(*modules):
        made = nn.Sequential(*modules)
        # For the judge: the network as it was.
        made.before = copy.deepcopy(made.state_dict())
        made.modes_before = _modes(made)
        return made

    conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    small = network(nn.Flatten(), nn.Linear(108, 8), nn.ReLU(), nn.Linear(8, 6))
    with_block = network(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    return {
        "a small network": (small, 4),
        "convolutions inside a block": (with_block, 2),
    }


def _modes(network):
    """The train or eval flag of every module."""
    return [module.training for module in network.modules()]


def _was_changed(network):
    now = network.state_dict()
    before = network.before
    if now.keys() != before.keys():
        return True
    for name, value in before.items():
        if now[name].shape != value.shape or (now[name] != value).any():
            return True
    return False


def _in_eval_mode(network, x):
    """What a network gives in eval mode; its flags are as before afterwards."""
    modules = list(network.modules())
    modes = _modes(network)
    try:
        with torch.no_grad():
            return network.eval()(x)
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def _reuses_rows(weight, old_weight):
    """Whether a row of the new head is one of the old head."""
    return any(torch.equal(row, old_row) for row in weight for old_row in old_weight)


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
    if _modes(network) != network.modes_before:
        return (
            "expected the network you were given to stay in its mode, "
            "found modules that were switched between train and eval"
        )
    x = torch.randn(5, 3, 6, 6)
    output = _in_eval_mode(answer, x)  # before its parameters: a lazy layer has none until now

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
    frozen = sum(not parameter.requires_grad for parameter in parameters)
    if frozen:
        return (
            "expected parameters that can all be trained, "
            f"found {frozen} of {len(parameters)} with requires_grad=False"
        )

    new = [parameter for parameter in parameters if not _stands_in(parameter, backbone)]
    shapes = [tuple(parameter.shape) for parameter in new]
    weights = {shape for shape in shapes if shape != (classes,)}  # the bias may be missing
    if weights != {(classes, network[-1].in_features)} or len(new) > 2:
        return f"expected one new layer of {classes} outputs, found new parameters {shapes}"
    weight = next(parameter for parameter in new if parameter.ndim == 2)
    if _reuses_rows(weight, network[-1].weight):
        return "expected fresh weights in the new head, found rows of the old head"

    h = _in_eval_mode(network[:-1], x)
    scores = 0
    for parameter in new:
        scores = scores + (h @ parameter.T if parameter.ndim == 2 else parameter)
    scores = scores.detach()
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


def _swap_with_a_lazy_head(network, classes):
    return nn.Sequential(*network[:-1], nn.LazyLinear(classes))


def _swap_without_bias(network, classes):
    return nn.Sequential(*network[:-1], nn.Linear(network[-1].in_features, classes, bias=False))


class _BackboneAndHead(nn.Module):
    def __init__(self, backbone, head):
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, x):
        return self.head(self.backbone(x))


def _swap_in_a_module(network, classes):
    return _BackboneAndHead(network[:-1], nn.Linear(network[-1].in_features, classes))


def _swap_in_a_loop(network, classes):
    layers = list(network.children())
    layers[-1] = nn.Linear(layers[-1].in_features, classes)
    made = nn.Sequential()
    for i, layer in enumerate(layers):
        made.add_module(f"layer{i}", layer)
    return made


def _zeroed_head(network, classes):
    """A head that starts at zero is fresh, too."""
    head = nn.Linear(network[-1].in_features, classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return nn.Sequential(*network[:-1], head)


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


def _backbone_frozen(network, classes):
    """The shared backbone cannot be trained any more, in the old network either."""
    for parameter in network[:-1].parameters():
        parameter.requires_grad = False
    return swap_head(network, classes)


def _eval_mode(network, classes):
    """The given network is left in eval mode."""
    return swap_head(network.eval(), classes)


def _rows_reused(network, classes):
    """The new head starts from rows of the old one, which belong to other classes."""
    new = swap_head(network, classes)
    with torch.no_grad():
        new[-1].weight.copy_(network[-1].weight[:classes])
    return new


def _relu_on_the_scores(network, classes):
    """Scores below 0 are cut off."""
    return nn.Sequential(*swap_head(network, classes), nn.ReLU())


def _last_feature_layer_dropped(network, classes):
    """Two modules are cut off in place of one."""
    width = network[-1].in_features
    return nn.Sequential(*network[:-2], nn.Linear(width, classes))


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
        "backbone frozen": _backbone_frozen,
        "left in eval mode": _eval_mode,
        "rows of the old head": _rows_reused,
        "ReLU on the scores": _relu_on_the_scores,
        "a layer too many dropped": _last_feature_layer_dropped,
    },
    alternatives=(
        _swap_by_nesting,
        _swap_by_appending,
        _swap_with_a_lazy_head,
        _swap_without_bias,
        _swap_in_a_module,
        _swap_in_a_loop,
        _zeroed_head,
    ),
)


# --- parameter_groups -------------------------------------------------------------------------


def parameter_groups(blocks, lr, decay):
    """Discriminative learning rates: the last block gets lr, each earlier one a lower rate.

    A block gets `decay` times the rate of the next block. blocks: list of nn.Module, from the
    input to the head; one without parameters (pooling) counts as a block too. lr: float; decay:
    float in [0, 1]. Returns a list of dicts {"params": ..., "lr": float}, as torch.optim takes
    them; every parameter stands in exactly one of them.
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


def _parameters_of(group):
    """The parameters of a group: one, several, or pairs of a name and one, as torch.optim takes."""
    params = group["params"]
    if torch.is_tensor(params):
        return [params]
    return [item[1] if isinstance(item, tuple) else item for item in params]


def _groups_judge(answer, expected, blocks, *_):
    """Groups may come in any order, or be split, if every parameter has its rate."""
    task = 'expected a list of dicts with "params" and "lr"'
    if isinstance(answer, dict):
        return f"{task}, found {kind(answer)}"
    groups = list(answer)
    for group in groups:
        if not isinstance(group, dict):
            return f"{task}, found {kind(group)} in it"
        if not {"params", "lr"} <= group.keys():
            return f"{task}, found a dict with {sorted(map(str, group))}"
    answered = []
    for group in groups:
        for parameter in _parameters_of(group):
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


def _one_group_a_parameter(blocks, lr, decay):
    groups = []
    rate = lr
    for block in reversed(blocks):
        for parameter in block.parameters():
            groups.append({"params": parameter, "lr": rate})
        rate = rate * decay
    return groups


def _groups_with_names(blocks, lr, decay):
    groups = []
    for i in range(len(blocks)):
        rate = lr * decay ** (len(blocks) - 1 - i)
        groups.append({"params": blocks[i].named_parameters(), "lr": rate})
    return groups


def _groups_from_a_generator(blocks, lr, decay):
    for i, block in enumerate(blocks):
        yield {"params": block.parameters(), "lr": lr * decay ** (len(blocks) - 1 - i)}


def _groups_without_empty_ones(blocks, lr, decay):
    groups = parameter_groups(blocks, lr, decay)
    return [group for group in groups if group["params"]]


def _groups_by_numpy(blocks, lr, decay):
    rates = lr * np.power(decay, np.arange(len(blocks))[::-1])
    return [
        {"params": tuple(block.parameters()), "lr": rate, "name": str(rate)}
        for block, rate in zip(blocks, rates, strict=True)
    ]


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


def _empty_blocks_not_counted(blocks, lr, decay):
    """A block without parameters is skipped, and the blocks before it get too high a rate."""
    return parameter_groups([block for block in blocks if list(block.parameters())], lr, decay)


def _divided_in_place_of_multiplied(blocks, lr, decay):
    """Earlier blocks get higher rates."""
    return parameter_groups(blocks, lr, 1 / max(decay, 1e-6))


def _rate_falls_linearly(blocks, lr, decay):
    """The rate is multiplied by decay times the number of steps, not by a power."""
    last = len(blocks) - 1
    groups = []
    for i, block in enumerate(blocks):
        factor = 1 if i == last else decay * (last - i)
        groups.append({"params": list(block.parameters()), "lr": lr * factor})
    return groups


def _weights_only(blocks, lr, decay):
    """The first parameter of each block, and no bias."""
    groups = parameter_groups(blocks, lr, decay)
    return [{**group, "params": group["params"][:1]} for group in groups]


def _parameter_in_two_groups(blocks, lr, decay):
    """The head stands in a group of its own and in the last one."""
    groups = parameter_groups(blocks, lr, decay)
    return [*groups, {"params": list(blocks[-1].parameters()), "lr": lr}]


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
        "empty blocks not counted": _empty_blocks_not_counted,
        "divided by decay": _divided_in_place_of_multiplied,
        "no power": _rate_falls_linearly,
        "weights only": _weights_only,
        "the head in two groups": _parameter_in_two_groups,
    },
    alternatives=(
        _groups_from_the_head,
        _groups_in_a_tuple,
        _one_group_a_parameter,
        _groups_with_names,
        _groups_from_a_generator,
        _groups_without_empty_ones,
        _groups_by_numpy,
    ),
)


# --- crossover --------------------------------------------------------------------------------


def crossover(counts, frozen, scratch):
    """The number of labels from which training from scratch is at least as good as frozen features.

    counts (K,) float32, rising; frozen, scratch (K,) float32: accuracies at these counts. Between
    two counts the gap is a straight line over log(count). Returns a float: the first crossing,
    counts[0] if scratch leads from the start, inf if it never does.
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


def _crossover_by_a_loop(counts, frozen, scratch):
    if scratch[0] >= frozen[0]:
        return float(counts[0])
    for i in range(1, len(counts)):
        before = float(frozen[i - 1] - scratch[i - 1])
        after = float(frozen[i] - scratch[i])
        if after <= 0:
            ratio = float(counts[i] / counts[i - 1])
            return float(counts[i - 1]) * ratio ** (before / (before - after))
    return math.inf


def _crossover_in_float64(counts, frozen, scratch):
    counts = counts.numpy().astype(np.float64)
    gap = scratch.numpy().astype(np.float64) - frozen.numpy().astype(np.float64)
    if gap.max() < 0:
        return np.inf
    i = int(np.argmax(gap >= 0))
    if i == 0:
        return counts[0]
    slope = (gap[i] - gap[i - 1]) / (np.log2(counts[i]) - np.log2(counts[i - 1]))
    return 2 ** (np.log2(counts[i - 1]) - gap[i - 1] / slope)


def _crossover_as_a_tensor(counts, frozen, scratch):
    return torch.tensor(crossover(counts, frozen, scratch), dtype=torch.float64)


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


def _last_crossing(counts, frozen, scratch):
    """The last crossing in place of the first."""
    ahead = (scratch >= frozen).tolist()
    starts = [i for i in range(1, len(ahead)) if ahead[i] and not ahead[i - 1]]
    if not starts:
        return crossover(counts, frozen, scratch)
    i = starts[-1] - 1
    return crossover(counts[i:], frozen[i:], scratch[i:])


def _strictly_ahead(counts, frozen, scratch):
    """A tie is not counted, although "at least as good" includes it."""
    return crossover(counts, frozen + 1e-6, scratch)


def _halfway(counts, frozen, scratch):
    """The middle between two counts, wherever the curves cross."""
    i = int((scratch >= frozen).int().argmax())
    if i == 0:
        return crossover(counts, frozen, scratch)
    return (counts[i - 1] * counts[i]).sqrt().item()


def _share_turned_around(counts, frozen, scratch):
    """The share of the way is counted from the wrong end."""
    point = crossover(counts, frozen, scratch)
    i = int((counts >= point).int().argmax())
    if i == 0 or math.isinf(point):
        return point
    return (counts[i - 1] * counts[i]).item() / point


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
        "the last crossing": _last_crossing,
        "a tie not counted": _strictly_ahead,
        "halfway": _halfway,
        "share from the wrong end": _share_turned_around,
    },
    alternatives=(
        _crossover_by_numpy,
        _crossover_by_the_gap,
        _crossover_by_a_loop,
        _crossover_in_float64,
        _crossover_as_a_tensor,
    ),
)

EXERCISES = [SWAP, GROUPS, CROSSOVER]
