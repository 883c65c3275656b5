"""Exercises of lesson 12: a shuffle that can be resumed, INT8 weights, a probe that takes raw features, mixup."""

import torch
import torch.nn.functional as F

from replearn.lesson.exercises import Exercise
from replearn.lesson.exercises.compare import difference


def batch_at(step, n, batch_size, seed):
    """The indexes of the pictures that training step number `step` uses: a function of the step and of nothing else.

    Each epoch has n // batch_size steps (an incomplete batch is left out) and its own shuffle of all n pictures:
    torch.randperm(n, generator=g), g = torch.Generator().manual_seed(seed + epoch); steps and epochs count from 0.
    Returns (batch_size,) integers. A run that goes on at `step` then sees what it would have seen.
    """
    epoch, place = divmod(step, n // batch_size)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed + epoch))
    return order[place * batch_size : (place + 1) * batch_size]


def _batch_cases(generator):
    seed = torch.randint(0, 10_000, (1,), generator=generator).item()
    return {
        "the first step": (0, 24, 4, seed),
        "a step within the first epoch": (3, 24, 4, seed),
        "the first step of the second epoch": (6, 24, 4, seed),
        "a step far along": (125, 40, 8, seed),
        "pictures that do not fill the last batch": (7, 30, 8, seed),
        "one batch an epoch": (5, 20, 12, seed),
    }


def _batch_judge(found, expected, step, n, batch_size, seed):
    try:
        indexes = torch.as_tensor(found).reshape(-1).tolist()
    except Exception:
        return difference(expected, found)
    if any(index not in range(n) for index in indexes):
        return f"expected indexes from 0 to {n - 1}, found {max(indexes, key=abs)}"
    if len(set(indexes)) < len(indexes):
        return "expected different pictures within a batch, found one twice"
    return difference(expected, found)


def _shuffle(n, seed):
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def _batch_by_walking(step, n, batch_size, seed):
    epoch, left = 0, step
    while left >= n // batch_size:
        epoch, left = epoch + 1, left - n // batch_size
    return _shuffle(n, seed + epoch).split(batch_size)[left]


def _batch_by_reshaping(step, n, batch_size, seed):
    per_epoch = n // batch_size
    order = _shuffle(n, seed + step // per_epoch)[: per_epoch * batch_size]
    return order.reshape(per_epoch, batch_size)[step % per_epoch]


def _one_stream(step, n, batch_size, seed):
    """A generator that goes on from epoch to epoch: its state would have to be saved."""
    generator = torch.Generator().manual_seed(seed)
    epoch, place = divmod(step, n // batch_size)
    orders = [torch.randperm(n, generator=generator) for _ in range(epoch + 1)]
    return orders[-1][place * batch_size : (place + 1) * batch_size]


BATCH_AT = Exercise(
    solution=batch_at,
    cases=_batch_cases,
    difficulty=1,
    minutes=10,
    judge=_batch_judge,
    hints=(
        "How many steps has an epoch? divmod(step, that number) gives the epoch and the place in it.",
        "A new generator, seeded with seed + epoch, gives the same shuffle whenever it is asked.",
        "Place p of the epoch takes the entries p * batch_size to (p + 1) * batch_size - 1 of the shuffle.",
    ),
    wrong={
        "every epoch in the same order": lambda step, n, b, seed: batch_at(
            step % (n // b), n, b, seed
        ),
        "no shuffle": lambda step, n, b, seed: torch.arange(n)[step % (n // b) * b :][:b],
        "the incomplete batch counts as a step": lambda step, n, b, seed: _shuffle(
            n, seed + step // -(-n // b)
        )[step % -(-n // b) * b :][:b],
        "a shuffle a step": lambda step, n, b, seed: _shuffle(n, seed + step)[:b],
        "with replacement": lambda step, n, b, seed: torch.randint(
            0, n, (b,), generator=torch.Generator().manual_seed(seed + step)
        ),
        "one generator for all epochs": _one_stream,
        "epochs count from 1": lambda step, n, b, seed: batch_at(step, n, b, seed + 1),
        "the global generator": lambda step, n, b, seed: torch.randperm(n)[step % (n // b) * b :][
            :b
        ],
    },
    alternatives=(_batch_by_walking, _batch_by_reshaping),
)


def quantize_rows(w):
    """The weights as INT8 arithmetic sees them: each row of w rounded to 255 steps and scaled back.

    Row c has its own step s_c = max_j |w_cj| / 127; q_cj = round(w_cj / s_c) is a whole number from -127 to 127 and the
    result is q_cj s_c. A row of zeros stays zero. w: (C, D), float. Returns (C, D), float.
    """
    step = w.abs().amax(dim=1, keepdim=True) / 127  # (C, 1)
    q = torch.round(w / step.clamp(min=1e-30))
    return q * step


def _quantize_cases(generator):
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


def _quantize_loop(w):
    out = torch.zeros_like(w)
    for c, row in enumerate(w):
        largest = row.abs().max()
        if largest > 0:
            out[c] = (row * (127 / largest)).round().to(torch.int8).float() * (largest / 127)
    return out


def _quantize(
    levels=127, dim=1, turn=torch.round, largest=lambda w, dim: w.abs().amax(dim, keepdim=True)
):
    def wrong(w):
        step = (largest(w, dim) / levels).clamp(min=1e-30)
        return turn(w / step) * step

    return wrong


QUANTIZE = Exercise(
    solution=quantize_rows,
    cases=_quantize_cases,
    difficulty=2,
    minutes=15,
    hints=(
        "w.abs().amax(dim=1, keepdim=True) is the largest size in each row, (C, 1).",
        "Divide by the step, torch.round, multiply by the step again.",
        "In a row of zeros the step is 0, and 0 / 0 is NaN: clamp the divisor from below by something tiny.",
    ),
    wrong={
        "one step for the whole matrix": _quantize(dim=(0, 1)),
        "a step for each column": _quantize(dim=0),
        "rounded down": _quantize(turn=torch.floor),
        "cut off toward zero": _quantize(turn=torch.trunc),
        "128 steps a side": _quantize(levels=128),
        "4 bits": _quantize(levels=7),
        "the largest, not the largest size": _quantize(
            largest=lambda w, dim: w.amax(dim, keepdim=True)
        ),
        "the numbers q, not scaled back": lambda w: torch.round(
            w / (w.abs().amax(1, keepdim=True) / 127).clamp(min=1e-30)
        ),
        "0 / 0": lambda w: (
            torch.round(w / (w.abs().amax(1, keepdim=True) / 127))
            * w.abs().amax(1, keepdim=True)
            / 127
        ),
    },
    alternatives=(
        _quantize_loop,
        lambda w: torch.fake_quantize_per_channel_affine(
            w,
            (w.abs().amax(1) / 127).clamp(min=1e-30),
            torch.zeros(len(w), dtype=torch.int32),
            0,
            -127,
            127,
        ),
    ),
)


def fold_head(weight, bias, mean, std):
    """The linear head that takes raw features h and gives what `weight`, `bias` give on standardized ones.

    logits = weight @ ((h - mean) / std) + bias for every h; a feature with std 0 never varied and counts nothing.
    weight: (C, D), bias: (C,), mean, std: (D,), std >= 0. Returns (new weight (C, D), new bias (C,)), all finite.
    """
    scale = torch.where(std > 0, 1 / std, 0.0)  # (D,)
    new_weight = weight * scale
    return new_weight, bias - new_weight @ mean


def _fold_cases(generator):
    def case(c, d, spread=1.0, shift=1.0):
        numbers = torch.randn(c, d, generator=generator), torch.randn(c, generator=generator)
        std = (spread * torch.randn(d, generator=generator)).exp()
        return *numbers, shift * torch.randn(d, generator=generator), std

    weight, bias, mean, std = case(3, 5)
    return {
        "a random head": case(4, 6),
        "features of very different spread": case(3, 5, spread=2.0),
        "a mean of zero": case(2, 4, shift=0.0),
        "a spread of one": (*case(3, 4)[:3], torch.ones(4)),
        "a feature that never varied (std 0)": (
            weight,
            bias,
            mean,
            std * torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0]),
        ),
    }


def _fold_judge(found, expected, weight, bias, mean, std):
    """Both halves by name, so that the sentence says which one is wrong."""
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        return difference(expected, found)
    for name, one, other in zip(("the new weight", "the new bias"), expected, found, strict=True):
        if problem := difference(one, other, 1e-4):
            return f"{name}: {problem}"
    return None


def _fold_by_asking(weight, bias, mean, std):
    def logits(h):
        z = torch.where(std > 0, (h - mean) / std.clamp(min=1e-30), 0.0)
        return z @ weight.T + bias

    at_zero = logits(torch.zeros_like(mean))
    return (logits(torch.eye(len(mean))) - at_zero).T, at_zero


def _fold_loop(weight, bias, mean, std):
    new_weight, new_bias = torch.zeros_like(weight), bias.clone()
    for d in range(len(mean)):
        if std[d] > 0:
            new_weight[:, d] = weight[:, d] / std[d]
            new_bias -= new_weight[:, d] * mean[d]
    return [new_weight, new_bias]


FOLD = Exercise(
    solution=fold_head,
    cases=_fold_cases,
    difficulty=2,
    minutes=15,
    judge=_fold_judge,
    hints=(
        "Multiply out: W ((h - m) / s) + b = (W / s) h + (b - (W / s) m); what stands before h is the new weight.",
        "weight / std divides column d by std[d]; weight @ mean takes one number for each class.",
        "torch.where(std > 0, 1 / std, 0.0) gives the scale, without infinity.",
    ),
    wrong={
        "bias forgotten": lambda w, b, m, s: (fold_head(w, b, m, s)[0], b),
        "the old weight against the mean": lambda w, b, m, s: (fold_head(w, b, m, s)[0], b - w @ m),
        "the mean added": lambda w, b, m, s: (
            fold_head(w, b, m, s)[0],
            b + fold_head(w, b, m, s)[0] @ m,
        ),
        "times std": lambda w, b, m, s: (w * s, b - (w * s) @ m),
        "variance in place of std": lambda w, b, m, s: fold_head(w, b, m, s**2),
        "divided by zero": lambda w, b, m, s: (w / s, b - (w / s) @ m),
        "std 0 counts as 1": lambda w, b, m, s: fold_head(w, b, m, torch.where(s > 0, s, 1.0)),
    },
    alternatives=(_fold_by_asking, _fold_loop),
)


def mixup_loss(logits, y, other, share):
    """Cross-entropy against mixed labels: row i is `share_i` of class y_i and 1 - share_i of class other_i.

    loss = mean_i [ share_i CE(logits_i, y_i) + (1 - share_i) CE(logits_i, other_i) ] (Zhang et al. 2018, Eq. 1 with
    cross-entropy, which is linear in the target). logits: (N, C); y, other: (N,) integers; share: (N,) in [0, 1].
    Returns one number (nats), differentiable in logits.
    """
    own = F.cross_entropy(logits, y, reduction="none")  # (N,)
    mixed_in = F.cross_entropy(logits, other, reduction="none")
    return (share * own + (1 - share) * mixed_in).mean()


def _mixup_cases(generator):
    def case(n, c, share=None):
        y, other = torch.randint(0, c, (2, n), generator=generator)
        share = torch.rand(n, generator=generator) if share is None else torch.full((n,), share)
        return 2 * torch.randn(n, c, generator=generator), y, other, share

    logits, y, _, share = case(5, 3)
    return {
        "random shares": case(6, 4),
        "share 1 (plain cross-entropy)": case(5, 3, share=1.0),
        "share 0 (the other label alone)": case(5, 3, share=0.0),
        "both pictures of one class": (logits, y, y.clone(), share),
        "large logits": (100 * logits, y, y.flip(0), share),
    }


def _mixup_targets(logits, y, other, share):
    classes = torch.arange(logits.shape[1])
    target = share[:, None] * (y[:, None] == classes) + (1 - share)[:, None] * (
        other[:, None] == classes
    )
    return -(target * logits.log_softmax(1)).sum(1).mean()


def _mixup_soft(logits, y, other, share):
    one_hot = [F.one_hot(label, logits.shape[1]).float() for label in (y, other)]
    return F.cross_entropy(logits, torch.lerp(one_hot[1], one_hot[0], share[:, None]))


def _mixed_probability(logits, y, other, share):
    p, rows = logits.softmax(1), torch.arange(len(y))
    return -(share * p[rows, y] + (1 - share) * p[rows, other]).clamp(min=1e-30).log().mean()


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
        "Or make targets (N, C) that hold share at y and 1 - share at other: F.cross_entropy takes them too.",
    ),
    wrong={
        "shares swapped": lambda logits, y, other, share: mixup_loss(logits, other, y, share),
        "the other label forgotten": lambda logits, y, other, share: (
            share * F.cross_entropy(logits, y, reduction="none")
        ).mean(),
        "half and half": lambda logits, y, other, share: mixup_loss(
            logits, y, other, torch.full_like(share, 0.5)
        ),
        "one share for the whole batch": lambda logits, y, other, share: mixup_loss(
            logits, y, other, share.mean().expand(len(share)) ** 2
        ),
        "sum in place of mean": lambda logits, y, other, share: (
            len(y) * mixup_loss(logits, y, other, share)
        ),
        "labels not mixed": lambda logits, y, other, share: F.cross_entropy(logits, y),
        "log of the mixed probability": _mixed_probability,
        "cut gradient": lambda logits, y, other, share: mixup_loss(
            logits.detach(), y, other, share
        ),
    },
    alternatives=(_mixup_targets, _mixup_soft),
)

EXERCISES = [BATCH_AT, QUANTIZE, FOLD, MIXUP]
