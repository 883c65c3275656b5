"""Exercises of lesson 12: a shuffle that resumes, INT8 weights, a head for raw features, mixup.

Shapes: N pictures, C classes or rows, D features or columns.
"""

import torch
import torch.nn.functional as F

from replearn.lesson.exercises import Exercise
from replearn.lesson.exercises.compare import difference

# --- batch_at ---------------------------------------------------------------------------------


def batch_at(step, n, batch_size, seed):
    """The indexes of the pictures that training step `step` uses: a function of the step alone.

    Each epoch has n // batch_size steps (an incomplete batch is left out) and its own shuffle of
    all n pictures: torch.randperm(n, generator=g), g = torch.Generator().manual_seed(seed + epoch);
    steps and epochs count from 0. Returns (batch_size,) integers. A run that goes on at `step` then
    sees what it would have seen.
    """
    epoch, place = divmod(step, n // batch_size)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed + epoch))
    return order[place * batch_size : (place + 1) * batch_size]


def _batch_cases(generator: torch.Generator) -> dict[str, tuple]:
    seed = torch.randint(0, 10_000, (1,), generator=generator).item()
    # step, n, batch_size, seed
    return {
        "the first step": (0, 24, 4, seed),
        "a step within the first epoch": (3, 24, 4, seed),
        "the first step of the second epoch": (6, 24, 4, seed),
        "a step far along": (125, 40, 8, seed),
        "pictures that do not fill the last batch": (7, 30, 8, seed),
        "one batch an epoch": (5, 20, 12, seed),
    }


def _batch_judge(answer, expected, step, n, batch_size, seed):
    """The usual comparison, after a look at indexes that cannot be a batch."""
    try:
        indexes = torch.as_tensor(answer).reshape(-1).tolist()
    except Exception:  # no tensor can be made of it: the comparison says what it is
        return difference(expected, answer)
    if any(index not in range(n) for index in indexes):
        return f"expected indexes from 0 to {n - 1}, found {max(indexes, key=abs)}"
    if len(set(indexes)) < len(indexes):
        return "expected different pictures within a batch, found one twice"
    return difference(expected, answer)


def _shuffle(n, seed):
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def _batch(order, place, batch_size):
    """Batch number `place` of an order."""
    return order[place * batch_size :][:batch_size]


def _batch_by_walking(step, n, batch_size, seed):
    per_epoch = n // batch_size
    epoch = 0
    while step >= per_epoch:
        epoch += 1
        step -= per_epoch
    return _shuffle(n, seed + epoch).split(batch_size)[step]


def _batch_by_reshaping(step, n, batch_size, seed):
    per_epoch = n // batch_size
    order = _shuffle(n, seed + step // per_epoch)[: per_epoch * batch_size]
    return order.reshape(per_epoch, batch_size)[step % per_epoch]


def _same_order_every_epoch(step, n, batch_size, seed):
    """All epochs use the shuffle of the first."""
    return batch_at(step % (n // batch_size), n, batch_size, seed)


def _no_shuffle(step, n, batch_size, seed):
    """The pictures in the order of the data set."""
    return _batch(torch.arange(n), step % (n // batch_size), batch_size)


def _incomplete_batch_counts(step, n, batch_size, seed):
    """An epoch has one step more where the last batch is not full."""
    per_epoch = -(-n // batch_size)  # rounded up
    epoch, place = divmod(step, per_epoch)
    return _batch(_shuffle(n, seed + epoch), place, batch_size)


def _shuffle_every_step(step, n, batch_size, seed):
    """Each step has its own shuffle: a picture may come twice in an epoch."""
    return _shuffle(n, seed + step)[:batch_size]


def _with_replacement(step, n, batch_size, seed):
    """A picture may come twice in a batch."""
    generator = torch.Generator().manual_seed(seed + step)
    return torch.randint(0, n, (batch_size,), generator=generator)


def _one_generator_for_all_epochs(step, n, batch_size, seed):
    """A generator that goes on from epoch to epoch: its state would have to be saved."""
    generator = torch.Generator().manual_seed(seed)
    epoch, place = divmod(step, n // batch_size)
    for _ in range(epoch + 1):
        order = torch.randperm(n, generator=generator)
    return _batch(order, place, batch_size)


def _epochs_from_1(step, n, batch_size, seed):
    """The first epoch takes seed + 1."""
    return batch_at(step, n, batch_size, seed + 1)


def _global_generator(step, n, batch_size, seed):
    """The shuffle depends on everything that was drawn before."""
    return _batch(torch.randperm(n), step % (n // batch_size), batch_size)


BATCH_AT = Exercise(
    solution=batch_at,
    cases=_batch_cases,
    difficulty=1,
    minutes=10,
    judge=_batch_judge,
    hints=(
        "How many steps has an epoch? divmod(step, that number) gives the epoch and the place in "
        "it.",
        "A new generator, seeded with seed + epoch, gives the same shuffle whenever it is asked.",
        "Place p of the epoch takes the entries p * batch_size to (p + 1) * batch_size - 1 of the "
        "shuffle.",
    ),
    wrong={
        "every epoch in the same order": _same_order_every_epoch,
        "no shuffle": _no_shuffle,
        "the incomplete batch counts as a step": _incomplete_batch_counts,
        "a shuffle a step": _shuffle_every_step,
        "with replacement": _with_replacement,
        "one generator for all epochs": _one_generator_for_all_epochs,
        "epochs count from 1": _epochs_from_1,
        "the global generator": _global_generator,
    },
    alternatives=(_batch_by_walking, _batch_by_reshaping),
)


# --- quantize_rows ----------------------------------------------------------------------------


def quantize_rows(w):
    """The weights as INT8 arithmetic sees them: each row of w in 255 steps, scaled back.

    Row c has its own step s_c = max_j |w_cj| / 127; q_cj = round(w_cj / s_c) is a whole number from
    -127 to 127 and the result is q_cj s_c. A row of zeros stays zero. w: (C, D), float. Returns
    (C, D), float.
    """
    step = w.abs().amax(dim=1, keepdim=True) / 127  # (C, 1)
    q = torch.round(w / step.clamp(min=1e-30))
    return q * step


def _quantize_cases(generator: torch.Generator) -> dict[str, tuple]:
    w = torch.randn(4, 6, generator=generator)
    scales = torch.tensor([[1e-3], [1.0], [50.0]])
    with_zeros = torch.randn(3, 5, generator=generator)
    with_zeros[1] = 0
    return {
        "random weights": (w,),
        "rows of very different size": (scales * torch.randn(3, 8, generator=generator),),
        "a row of zeros": (with_zeros,),
        "negative weights only": (-torch.rand(2, 7, generator=generator) - 0.1,),
        "one weight a row": (torch.randn(3, 1, generator=generator),),
    }


def _quantize_by_loop(w):
    result = torch.zeros_like(w)
    for c, row in enumerate(w):
        largest = row.abs().max()
        if largest > 0:
            q = (row * (127 / largest)).round().to(torch.int8)
            result[c] = q.float() * (largest / 127)
    return result


def _quantize_by_torch(w):
    step = (w.abs().amax(1) / 127).clamp(min=1e-30)
    zero_point = torch.zeros(len(w), dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(w, step, zero_point, 0, -127, 127)


def _row_step(w):
    """Step of each row, (C, 1), above 0."""
    return (w.abs().amax(1, keepdim=True) / 127).clamp(min=1e-30)


def _one_step_for_all(w):
    """One step for the whole matrix: a row of small weights becomes zero."""
    step = (w.abs().max() / 127).clamp(min=1e-30)
    return torch.round(w / step) * step


def _step_for_each_column(w):
    """The other axis."""
    step = (w.abs().amax(0, keepdim=True) / 127).clamp(min=1e-30)
    return torch.round(w / step) * step


def _rounded_down(w):
    """floor in place of round."""
    return torch.floor(w / _row_step(w)) * _row_step(w)


def _cut_off(w):
    """The digits behind the point are dropped, as a cast to an integer type does."""
    return torch.trunc(w / _row_step(w)) * _row_step(w)


def _in_steps(w, steps):
    """Each row in this number of steps a side."""
    step = (w.abs().amax(1, keepdim=True) / steps).clamp(min=1e-30)
    return torch.round(w / step) * step


def _128_steps(w):
    """INT8 goes from -128 to 127, but here both sides have 127 steps."""
    return _in_steps(w, 128)


def _4_bits(w):
    """INT4."""
    return _in_steps(w, 7)


def _largest_weight(w):
    """The largest weight of a row, not the largest size: -3 counts less than 1."""
    step = (w.amax(1, keepdim=True) / 127).clamp(min=1e-30)
    return torch.round(w / step) * step


def _not_scaled_back(w):
    """The whole numbers q."""
    return torch.round(w / _row_step(w))


def _zero_by_zero(w):
    """A row of zeros has step 0 and becomes NaN."""
    largest = w.abs().amax(1, keepdim=True)
    return torch.round(w / (largest / 127)) * largest / 127


QUANTIZE = Exercise(
    solution=quantize_rows,
    cases=_quantize_cases,
    difficulty=2,
    minutes=15,
    hints=(
        "w.abs().amax(dim=1, keepdim=True) is the largest size in each row, (C, 1).",
        "Divide by the step, torch.round, multiply by the step again.",
        "In a row of zeros the step is 0, and 0 / 0 is NaN: clamp the divisor from below by "
        "something tiny.",
    ),
    wrong={
        "one step for the whole matrix": _one_step_for_all,
        "a step for each column": _step_for_each_column,
        "rounded down": _rounded_down,
        "cut off toward zero": _cut_off,
        "128 steps a side": _128_steps,
        "4 bits": _4_bits,
        "the largest, not the largest size": _largest_weight,
        "the numbers q, not scaled back": _not_scaled_back,
        "0 / 0": _zero_by_zero,
    },
    alternatives=(_quantize_by_loop, _quantize_by_torch),
)


# --- fold_head --------------------------------------------------------------------------------


def fold_head(weight, bias, mean, std):
    """The linear head that takes raw features h, for one that takes standardized features.

    It gives the same logits: weight @ ((h - mean) / std) + bias for every h; a feature with std 0
    never varied and counts nothing. weight: (C, D), bias: (C,), mean, std: (D,), std >= 0.
    Returns (new weight (C, D), new bias (C,)), all finite.
    """
    scale = torch.where(std > 0, 1 / std, 0.0)  # (D,)
    new_weight = weight * scale
    return new_weight, bias - new_weight @ mean


def _fold_cases(generator: torch.Generator) -> dict[str, tuple]:
    def case(c, d, spread=1.0, shift=1.0):
        weight = torch.randn(c, d, generator=generator)
        bias = torch.randn(c, generator=generator)
        std = (spread * torch.randn(d, generator=generator)).exp()
        mean = shift * torch.randn(d, generator=generator)
        return weight, bias, mean, std

    weight, bias, mean, std = case(3, 5)
    varies = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])
    return {
        "a random head": case(4, 6),
        "features of very different spread": case(3, 5, spread=2.0),
        "a mean of zero": case(2, 4, shift=0.0),
        "a spread of one": (*case(3, 4)[:3], torch.ones(4)),
        "a feature that never varied (std 0)": (weight, bias, mean, std * varies),
    }


def _fold_judge(answer, expected, weight, bias, mean, std):
    """Both halves by name, so that the sentence says which one is wrong."""
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        return difference(expected, answer)
    for i, name in enumerate(("the new weight", "the new bias")):
        sentence = difference(expected[i], answer[i], 1e-4)
        if sentence:
            return f"{name}: {sentence}"
    return None


def _fold_by_asking(weight, bias, mean, std):
    """The new bias is the answer to 0, each column the answer to a unit vector."""

    def logits(h):
        z = torch.where(std > 0, (h - mean) / std.clamp(min=1e-30), 0.0)
        return z @ weight.T + bias

    at_zero = logits(torch.zeros_like(mean))
    return (logits(torch.eye(len(mean))) - at_zero).T, at_zero


def _fold_by_loop(weight, bias, mean, std):
    new_weight = torch.zeros_like(weight)
    new_bias = bias.clone()
    for d in range(len(mean)):
        if std[d] > 0:
            new_weight[:, d] = weight[:, d] / std[d]
            new_bias -= new_weight[:, d] * mean[d]
    return [new_weight, new_bias]


def _bias_forgotten(weight, bias, mean, std):
    """Only the weight is folded."""
    new_weight, _ = fold_head(weight, bias, mean, std)
    return new_weight, bias


def _old_weight_against_mean(weight, bias, mean, std):
    """The mean is multiplied by the weight before it was divided by std."""
    new_weight, _ = fold_head(weight, bias, mean, std)
    return new_weight, bias - weight @ mean


def _mean_added(weight, bias, mean, std):
    """The sign of the mean is turned around."""
    new_weight, _ = fold_head(weight, bias, mean, std)
    return new_weight, bias + new_weight @ mean


def _times_std(weight, bias, mean, std):
    """Multiplied by std, where it divides."""
    return weight * std, bias - (weight * std) @ mean


def _variance_for_std(weight, bias, mean, std):
    """Divided by the variance."""
    return fold_head(weight, bias, mean, std**2)


def _divided_by_zero(weight, bias, mean, std):
    """A feature that never varied gives infinity."""
    return weight / std, bias - (weight / std) @ mean


def _zero_counts_as_1(weight, bias, mean, std):
    """A feature that never varied keeps its weight."""
    return fold_head(weight, bias, mean, torch.where(std > 0, std, 1.0))


FOLD = Exercise(
    solution=fold_head,
    cases=_fold_cases,
    difficulty=2,
    minutes=15,
    judge=_fold_judge,
    hints=(
        "Multiply out: W ((h - m) / s) + b = (W / s) h + (b - (W / s) m); what stands before h is "
        "the new weight.",
        "weight / std divides column d by std[d]; weight @ mean takes one number for each class.",
        "torch.where(std > 0, 1 / std, 0.0) gives the scale, without infinity.",
    ),
    wrong={
        "bias forgotten": _bias_forgotten,
        "the old weight against the mean": _old_weight_against_mean,
        "the mean added": _mean_added,
        "times std": _times_std,
        "variance in place of std": _variance_for_std,
        "divided by zero": _divided_by_zero,
        "std 0 counts as 1": _zero_counts_as_1,
    },
    alternatives=(_fold_by_asking, _fold_by_loop),
)


# --- mixup_loss -------------------------------------------------------------------------------


def mixup_loss(logits, y, other, share):
    """Cross-entropy against mixed labels: row i is `share_i` of class y_i, the rest of other_i.

    loss = mean_i [ share_i CE(logits_i, y_i) + (1 - share_i) CE(logits_i, other_i) ]
    (Zhang et al. 2018, Eq. 1 with cross-entropy, which is linear in the target). logits: (N, C);
    y, other: (N,) integers; share: (N,) in [0, 1]. Returns one number (nats), differentiable in
    logits.
    """
    own = F.cross_entropy(logits, y, reduction="none")  # (N,)
    mixed_in = F.cross_entropy(logits, other, reduction="none")
    return (share * own + (1 - share) * mixed_in).mean()


def _mixup_cases(generator: torch.Generator) -> dict[str, tuple]:
    def case(n, c, share=None):
        y, other = torch.randint(0, c, (2, n), generator=generator)
        if share is None:
            share = torch.rand(n, generator=generator)
        else:
            share = torch.full((n,), share)
        return 2 * torch.randn(n, c, generator=generator), y, other, share

    logits, y, _, share = case(5, 3)
    return {
        "random shares": case(6, 4),
        "share 1 (plain cross-entropy)": case(5, 3, share=1.0),
        "share 0 (the other label alone)": case(5, 3, share=0.0),
        "both pictures of one class": (logits, y, y.clone(), share),
        "large logits": (100 * logits, y, y.flip(0), share),
    }


def _mixup_by_targets(logits, y, other, share):
    classes = torch.arange(logits.shape[1])
    is_own = y[:, None] == classes  # (N, C)
    is_other = other[:, None] == classes
    target = share[:, None] * is_own + (1 - share)[:, None] * is_other
    return -(target * logits.log_softmax(1)).sum(1).mean()


def _mixup_by_soft_labels(logits, y, other, share):
    own_one_hot = F.one_hot(y, logits.shape[1]).float()
    other_one_hot = F.one_hot(other, logits.shape[1]).float()
    return F.cross_entropy(logits, torch.lerp(other_one_hot, own_one_hot, share[:, None]))


def _shares_swapped(logits, y, other, share):
    """The share belongs to the other label."""
    return mixup_loss(logits, other, y, share)


def _other_label_forgotten(logits, y, other, share):
    """Only the first of the two terms."""
    return (share * F.cross_entropy(logits, y, reduction="none")).mean()


def _half_and_half(logits, y, other, share):
    """Both labels count the same."""
    return mixup_loss(logits, y, other, torch.full_like(share, 0.5))


def _one_share_for_the_batch(logits, y, other, share):
    """The same share for all rows, the square of the mean, so that 0 and 1 alone are right."""
    return mixup_loss(logits, y, other, share.mean().expand(len(share)) ** 2)


def _sum_over_rows(logits, y, other, share):
    """N times too large."""
    return len(y) * mixup_loss(logits, y, other, share)


def _labels_not_mixed(logits, y, other, share):
    """Plain cross-entropy."""
    return F.cross_entropy(logits, y)


def _log_of_mixed_probability(logits, y, other, share):
    """The logarithm of the mean in place of the mean of the logarithms."""
    p = logits.softmax(1)
    rows = torch.arange(len(y))
    mixed = share * p[rows, y] + (1 - share) * p[rows, other]
    return -mixed.clamp(min=1e-30).log().mean()


def _mixup_without_gradient(logits, y, other, share):
    """The right value, cut off from the logits."""
    return mixup_loss(logits.detach(), y, other, share)


MIXUP = Exercise(
    solution=mixup_loss,
    cases=_mixup_cases,
    difficulty=1,
    minutes=10,
    gradient_of=(0,),
    tolerance=1e-3,
    hints=(
        'F.cross_entropy(..., reduction="none") gives one number for each row, (N,).',
        "Weigh the two rows of numbers by share and 1 - share before you take the mean.",
        "Or make targets (N, C) that hold share at y and 1 - share at other: F.cross_entropy takes "
        "them too.",
    ),
    wrong={
        "shares swapped": _shares_swapped,
        "the other label forgotten": _other_label_forgotten,
        "half and half": _half_and_half,
        "one share for the whole batch": _one_share_for_the_batch,
        "sum in place of mean": _sum_over_rows,
        "labels not mixed": _labels_not_mixed,
        "log of the mixed probability": _log_of_mixed_probability,
        "cut gradient": _mixup_without_gradient,
    },
    alternatives=(_mixup_by_targets, _mixup_by_soft_labels),
)

EXERCISES = [BATCH_AT, QUANTIZE, FOLD, MIXUP]
