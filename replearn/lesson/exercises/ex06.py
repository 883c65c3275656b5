"""Exercises of lesson 06: NT-Xent, masking the self-pairs, the EMA update."""

import math

import torch
import torch.nn.functional as F

from replearn.lesson.exercises import Exercise
from replearn.lesson.exercises.compare import difference


def nt_xent(z1, z2, temperature):
    """SimCLR's loss (Chen et al. 2020, Eq. 1): the mean over all 2N views of -log softmax at the view's partner.

    The softmax runs over the cosine similarities to the 2N - 1 other views, divided by the temperature.
    z1, z2: (N, d), row i of both from one picture, any length. Returns one number (nats).
    """
    z = F.normalize(torch.cat([z1, z2]), dim=1)  # (2N, d)
    logits = z @ z.T / temperature  # (2N, 2N)
    itself = torch.eye(len(z), dtype=torch.bool)
    logits = logits.masked_fill(itself, -math.inf)
    partner = torch.arange(len(z)).roll(len(z1))  # i + N, modulo 2N
    return F.cross_entropy(logits, partner)


def _nt_xent_cases(generator):
    def pair(n, d, noise=1.0):
        z1 = torch.randn(n, d, generator=generator)
        return z1, z1 + noise * torch.randn(n, d, generator=generator)

    same = torch.randn(1, 5, generator=generator).repeat(6, 1)
    return {
        "random pairs": (*pair(6, 4), 0.5),
        "two pictures": (*pair(2, 3), 0.2),
        "rows of different lengths": (
            *(z * torch.linspace(0.5, 5, 8)[:, None] for z in pair(8, 6)),
            0.5,
        ),
        "views that agree": (*pair(10, 8, 0.1), 0.1),
        "a collapsed encoder (the loss is log(2N - 1))": (same, same.clone(), 0.5),
        "temperature 0.01 (exp alone overflows)": (*pair(7, 3), 0.01),
    }


def _nt_xent_loop(z1, z2, temperature):
    z = [row / row.norm() for row in torch.cat([z1, z2])]
    n, total = len(z1), 0.0
    for i in range(2 * n):
        scores = torch.stack([z[i] @ z[k] / temperature for k in range(2 * n) if k != i])
        j = (i + n) % (2 * n)
        total = total + torch.logsumexp(scores, dim=0) - z[i] @ z[j] / temperature
    return total / (2 * n)


def _nt_xent_pairs(z1, z2, temperature):
    z = F.normalize(
        torch.stack([z1, z2], dim=1).flatten(0, 1), dim=1
    )  # views of one picture are neighbors
    s = z @ z.T / temperature
    s = s - torch.diag(torch.full((len(z),), torch.inf))
    log_p = s - s.logsumexp(dim=1, keepdim=True)
    return -(log_p[::2, 1::2].diagonal().sum() + log_p[1::2, ::2].diagonal().sum()) / len(z)


def _wrong_nt_xent(
    mask=-math.inf, scale=lambda t: 1 / t, norm=F.normalize, roll=None, masked=True, **options
):
    def wrong(z1, z2, temperature):
        z = norm(torch.cat([z1, z2]))
        logits = (z @ z.T * scale(temperature)).masked_fill(
            torch.eye(len(z), dtype=torch.bool) & masked, mask
        )
        return F.cross_entropy(logits, torch.arange(len(z)).roll(roll or len(z1)), **options)

    return wrong


def _overflows(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]))
    e = (z @ z.T / temperature).exp()
    return -(e.diagonal(len(z1)).repeat(2) / (e.sum(1) - e.diagonal())).log().mean()


def _without_positive(z1, z2, temperature):
    z, n = F.normalize(torch.cat([z1, z2])), len(z1)
    s = z @ z.T / temperature
    negatives = s.masked_fill(torch.eye(n, dtype=torch.bool).repeat(2, 2), -math.inf)
    return (negatives.logsumexp(1) - s.diagonal(n).repeat(2)).mean()


NT_XENT = Exercise(
    solution=nt_xent,
    cases=_nt_xent_cases,
    difficulty=2,
    minutes=15,
    gradient_of=(0, 1),
    tolerance=1e-3,
    hints=(
        "Stack both sets to z (2N, d), give every row length 1; z @ z.T / temperature holds all the scores.",
        "No view may choose itself: set the diagonal to -inf before the softmax.",
        "The partner of row i is row i + N, of row i + N it is i. F.cross_entropy(logits, partner) does the rest.",
    ),
    wrong={
        "self-pairs not masked": _wrong_nt_xent(masked=False),
        "self-pairs set to 0": _wrong_nt_xent(mask=0.0),
        "one direction, N x N": lambda z1, z2, t: F.cross_entropy(
            F.normalize(z1) @ F.normalize(z2).T / t, torch.arange(len(z1))
        ),
        "no normalization": _wrong_nt_xent(norm=lambda z: z),
        "times the temperature": _wrong_nt_xent(scale=lambda t: t),
        "sum in place of mean": _wrong_nt_xent(reduction="sum"),
        "wrong partner": _wrong_nt_xent(roll=1),
        "positive left out below (decoupled loss)": _without_positive,
        "exp overflows": _overflows,
        "z2 without gradient": lambda z1, z2, temperature: nt_xent(z1, z2.detach(), temperature),
    },
    alternatives=(_nt_xent_loop, _nt_xent_pairs),
)


def mask_self_pairs(similarity):
    """A copy of the similarities in which no item can choose itself: exactly -inf on the diagonal, the rest unchanged.

    similarity: (M, M). Returns (M, M), whose softmax over a row gives 0 to the item itself. The input is not changed.
    """
    itself = torch.eye(len(similarity), dtype=torch.bool)
    return similarity.masked_fill(itself, float("-inf"))


def _mask_cases(generator):
    z = F.normalize(torch.randn(8, 3, generator=generator), dim=1)
    return {
        "random numbers": (torch.randn(5, 5, generator=generator),),
        "cosine similarities": (z @ z.T,),
        "two items": (torch.rand(2, 2, generator=generator),),
        "large negative numbers": (-1e3 * torch.rand(6, 6, generator=generator) - 100,),
    }


MASK = Exercise(
    solution=mask_self_pairs,
    cases=_mask_cases,
    difficulty=1,
    minutes=5,
    gradient_of=(0,),
    hints=(
        "torch.eye(M, dtype=torch.bool) is True exactly where an item meets itself.",
        "exp(-inf) is 0: put -inf there. Zero is not enough, since exp(0) is 1.",
        "masked_fill returns a copy. masked_fill_ and fill_diagonal_ change the input: clone it first.",
    ),
    wrong={
        "zeros": lambda s: s.masked_fill(torch.eye(len(s), dtype=torch.bool), 0.0),
        "a large number": lambda s: s.masked_fill(torch.eye(len(s), dtype=torch.bool), -1e9),
        "in place": lambda s: s.fill_diagonal_(-torch.inf),
        "0 times infinity": lambda s: s - torch.eye(len(s)) * torch.inf,
        "diagonal cut out": lambda s: s[~torch.eye(len(s), dtype=torch.bool)].view(len(s), -1),
        "everything else masked": lambda s: s.masked_fill(
            ~torch.eye(len(s), dtype=torch.bool), -torch.inf
        ),
        "softmax already taken": lambda s: mask_self_pairs(s).softmax(1),
        "cut gradient": lambda s: mask_self_pairs(s.detach()),
    },
    alternatives=(
        lambda s: s.clone().fill_diagonal_(-torch.inf),
        lambda s: s + torch.diag(torch.full((len(s),), -torch.inf)),
        lambda s: torch.where(torch.arange(len(s))[:, None] == torch.arange(len(s)), -torch.inf, s),
    ),
)


def ema_update(target_parameters, online_parameters, momentum):
    """Exponential moving average of weights (He et al. 2020, Eq. 2): momentum * target + (1 - momentum) * online.

    target_parameters, online_parameters: lists of tensors of equal shapes. 0 <= momentum <= 1. Returns a list of new
    tensors, which carry no gradient: the target learns from the online network's weights, never from a loss.
    """
    with torch.no_grad():
        return [
            momentum * t + (1 - momentum) * o
            for t, o in zip(target_parameters, online_parameters, strict=True)
        ]


def _ema_cases(generator):
    def pair(*shapes):
        return tuple(
            [torch.randn(shape, generator=generator) for shape in shapes] for _ in range(2)
        )

    target, online = pair((4, 3), (4,))
    return {
        "two layers": (*pair((3, 2), (3,), (2, 3), (2,)), 0.9),
        "momentum 0.99": (*pair((5,), (2, 2)), 0.99),
        "momentum 0 (copy the online weights)": (*pair((4, 2)), 0.0),
        "momentum 1 (keep the target)": (*pair((2, 3)), 1.0),
        "online weights that are being trained": (
            target,
            [o.requires_grad_() for o in online],
            0.95,
        ),
    }


def _ema_judge(found, expected, *_):
    if isinstance(found, (list, tuple)) and any(
        getattr(tensor, "requires_grad", False) for tensor in found
    ):
        return "expected tensors that carry no gradient (use torch.no_grad()), found one that requires a gradient"
    return difference(expected, found)


def _ema_copy(target_parameters, online_parameters, momentum):
    new = []
    for i, target in enumerate(target_parameters):
        average = target.detach().clone()
        new.append(average.mul_(momentum).add_(online_parameters[i].detach(), alpha=1 - momentum))
    return tuple(new)


EMA = Exercise(
    solution=ema_update,
    cases=_ema_cases,
    difficulty=1,
    minutes=5,
    judge=_ema_judge,
    hints=(
        "zip(target_parameters, online_parameters) gives the pairs of tensors.",
        "Momentum 0.99 means: keep 99 % of the target, take 1 % of the online weights.",
        "Wrap it in `with torch.no_grad():`, and build new tensors; .mul_() would change the target.",
    ),
    wrong={
        "momentum and 1 - momentum swapped": lambda t, o, m: ema_update(o, t, m),
        "in place": lambda t, o, m: [
            a.mul_(m).add_(b.detach(), alpha=1 - m) for a, b in zip(t, o, strict=True)
        ],
        "half and half": lambda t, o, m: ema_update(t, o, 0.5),
        "target decays, online added whole": lambda t, o, m: [
            m * a + b.detach() for a, b in zip(t, o, strict=True)
        ],
        "carries a gradient": lambda t, o, m: [
            m * a + (1 - m) * b for a, b in zip(t, o, strict=True)
        ],
        "the first tensor only": lambda t, o, m: ema_update(t[:1], o[:1], m),
        "a sum in place of a list": lambda t, o, m: sum(a.sum() for a in ema_update(t, o, m)),
    },
    alternatives=(
        _ema_copy,
        lambda t, o, m: [torch.lerp(*pair, m).detach() for pair in zip(o, t, strict=True)],
    ),
)

EXERCISES = [NT_XENT, MASK, EMA]
