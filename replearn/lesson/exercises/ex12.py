"""Exercises of lesson 12: a shuffle that resumes, INT8 weights, a head for raw features, mixup.

Shapes: N pictures, C classes or rows, D features or columns.
"""

import numpy as np
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
        answer = torch.as_tensor(answer)  # of a list or tuple, too
        indexes = answer.reshape(-1).tolist()
    except Exception:  # no tensor can be made of it: the comparison says what it is
        return difference(expected, answer)
    if answer.is_floating_point():
        return "expected whole numbers (integers can be indexes), found floating-point numbers"
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


def _batch_by_list(step, n, batch_size, seed):
    per_epoch = n // batch_size
    order = _shuffle(n, seed + step // per_epoch).tolist()
    first = (step % per_epoch) * batch_size
    return [order[k] for k in range(first, first + batch_size)]


def _batch_in_numpy(step, n, batch_size, seed):
    epoch = step // (n // batch_size)
    first = (step - epoch * (n // batch_size)) * batch_size
    return _shuffle(n, seed + epoch).numpy()[first : first + batch_size]


def _batch_by_index_select(step, n, batch_size, seed):
    epoch, place = divmod(step, n // batch_size)
    wanted = place * batch_size + torch.arange(batch_size)
    return torch.index_select(_shuffle(n, seed + epoch), 0, wanted)


def _batch_by_global_seed(step, n, batch_size, seed):
    epoch, place = divmod(step, n // batch_size)
    torch.manual_seed(seed + epoch)
    return torch.randperm(n).narrow(0, place * batch_size, batch_size)


def _batch_by_chunks(step, n, batch_size, seed):
    batches = []
    for epoch in range(step // (n // batch_size) + 1):
        chunks = torch.split(_shuffle(n, seed + epoch), batch_size)
        batches += [chunk for chunk in chunks if len(chunk) == batch_size]
    return tuple(batches[step].tolist())


def _same_order_every_epoch(step, n, batch_size, seed):
    """The shuffle of the first epoch for all epochs."""
    return batch_at(step % (n // batch_size), n, batch_size, seed)


def _no_shuffle(step, n, batch_size, seed):
    """The pictures in the order of the data set, without a shuffle."""
    return _batch(torch.arange(n), step % (n // batch_size), batch_size)


def _incomplete_batch_counts(step, n, batch_size, seed):
    """One step more in each epoch where the last batch is not full."""
    per_epoch = -(-n // batch_size)  # rounded up
    epoch, place = divmod(step, per_epoch)
    return _batch(_shuffle(n, seed + epoch), place, batch_size)


def _epochs_by_pictures(step, n, batch_size, seed):
    """An epoch that ends after n pictures, as if the incomplete batch were filled up."""
    epoch = step * batch_size // n
    return _batch(_shuffle(n, seed + epoch), step % (n // batch_size), batch_size)


def _shuffle_every_step(step, n, batch_size, seed):
    """A new shuffle for each step, so that a picture may come twice in an epoch."""
    return _shuffle(n, seed + step)[:batch_size]


def _with_replacement(step, n, batch_size, seed):
    """A draw in which a picture may come twice in a batch."""
    generator = torch.Generator().manual_seed(seed + step)
    return torch.randint(0, n, (batch_size,), generator=generator)


def _one_generator_for_all_epochs(step, n, batch_size, seed):
    """One generator that goes on from epoch to epoch, whose state would have to be saved."""
    generator = torch.Generator().manual_seed(seed)
    epoch, place = divmod(step, n // batch_size)
    for _ in range(epoch + 1):
        order = torch.randperm(n, generator=generator)
    return _batch(order, place, batch_size)


def _epochs_from_1(step, n, batch_size, seed):
    """The seed seed + 1 for the first epoch, as if epochs counted from 1."""
    return batch_at(step, n, batch_size, seed + 1)


def _seed_times_epoch(step, n, batch_size, seed):
    """The product of seed and epoch as the seed, which is 0 in the first epoch for every seed."""
    epoch, place = divmod(step, n // batch_size)
    return _batch(_shuffle(n, seed * epoch), place, batch_size)


def _every_so_many(step, n, batch_size, seed):
    """Every so many entries of the shuffle in place of neighboring ones."""
    per_epoch = n // batch_size
    epoch, place = divmod(step, per_epoch)
    return _shuffle(n, seed + epoch)[place::per_epoch][:batch_size]


def _sorted_shuffle(step, n, batch_size, seed):
    """The place of each picture in the shuffle (its inverse) in place of the shuffle itself."""
    epoch, place = divmod(step, n // batch_size)
    return _batch(_shuffle(n, seed + epoch).argsort(), place, batch_size)


def _one_step_late(step, n, batch_size, seed):
    """The batch of the step after this one, as if steps counted from 1."""
    return batch_at(step + 1, n, batch_size, seed)


def _global_generator(step, n, batch_size, seed):
    """A shuffle by the global generator, which depends on everything that was drawn before."""
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
        "an epoch ends after n pictures": _epochs_by_pictures,
        "seed times epoch": _seed_times_epoch,
        "every so many entries": _every_so_many,
        "the inverse shuffle": _sorted_shuffle,
        "one step late": _one_step_late,
    },
    alternatives=(
        _batch_by_walking,
        _batch_by_reshaping,
        _batch_by_list,
        _batch_in_numpy,
        _batch_by_index_select,
        _batch_by_global_seed,
        _batch_by_chunks,
    ),
)


# --- quantize_rows ----------------------------------------------------------------------------


def quantize_rows(w):
    """The weights after rounding to 8 bits: each row of w by a step of its own, scaled back.

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


def _quantize_in_numpy(w):
    w = w.numpy().astype(np.float64)
    step = np.abs(w).max(axis=1, keepdims=True) / 127
    step[step == 0] = 1.0
    return np.rint(w / step) * step


def _quantize_in_place(w):
    w = w.clone()
    largest = torch.maximum(w.amax(1), -w.amin(1)).unsqueeze(1)
    w.mul_(127).div_(torch.where(largest > 0, largest, 1.0)).round_()
    return w.mul_(largest).div_(127)


def _quantize_by_nan_to_num(w):
    largest = torch.linalg.vector_norm(w, ord=float("inf"), dim=1, keepdim=True)
    return torch.nan_to_num((127 * w / largest).round()) * largest / 127


def _quantize_by_lists(w):
    rows = []
    for row in w.tolist():
        step = max(abs(weight) for weight in row) / 127
        rows.append([round(weight / step) * step if step else 0.0 for weight in row])
    return torch.tensor(rows)


def _quantize_in_float64(w):
    doubled = w.double()
    step = doubled.abs().max(dim=1, keepdim=True).values.div(127)
    return torch.where(step > 0, (doubled / step).round() * step, torch.zeros_like(doubled))


def _row_step(w):
    """Step of each row, (C, 1), above 0."""
    return (w.abs().amax(1, keepdim=True) / 127).clamp(min=1e-30)


def _one_step_for_all(w):
    """One step for the whole matrix, by which a row of small weights becomes zero."""
    step = (w.abs().max() / 127).clamp(min=1e-30)
    return torch.round(w / step) * step


def _step_for_each_column(w):
    """A step for each column in place of each row."""
    step = (w.abs().amax(0, keepdim=True) / 127).clamp(min=1e-30)
    return torch.round(w / step) * step


def _rounded_down(w):
    """Rounding down (floor) in place of rounding to the nearest whole number."""
    return torch.floor(w / _row_step(w)) * _row_step(w)


def _cut_off(w):
    """The digits behind the point dropped, as a cast to an integer type does."""
    return torch.trunc(w / _row_step(w)) * _row_step(w)


def _in_steps(w, steps):
    """Each row in this number of steps a side."""
    step = (w.abs().amax(1, keepdim=True) / steps).clamp(min=1e-30)
    return torch.round(w / step) * step


def _128_steps(w):
    """128 steps on each side of zero in place of 127."""
    return _in_steps(w, 128)


def _64_steps(w):
    """64 steps on each side of zero, as in the exported file, in place of 127."""
    return _in_steps(w, 64)


def _4_bits(w):
    """7 steps on each side of zero, as in INT4."""
    return _in_steps(w, 7)


def _255_steps_of_the_range(w):
    """The row's range, from its smallest to its largest weight, in 255 steps."""
    low = w.amin(1, keepdim=True)
    step = ((w.amax(1, keepdim=True) - low) / 255).clamp(min=1e-30)
    return torch.round((w - low) / step) * step + low


def _largest_weight(w):
    """The largest weight of a row in place of the largest size: -3 counts less than 1."""
    step = (w.amax(1, keepdim=True) / 127).clamp(min=1e-30)
    return torch.round(w / step) * step


def _mean_size(w):
    """The mean size of the row's weights in place of the largest size."""
    step = (w.abs().mean(1, keepdim=True) / 127).clamp(min=1e-30)
    return torch.round(w / step).clamp(-127, 127) * step


def _signs_lost(w):
    """The sizes of the weights, without their signs."""
    return quantize_rows(w).abs()


def _not_scaled_back(w):
    """The whole numbers q, not multiplied by the step again."""
    return torch.round(w / _row_step(w))


def _not_rounded(w):
    """The weights divided by the step and multiplied by it again, without rounding."""
    return w / _row_step(w) * _row_step(w)


def _zero_by_zero(w):
    """A division by the step of a row of zeros, which gives NaN."""
    largest = w.abs().amax(1, keepdim=True)
    return torch.round(w / (largest / 127)) * largest / 127


QUANTIZE = Exercise(
    solution=quantize_rows,
    cases=_quantize_cases,
    difficulty=2,
    minutes=10,
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
        "64 steps a side": _64_steps,
        "255 steps of the range": _255_steps_of_the_range,
        "the mean size": _mean_size,
        "signs lost": _signs_lost,
        "not rounded": _not_rounded,
    },
    alternatives=(
        _quantize_by_loop,
        _quantize_by_torch,
        _quantize_in_numpy,
        _quantize_in_place,
        _quantize_by_nan_to_num,
        _quantize_by_lists,
        _quantize_in_float64,
    ),
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


def _fold_in_numpy(weight, bias, mean, std):
    weight, bias, mean, std = (x.numpy().astype(np.float64) for x in (weight, bias, mean, std))
    scale = np.divide(1.0, std, out=np.zeros_like(std), where=std > 0)
    return weight * scale[None, :], bias - (weight * scale * mean).sum(axis=1)


def _fold_by_diagonal(weight, bias, mean, std):
    varies = std > 0
    scale = torch.zeros_like(std)
    scale[varies] = std[varies].reciprocal()
    new_weight = weight @ torch.diag(scale)
    return new_weight, torch.addmv(bias, new_weight, -mean)


def _fold_by_nan_to_num(weight, bias, mean, std):
    new_weight = torch.nan_to_num(weight / std, nan=0.0, posinf=0.0, neginf=0.0)
    return new_weight, bias - torch.einsum("cd,d->c", new_weight, mean)


def _fold_in_place(weight, bias, mean, std):
    weight = weight.clone()
    bias = bias.clone()
    weight[:, std == 0] = 0.0
    weight /= std.masked_fill(std == 0, 1.0)
    bias -= (weight * mean).sum(1)
    return weight, bias


def _fold_by_class(weight, bias, mean, std):
    rows, biases = [], []
    for row, own_bias in zip(weight.double(), bias.double(), strict=True):
        new_row = torch.where(std > 0, row / std.clamp(min=1e-30), 0.0)
        rows.append(new_row)
        biases.append(own_bias - new_row @ mean.double())
    return torch.stack(rows), torch.stack(biases)


def _bias_forgotten(weight, bias, mean, std):
    """The new weight with the old bias."""
    new_weight, _ = fold_head(weight, bias, mean, std)
    return new_weight, bias


def _old_weight_against_mean(weight, bias, mean, std):
    """The mean multiplied by the old weight, not divided by std."""
    new_weight, _ = fold_head(weight, bias, mean, std)
    return new_weight, bias - weight @ mean


def _mean_added(weight, bias, mean, std):
    """The mean's share added to the bias in place of subtracted."""
    new_weight, _ = fold_head(weight, bias, mean, std)
    return new_weight, bias + new_weight @ mean


def _bias_without_old_bias(weight, bias, mean, std):
    """The mean's share alone as the new bias, without the old bias."""
    new_weight, _ = fold_head(weight, bias, mean, std)
    return new_weight, -(new_weight @ mean)


def _weight_not_folded(weight, bias, mean, std):
    """The new bias with the old weight."""
    _, new_bias = fold_head(weight, bias, mean, std)
    return weight, new_bias


def _times_std(weight, bias, mean, std):
    """A multiplication by std in place of the division."""
    return weight * std, bias - (weight * std) @ mean


def _variance_for_std(weight, bias, mean, std):
    """A division by the variance in place of std."""
    return fold_head(weight, bias, mean, std**2)


def _divided_by_zero(weight, bias, mean, std):
    """A division by 0 for a feature that never varied, which gives infinity."""
    return weight / std, bias - (weight / std) @ mean


def _zero_counts_as_1(weight, bias, mean, std):
    """The old weight kept for a feature that never varied."""
    return fold_head(weight, bias, mean, torch.where(std > 0, std, 1.0))


def _tiny_std(weight, bias, mean, std):
    """A tiny number in place of a std of 0, which makes an enormous weight."""
    return fold_head(weight, bias, mean, std.clamp(min=1e-6))


def _infinity_as_largest(weight, bias, mean, std):
    """The largest number of float32 in place of infinity."""
    new_weight = torch.nan_to_num(weight / std)
    return new_weight, bias - torch.nan_to_num(new_weight @ mean)


def _constant_in_the_bias(weight, bias, mean, std):
    """A feature that never varied, left out of the weight but not out of the bias."""
    new_weight, _ = fold_head(weight, bias, mean, std)
    kept, _ = fold_head(weight, bias, mean, torch.where(std > 0, std, 1.0))
    return new_weight, bias - kept @ mean


FOLD = Exercise(
    solution=fold_head,
    cases=_fold_cases,
    difficulty=2,
    minutes=10,
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
        "without the old bias": _bias_without_old_bias,
        "the weight not folded": _weight_not_folded,
        "a tiny std": _tiny_std,
        "infinity as the largest number": _infinity_as_largest,
        "std 0 left in the bias": _constant_in_the_bias,
    },
    alternatives=(
        _fold_by_asking,
        _fold_by_loop,
        _fold_in_numpy,
        _fold_by_diagonal,
        _fold_by_nan_to_num,
        _fold_in_place,
        _fold_by_class,
    ),
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


def _mixup_by_loop(logits, y, other, share):
    total = 0.0
    for i in range(len(y)):
        log_p = logits[i] - logits[i].logsumexp(0)
        total = total - share[i] * log_p[y[i]] - (1 - share[i]) * log_p[other[i]]
    return total / len(y)


def _mixup_by_gather(logits, y, other, share):
    log_p = F.log_softmax(logits, dim=1)
    own = log_p.gather(1, y[:, None]).squeeze(1)
    mixed_in = log_p.gather(1, other[:, None]).squeeze(1)
    return -torch.lerp(mixed_in, own, share).mean()


def _mixup_by_dot_products(logits, y, other, share):
    own = F.cross_entropy(logits, y, reduction="none")
    mixed_in = F.cross_entropy(logits, other, reduction="none")
    return (share @ own + (1 - share) @ mixed_in) / len(share)


def _mixup_in_float64(logits, y, other, share):
    return mixup_loss(logits.double(), y, other, share.double())


def _mixup_by_mixed_logit(logits, y, other, share):
    rows = torch.arange(len(y))
    mixed = share * logits[rows, y] + (1 - share) * logits[rows, other]
    return (logits.logsumexp(1) - mixed).mean()


def _shares_swapped(logits, y, other, share):
    """The share given to the other label, and the rest to y."""
    return mixup_loss(logits, other, y, share)


def _other_label_forgotten(logits, y, other, share):
    """Only the first of the two terms."""
    return (share * F.cross_entropy(logits, y, reduction="none")).mean()


def _half_and_half(logits, y, other, share):
    """The same share, one half, for both labels."""
    return mixup_loss(logits, y, other, torch.full_like(share, 0.5))


def _one_share_for_the_batch(logits, y, other, share):
    """One share for all rows (the square of the mean share) in place of a share for each."""
    return mixup_loss(logits, y, other, share.mean().expand(len(share)) ** 2)


def _sum_over_rows(logits, y, other, share):
    """The sum over the rows in place of their mean."""
    return len(y) * mixup_loss(logits, y, other, share)


def _labels_not_mixed(logits, y, other, share):
    """Plain cross-entropy against y."""
    return F.cross_entropy(logits, y)


def _log_of_mixed_probability(logits, y, other, share):
    """The logarithm of the mean probability in place of the mean of the logarithms."""
    p = logits.softmax(1)
    rows = torch.arange(len(y))
    mixed = share * p[rows, y] + (1 - share) * p[rows, other]
    return -mixed.clamp(min=1e-30).log().mean()


def _both_terms_in_full(logits, y, other, share):
    """Both cross-entropies added in full, without the shares."""
    return F.cross_entropy(logits, y) + F.cross_entropy(logits, other)


def _divided_by_the_shares(logits, y, other, share):
    """Each term divided by the sum of its shares in place of the number of rows."""
    own = F.cross_entropy(logits, y, reduction="none")
    mixed_in = F.cross_entropy(logits, other, reduction="none")
    rest = 1 - share
    first = (share * own).sum() / share.sum().clamp(min=1e-6)
    second = (rest * mixed_in).sum() / rest.sum().clamp(min=1e-6)
    return first + second


def _without_softmax(logits, y, other, share):
    """The mixed logits with a minus sign, without the softmax."""
    rows = torch.arange(len(y))
    return -(share * logits[rows, y] + (1 - share) * logits[rows, other]).mean()


def _means_mixed(logits, y, other, share):
    """The two mean losses mixed by the mean share, not row by row."""
    mean = share.mean()
    return mean * F.cross_entropy(logits, y) + (1 - mean) * F.cross_entropy(logits, other)


def _in_bits(logits, y, other, share):
    """The loss in bits in place of nats."""
    return mixup_loss(logits, y, other, share) / np.log(2)


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
        "both terms in full": _both_terms_in_full,
        "divided by the shares": _divided_by_the_shares,
        "without the softmax": _without_softmax,
        "the means mixed": _means_mixed,
        "bits": _in_bits,
    },
    alternatives=(
        _mixup_by_targets,
        _mixup_by_soft_labels,
        _mixup_by_loop,
        _mixup_by_gather,
        _mixup_by_dot_products,
        _mixup_in_float64,
        _mixup_by_mixed_logit,
    ),
)

EXERCISES = [BATCH_AT, QUANTIZE, FOLD, MIXUP]
