"""Exercises of lesson 06: NT-Xent, masking the self-pairs, the EMA update.

Shapes: N pictures with two views each, d numbers in a projection, M items.
"""

import math

import torch
import torch.nn.functional as F

from replearn.lesson.exercises import Exercise
from replearn.lesson.exercises.compare import difference

# --- nt_xent ----------------------------------------------------------------------------------


def nt_xent(z1, z2, temperature):
    """SimCLR's loss (Chen et al. 2020, Eq. 1): the mean of -log softmax at each view's partner.

    The mean is over all 2N views. The softmax runs over the cosine similarities to the 2N - 1
    other views, divided by the temperature.
    z1, z2: (N, d), row i of both from one picture, any length. Returns one number (nats).
    """
    z = F.normalize(torch.cat([z1, z2]), dim=1)  # (2N, d)
    logits = z @ z.T / temperature  # (2N, 2N)
    itself = torch.eye(len(z), dtype=torch.bool)
    logits = logits.masked_fill(itself, -math.inf)
    partner = torch.arange(len(z)).roll(len(z1))  # i + N, modulo 2N
    return F.cross_entropy(logits, partner)


def _nt_xent_cases(generator: torch.Generator) -> dict[str, tuple]:
    def pair(n, d, noise=1.0):
        z1 = torch.randn(n, d, generator=generator)
        return z1, z1 + noise * torch.randn(n, d, generator=generator)

    same = torch.randn(1, 5, generator=generator).repeat(6, 1)
    lengths = torch.linspace(0.5, 5, 8)[:, None]
    return {
        "random pairs": (*pair(6, 4), 0.5),
        "two pictures": (*pair(2, 3), 0.2),
        "rows of different lengths": (*(z * lengths for z in pair(8, 6)), 0.5),
        "views that agree": (*pair(10, 8, 0.1), 0.1),
        "a collapsed encoder (the loss is log(2N - 1))": (same, same.clone(), 0.5),
        "temperature 0.01 (exp alone overflows)": (*pair(7, 3), 0.01),
    }


def _nt_xent_by_loop(z1, z2, temperature):
    z = [row / row.norm() for row in torch.cat([z1, z2])]
    n = len(z1)
    total = 0.0
    for i in range(2 * n):
        scores = torch.stack([z[i] @ z[k] / temperature for k in range(2 * n) if k != i])
        partner = (i + n) % (2 * n)
        total = total + torch.logsumexp(scores, dim=0) - z[i] @ z[partner] / temperature
    return total / (2 * n)


def _nt_xent_by_neighbors(z1, z2, temperature):
    """The two views of a picture stand in neighboring rows."""
    z = F.normalize(torch.stack([z1, z2], dim=1).flatten(0, 1), dim=1)
    scores = z @ z.T / temperature
    scores = scores - torch.diag(torch.full((len(z),), torch.inf))
    log_p = scores - scores.logsumexp(dim=1, keepdim=True)
    first_to_second = log_p[::2, 1::2].diagonal()
    second_to_first = log_p[1::2, ::2].diagonal()
    return -(first_to_second.sum() + second_to_first.sum()) / len(z)


def _cosines(z1, z2):
    """Cosine similarities of all views, (2N, 2N)."""
    z = F.normalize(torch.cat([z1, z2]))
    return z @ z.T


def _itself(scores):
    return torch.eye(len(scores), dtype=torch.bool)


def _partner_loss(logits, shift, reduction="mean"):
    """Cross-entropy with the partner `shift` rows further on as the right answer."""
    return F.cross_entropy(logits, torch.arange(len(logits)).roll(shift), reduction=reduction)


def _self_pairs_not_masked(z1, z2, temperature):
    """Each view may choose itself, its most similar one."""
    return _partner_loss(_cosines(z1, z2) * (1 / temperature), len(z1))


def _self_pairs_zero(z1, z2, temperature):
    """A score of 0 on the diagonal still counts as exp(0) = 1."""
    logits = _cosines(z1, z2) * (1 / temperature)
    return _partner_loss(logits.masked_fill(_itself(logits), 0.0), len(z1))


def _one_direction(z1, z2, temperature):
    """Only z1 against z2, without the negatives within a set of views."""
    scores = F.normalize(z1) @ F.normalize(z2).T / temperature
    return F.cross_entropy(scores, torch.arange(len(z1)))


def _not_normalized(z1, z2, temperature):
    """Dot products in place of cosines."""
    z = torch.cat([z1, z2])
    logits = z @ z.T * (1 / temperature)
    return _partner_loss(logits.masked_fill(_itself(logits), -math.inf), len(z1))


def _times_temperature(z1, z2, temperature):
    """Multiplied by the temperature, where it divides."""
    logits = _cosines(z1, z2) * temperature
    return _partner_loss(logits.masked_fill(_itself(logits), -math.inf), len(z1))


def _sum_over_views(z1, z2, temperature):
    """2N times too large."""
    logits = _cosines(z1, z2) * (1 / temperature)
    logits = logits.masked_fill(_itself(logits), -math.inf)
    return _partner_loss(logits, len(z1), reduction="sum")


def _wrong_partner(z1, z2, temperature):
    """The row before is taken for the partner, not the one N rows away."""
    logits = _cosines(z1, z2) * (1 / temperature)
    return _partner_loss(logits.masked_fill(_itself(logits), -math.inf), 1)


def _without_positive(z1, z2, temperature):
    """The decoupled loss: the positive pair is missing in the denominator."""
    n = len(z1)
    scores = _cosines(z1, z2) / temperature
    same_picture = torch.eye(n, dtype=torch.bool).repeat(2, 2)
    negatives = scores.masked_fill(same_picture, -math.inf)
    positive = scores.diagonal(n).repeat(2)
    return (negatives.logsumexp(1) - positive).mean()


def _nt_xent_overflows(z1, z2, temperature):
    """The formula as it stands: exp(1 / 0.01) is infinite."""
    exponentials = (_cosines(z1, z2) / temperature).exp()
    positive = exponentials.diagonal(len(z1)).repeat(2)
    others = exponentials.sum(1) - exponentials.diagonal()
    return -(positive / others).log().mean()


def _second_view_without_gradient(z1, z2, temperature):
    """The right value, but no gradient reaches z2."""
    return nt_xent(z1, z2.detach(), temperature)


NT_XENT = Exercise(
    solution=nt_xent,
    cases=_nt_xent_cases,
    difficulty=2,
    minutes=15,
    gradient_of=(0, 1),
    tolerance=1e-3,
    hints=(
        "Stack both sets to z (2N, d), give every row length 1; z @ z.T / temperature holds all "
        "the scores.",
        "No view may choose itself: set the diagonal to -inf before the softmax.",
        "The partner of row i is row i + N, of row i + N it is i. F.cross_entropy(logits, partner) "
        "does the rest.",
    ),
    wrong={
        "self-pairs not masked": _self_pairs_not_masked,
        "self-pairs set to 0": _self_pairs_zero,
        "one direction, N x N": _one_direction,
        "no normalization": _not_normalized,
        "times the temperature": _times_temperature,
        "sum in place of mean": _sum_over_views,
        "wrong partner": _wrong_partner,
        "positive left out below (decoupled loss)": _without_positive,
        "exp overflows": _nt_xent_overflows,
        "z2 without gradient": _second_view_without_gradient,
    },
    alternatives=(_nt_xent_by_loop, _nt_xent_by_neighbors),
)


# --- mask_self_pairs --------------------------------------------------------------------------


def mask_self_pairs(similarity):
    """A copy of the similarities in which no item can choose itself.

    It has exactly -inf on the diagonal, and the rest unchanged. similarity: (M, M). Returns (M, M),
    whose softmax over a row gives 0 to the item itself. The input is not changed.
    """
    itself = torch.eye(len(similarity), dtype=torch.bool)
    return similarity.masked_fill(itself, float("-inf"))


def _mask_cases(generator: torch.Generator) -> dict[str, tuple]:
    z = F.normalize(torch.randn(8, 3, generator=generator), dim=1)
    return {
        "random numbers": (torch.randn(5, 5, generator=generator),),
        "cosine similarities": (z @ z.T,),
        "two items": (torch.rand(2, 2, generator=generator),),
        "large negative numbers": (-1e3 * torch.rand(6, 6, generator=generator) - 100,),
    }


def _mask_by_filling(similarity):
    return similarity.clone().fill_diagonal_(-torch.inf)


def _mask_by_adding(similarity):
    return similarity + torch.diag(torch.full((len(similarity),), -torch.inf))


def _mask_by_index(similarity):
    index = torch.arange(len(similarity))
    return torch.where(index[:, None] == index, -torch.inf, similarity)


def _mask_with_zeros(similarity):
    """exp(0) is 1: the item still takes part in the softmax."""
    return similarity.masked_fill(_itself(similarity), 0.0)


def _mask_with_large_number(similarity):
    """A billion is not infinity."""
    return similarity.masked_fill(_itself(similarity), -1e9)


def _mask_in_place(similarity):
    """The right values, written over the input."""
    return similarity.fill_diagonal_(-torch.inf)


def _mask_by_multiplying(similarity):
    """0 times infinity is NaN: everything beside the diagonal is lost."""
    return similarity - torch.eye(len(similarity)) * torch.inf


def _diagonal_cut_out(similarity):
    """The diagonal is gone, and the shape with it."""
    return similarity[~_itself(similarity)].view(len(similarity), -1)


def _everything_else_masked(similarity):
    """The mask is turned around."""
    return similarity.masked_fill(~_itself(similarity), -torch.inf)


def _softmax_taken(similarity):
    """One step too far."""
    return mask_self_pairs(similarity).softmax(1)


def _mask_without_gradient(similarity):
    """The right value, cut off from its input."""
    return mask_self_pairs(similarity.detach())


MASK = Exercise(
    solution=mask_self_pairs,
    cases=_mask_cases,
    difficulty=1,
    minutes=5,
    gradient_of=(0,),
    hints=(
        "torch.eye(M, dtype=torch.bool) is True exactly where an item meets itself.",
        "exp(-inf) is 0: put -inf there. Zero is not enough, since exp(0) is 1.",
        "masked_fill returns a copy. masked_fill_ and fill_diagonal_ change the input: clone it "
        "first.",
    ),
    wrong={
        "zeros": _mask_with_zeros,
        "a large number": _mask_with_large_number,
        "in place": _mask_in_place,
        "0 times infinity": _mask_by_multiplying,
        "diagonal cut out": _diagonal_cut_out,
        "everything else masked": _everything_else_masked,
        "softmax already taken": _softmax_taken,
        "cut gradient": _mask_without_gradient,
    },
    alternatives=(_mask_by_filling, _mask_by_adding, _mask_by_index),
)


# --- ema_update -------------------------------------------------------------------------------


def ema_update(target_parameters, online_parameters, momentum):
    """Exponential moving average of weights: momentum * target + (1 - momentum) * online.

    He et al. 2020, Eq. 2. target_parameters, online_parameters: lists of tensors of equal shapes.
    0 <= momentum <= 1. Returns a list of new tensors, which carry no gradient: the target learns
    from the online network's weights, never from a loss.
    """
    with torch.no_grad():
        return [
            momentum * t + (1 - momentum) * o
            for t, o in zip(target_parameters, online_parameters, strict=True)
        ]


def _ema_cases(generator: torch.Generator) -> dict[str, tuple]:
    def weights(*shapes):
        return [torch.randn(shape, generator=generator) for shape in shapes]

    def pair(*shapes):
        return weights(*shapes), weights(*shapes)

    target, online = pair((4, 3), (4,))
    for weight in online:
        weight.requires_grad_()
    return {
        "two layers": (*pair((3, 2), (3,), (2, 3), (2,)), 0.9),
        "momentum 0.99": (*pair((5,), (2, 2)), 0.99),
        "momentum 0 (copy the online weights)": (*pair((4, 2)), 0.0),
        "momentum 1 (keep the target)": (*pair((2, 3)), 1.0),
        "online weights that are being trained": (target, online, 0.95),
    }


def _ema_judge(answer, expected, *_):
    """The usual comparison, after a look at whether a gradient would flow."""
    tensors = answer if isinstance(answer, (list, tuple)) else ()
    if any(getattr(tensor, "requires_grad", False) for tensor in tensors):
        return (
            "expected tensors that carry no gradient (use torch.no_grad()), "
            "found one that requires a gradient"
        )
    return difference(expected, answer)


def _ema_by_copy(target_parameters, online_parameters, momentum):
    averages = []
    for i, target in enumerate(target_parameters):
        average = target.detach().clone()
        average.mul_(momentum)
        average.add_(online_parameters[i].detach(), alpha=1 - momentum)
        averages.append(average)
    return tuple(averages)


def _ema_by_lerp(target_parameters, online_parameters, momentum):
    return [
        torch.lerp(online, target, momentum).detach()
        for target, online in zip(target_parameters, online_parameters, strict=True)
    ]


def _momentum_swapped(target_parameters, online_parameters, momentum):
    """Momentum and 1 - momentum exchange their places."""
    return ema_update(online_parameters, target_parameters, momentum)


def _ema_in_place(target_parameters, online_parameters, momentum):
    """The right values, written over the target."""
    for target, online in zip(target_parameters, online_parameters, strict=True):
        target.mul_(momentum).add_(online.detach(), alpha=1 - momentum)
    return list(target_parameters)


def _half_and_half(target_parameters, online_parameters, momentum):
    """The plain mean of the two networks."""
    return ema_update(target_parameters, online_parameters, 0.5)


def _online_added_whole(target_parameters, online_parameters, momentum):
    """The target decays, but the online weights come without their factor."""
    return [
        momentum * target + online.detach()
        for target, online in zip(target_parameters, online_parameters, strict=True)
    ]


def _carries_a_gradient(target_parameters, online_parameters, momentum):
    """The right value, but a loss of the target would train the online network."""
    return [
        momentum * target + (1 - momentum) * online
        for target, online in zip(target_parameters, online_parameters, strict=True)
    ]


def _first_tensor_only(target_parameters, online_parameters, momentum):
    """The other layers are forgotten."""
    return ema_update(target_parameters[:1], online_parameters[:1], momentum)


def _a_sum(target_parameters, online_parameters, momentum):
    """One number in place of a list."""
    return sum(
        average.sum() for average in ema_update(target_parameters, online_parameters, momentum)
    )


EMA = Exercise(
    solution=ema_update,
    cases=_ema_cases,
    difficulty=1,
    minutes=5,
    judge=_ema_judge,
    hints=(
        "zip(target_parameters, online_parameters) gives the pairs of tensors.",
        "Momentum 0.99 means: keep 99 % of the target, take 1 % of the online weights.",
        "Wrap it in `with torch.no_grad():`, and build new tensors; .mul_() would change the "
        "target.",
    ),
    wrong={
        "momentum and 1 - momentum swapped": _momentum_swapped,
        "in place": _ema_in_place,
        "half and half": _half_and_half,
        "target decays, online added whole": _online_added_whole,
        "carries a gradient": _carries_a_gradient,
        "the first tensor only": _first_tensor_only,
        "a sum in place of a list": _a_sum,
    },
    alternatives=(_ema_by_copy, _ema_by_lerp),
)

EXERCISES = [NT_XENT, MASK, EMA]
