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
    other views, divided by the temperature. z1, z2: (N, d) float32; row i of both comes from one
    picture, and rows may have any length. temperature: float, 0.01 or more. Returns a tensor with
    one number (nats), float32, that carries gradients to z1 and z2.
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


def _nt_xent_by_blocks(z1, z2, temperature):
    """Each set against the other and against itself, as in the authors' own code."""
    z1 = F.normalize(z1, dim=1)
    z2 = F.normalize(z2, dim=1)
    n = len(z1)
    within_1 = (z1 @ z1.T / temperature).masked_fill(torch.eye(n).bool(), -math.inf)
    within_2 = (z2 @ z2.T / temperature).masked_fill(torch.eye(n).bool(), -math.inf)
    between = z1 @ z2.T / temperature
    first = F.cross_entropy(torch.cat([between, within_1], dim=1), torch.arange(n))
    second = F.cross_entropy(torch.cat([between.T, within_2], dim=1), torch.arange(n))
    return (first + second) / 2


def _nt_xent_in_float64(z1, z2, temperature):
    z = torch.cat([z1, z2]).double()
    z = z / z.norm(dim=1, keepdim=True)
    scores = torch.einsum("id,jd->ij", z, z) / temperature
    scores = scores.fill_diagonal_(-1e9)  # exp(-1e9) is 0, too
    log_p = scores.log_softmax(dim=1)
    rows = torch.arange(len(z))
    return F.nll_loss(log_p, (rows + len(z1)) % len(z))


def _nt_xent_without_the_diagonal(z1, z2, temperature):
    """The diagonal is cut out, and the partner stands at 0."""
    z = torch.cat([z1, z2])
    cosines = F.cosine_similarity(z[:, None], z[None], dim=-1)
    n = len(z1)
    positives = torch.cat([cosines.diagonal(n), cosines.diagonal(-n)])[:, None]
    is_negative = ~torch.eye(n, dtype=torch.bool).repeat(2, 2)
    negatives = cosines[is_negative].view(2 * n, -1)
    logits = torch.cat([positives, negatives], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(2 * n, dtype=torch.long))


def _nt_xent_by_shifted_exponentials(z1, z2, temperature):
    """The formula as it stands, after the largest score of each row is subtracted."""
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    scores = (z @ z.T / temperature).masked_fill(torch.eye(len(z)).bool(), -math.inf)
    scores = (scores - scores.max(dim=1, keepdim=True).values.detach()).double()
    n = len(z1)
    positive = torch.cat([scores.diagonal(n), scores.diagonal(-n)])
    return (scores.exp().sum(dim=1).log() - positive).mean()


def _nt_xent_of_lists(z1, z2, temperature):
    """Two sums over the pictures, one for each direction."""
    losses = []
    for own, other in ((z1, z2), (z2, z1)):
        for i in range(len(own)):
            view = F.normalize(own[i], dim=0)
            strangers = [own[k] for k in range(len(own)) if k != i]
            candidates = F.normalize(torch.stack([*other, *strangers]), dim=1)
            losses.append(-F.log_softmax(candidates @ view / temperature, dim=0)[i])
    return sum(losses) / len(losses)


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
    """Each view may choose itself: the diagonal is left in the softmax."""
    return _partner_loss(_cosines(z1, z2) * (1 / temperature), len(z1))


def _self_pairs_zero(z1, z2, temperature):
    """The scores on the diagonal are set to 0, where each still counts as exp(0) = 1."""
    logits = _cosines(z1, z2) * (1 / temperature)
    return _partner_loss(logits.masked_fill(_itself(logits), 0.0), len(z1))


def _one_direction(z1, z2, temperature):
    """Only z1 against z2: the other views of the same set are missing among the negatives."""
    scores = F.normalize(z1) @ F.normalize(z2).T / temperature
    return F.cross_entropy(scores, torch.arange(len(z1)))


def _not_normalized(z1, z2, temperature):
    """Dot products of rows of any length in place of cosines."""
    z = torch.cat([z1, z2])
    logits = z @ z.T * (1 / temperature)
    return _partner_loss(logits.masked_fill(_itself(logits), -math.inf), len(z1))


def _times_temperature(z1, z2, temperature):
    """The cosines are multiplied by the temperature, where they should be divided."""
    logits = _cosines(z1, z2) * temperature
    return _partner_loss(logits.masked_fill(_itself(logits), -math.inf), len(z1))


def _sum_over_views(z1, z2, temperature):
    """The sum over the views in place of their mean."""
    logits = _cosines(z1, z2) * (1 / temperature)
    logits = logits.masked_fill(_itself(logits), -math.inf)
    return _partner_loss(logits, len(z1), reduction="sum")


def _wrong_partner(z1, z2, temperature):
    """The row before is taken for the partner of a view."""
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
    """The exponentials are taken one by one, and at temperature 0.01 they are infinite."""
    exponentials = (_cosines(z1, z2) / temperature).exp()
    positive = exponentials.diagonal(len(z1)).repeat(2)
    others = exponentials.sum(1) - exponentials.diagonal()
    return -(positive / others).log().mean()


def _second_view_without_gradient(z1, z2, temperature):
    """The right value, but no gradient reaches z2."""
    return nt_xent(z1, z2.detach(), temperature)


def _temperature_twice(z1, z2, temperature):
    """The temperature divides twice, once in each factor of the product."""
    return nt_xent(z1, z2, temperature**2)


def _first_views_only(z1, z2, temperature):
    """The mean runs over the N views in z1, and not over all 2N."""
    logits = _cosines(z1, z2) * (1 / temperature)
    logits = logits.masked_fill(_itself(logits), -math.inf)
    partner = torch.arange(len(logits)).roll(len(z1))
    return F.cross_entropy(logits[: len(z1)], partner[: len(z1)])


def _other_set_only(z1, z2, temperature):
    """Both directions, but the other views of the same set are missing among the negatives."""
    return (_one_direction(z1, z2, temperature) + _one_direction(z2, z1, temperature)) / 2


def _sign_turned(z1, z2, temperature):
    """The sign is turned around: training would push partners apart."""
    return -nt_xent(z1, z2, temperature)


def _positive_twice(z1, z2, temperature):
    """The positive pair is counted twice in the denominator."""
    scores = (_cosines(z1, z2) / temperature).masked_fill(
        torch.eye(2 * len(z1), dtype=torch.bool), -math.inf
    )
    positive = scores.diagonal(len(z1)).repeat(2)
    everyone = torch.cat([scores, positive[:, None]], dim=1)
    return (everyone.logsumexp(dim=1) - positive).mean()


def _columns_normalized(z1, z2, temperature):
    """The columns get length 1 in place of the rows."""
    z = F.normalize(torch.cat([z1, z2]), dim=0)
    logits = (z @ z.T * (1 / temperature)).masked_fill(_itself(z), -math.inf)
    return _partner_loss(logits, len(z1))


def _divided_by_n(z1, z2, temperature):
    """The sum over the 2N views is divided by N."""
    return 2 * nt_xent(z1, z2, temperature)


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
        "temperature twice": _temperature_twice,
        "only the first N views": _first_views_only,
        "both directions, N x N": _other_set_only,
        "sign turned around": _sign_turned,
        "positive counted twice": _positive_twice,
        "columns normalized": _columns_normalized,
        "divided by N": _divided_by_n,
    },
    alternatives=(
        _nt_xent_by_loop,
        _nt_xent_by_neighbors,
        _nt_xent_by_blocks,
        _nt_xent_in_float64,
        _nt_xent_without_the_diagonal,
        _nt_xent_by_shifted_exponentials,
        _nt_xent_of_lists,
    ),
)


# --- mask_self_pairs --------------------------------------------------------------------------


def mask_self_pairs(similarity):
    """A copy of the similarities in which no item can choose itself.

    It has exactly -inf on the diagonal, and the rest unchanged. similarity: (M, M) float32. Returns
    (M, M) float32, whose softmax over a row gives 0 to the item itself; gradients pass through the
    rest. The input is not changed.
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


def _mask_by_a_loop(similarity):
    masked = similarity.clone()
    for i in range(len(masked)):
        masked[i, i] = float("-inf")
    return masked


def _mask_row_by_row(similarity):
    rows = []
    for i, row in enumerate(similarity):
        rows.append(torch.cat([row[:i], torch.tensor([-math.inf]), row[i + 1 :]]))
    return torch.stack(rows)


def _mask_by_triangles(similarity):
    above = similarity.triu(diagonal=1)
    below = similarity.tril(diagonal=-1)
    return above + below + torch.full((len(similarity),), -math.inf).diag()


def _mask_by_logarithm(similarity):
    """log(1) = 0 off the diagonal, and log(0) is minus infinity on it."""
    return similarity + (1 - torch.eye(len(similarity))).log()


def _mask_in_float64(similarity):
    index = torch.arange(len(similarity))
    masked = similarity.double()
    masked[index, index] = -torch.inf
    return masked


def _mask_by_scatter(similarity):
    index = torch.arange(len(similarity))[:, None]
    return similarity.scatter(1, index, -torch.inf)


def _mask_with_zeros(similarity):
    """The diagonal is set to 0, and exp(0) = 1 still takes part in the softmax."""
    return similarity.masked_fill(_itself(similarity), 0.0)


def _mask_with_large_number(similarity):
    """A large negative number stands on the diagonal, which is not infinite."""
    return similarity.masked_fill(_itself(similarity), -1e9)


def _mask_in_place(similarity):
    """The right values, written over the input."""
    return similarity.fill_diagonal_(-torch.inf)


def _mask_by_multiplying(similarity):
    """The identity matrix times infinity: off the diagonal 0 times infinity gives NaN."""
    return similarity - torch.eye(len(similarity)) * torch.inf


def _diagonal_cut_out(similarity):
    """The diagonal is cut out, and the result has one column less."""
    return similarity[~_itself(similarity)].view(len(similarity), -1)


def _everything_else_masked(similarity):
    """The mask is turned around: all but the diagonal is masked."""
    return similarity.masked_fill(~_itself(similarity), -torch.inf)


def _softmax_taken(similarity):
    """The softmax is taken already."""
    return mask_self_pairs(similarity).softmax(1)


def _mask_without_gradient(similarity):
    """The right value, but the gradient is cut off from the input."""
    return mask_self_pairs(similarity.detach())


def _upper_triangle_masked(similarity):
    """The upper triangle is masked along with the diagonal."""
    later = torch.ones_like(similarity).triu().bool()
    return similarity.masked_fill(later, -torch.inf)


def _mask_with_minus_one(similarity):
    """The diagonal is set to -1, the smallest cosine, which still takes part in the softmax."""
    return similarity.masked_fill(_itself(similarity), -1.0)


def _mask_with_lowest_float(similarity):
    """The lowest finite number stands on the diagonal, which is not infinite."""
    return similarity.masked_fill(_itself(similarity), torch.finfo(similarity.dtype).min)


def _mask_with_plus_infinity(similarity):
    """The diagonal is plus infinity: every item would choose itself."""
    return similarity.masked_fill(_itself(similarity), torch.inf)


def _mask_the_largest(similarity):
    """The largest number of each row is masked, wherever it stands."""
    largest = similarity.argmax(dim=1, keepdim=True)
    return similarity.scatter(1, largest, -torch.inf)


def _mask_the_ones(similarity):
    """Whatever is 1 is masked: only cosines have 1 on the diagonal."""
    return similarity.masked_fill(similarity > 1 - 1e-5, -torch.inf)


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
        "the upper triangle": _upper_triangle_masked,
        "minus one": _mask_with_minus_one,
        "the lowest finite number": _mask_with_lowest_float,
        "plus infinity": _mask_with_plus_infinity,
        "the largest of each row": _mask_the_largest,
        "whatever is 1": _mask_the_ones,
    },
    alternatives=(
        _mask_by_filling,
        _mask_by_adding,
        _mask_by_index,
        _mask_by_a_loop,
        _mask_row_by_row,
        _mask_by_triangles,
        _mask_by_logarithm,
        _mask_in_float64,
        _mask_by_scatter,
    ),
)


# --- ema_update -------------------------------------------------------------------------------


def ema_update(target_parameters, online_parameters, momentum):
    """Exponential moving average of weights: momentum * target + (1 - momentum) * online.

    He et al. 2020, Eq. 2. target_parameters, online_parameters: lists of float32 tensors, equal
    in shape one by one. momentum: float in [0, 1]. Returns a list of new float32 tensors, which
    carry no gradient: the target learns from the online network's weights, never from a loss.
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


def _ema_by_difference(target_parameters, online_parameters, momentum):
    averages = []
    for i in range(len(target_parameters)):
        step = online_parameters[i].data - target_parameters[i].data
        averages.append(target_parameters[i].data + (1 - momentum) * step)
    return averages


def _ema_by_numpy(target_parameters, online_parameters, momentum):
    averages = []
    for target, online in zip(target_parameters, online_parameters, strict=True):
        average = momentum * target.numpy() + (1 - momentum) * online.detach().numpy()
        averages.append(torch.from_numpy(average))
    return averages


def _ema_in_float64(target_parameters, online_parameters, momentum):
    averages = []
    for target, online in zip(target_parameters, online_parameters, strict=True):
        average = target.double() * momentum + online.double() * (1 - momentum)
        averages.append(average.detach())
    return averages


def _ema_on_copies(target_parameters, online_parameters, momentum):
    """In place, but on copies."""
    copies = [target.clone() for target in target_parameters]
    with torch.no_grad():
        for average, online in zip(copies, online_parameters, strict=True):
            average.lerp_(online, 1 - momentum)
    return copies


def _ema_backward(target_parameters, online_parameters, momentum):
    """From the last layer to the first, and turned around at the end."""
    averages = []
    for i in reversed(range(len(target_parameters))):
        weights = torch.stack([target_parameters[i], online_parameters[i]]).detach()
        shares = torch.tensor([momentum, 1 - momentum])
        averages.append(torch.tensordot(shares, weights, dims=1))
    return averages[::-1]


def _momentum_swapped(target_parameters, online_parameters, momentum):
    """Momentum and 1 - momentum have exchanged their places."""
    return ema_update(online_parameters, target_parameters, momentum)


def _ema_in_place(target_parameters, online_parameters, momentum):
    """The right values, written over the tensors of the target."""
    for target, online in zip(target_parameters, online_parameters, strict=True):
        target.mul_(momentum).add_(online.detach(), alpha=1 - momentum)
    return list(target_parameters)


def _half_and_half(target_parameters, online_parameters, momentum):
    """The plain mean of the two networks, whatever the momentum is."""
    return ema_update(target_parameters, online_parameters, 0.5)


def _online_added_whole(target_parameters, online_parameters, momentum):
    """The online weights are added whole, without a factor."""
    return [
        momentum * target + online.detach()
        for target, online in zip(target_parameters, online_parameters, strict=True)
    ]


def _carries_a_gradient(target_parameters, online_parameters, momentum):
    """The right value, but the result carries a gradient to the online network."""
    return [
        momentum * target + (1 - momentum) * online
        for target, online in zip(target_parameters, online_parameters, strict=True)
    ]


def _first_tensor_only(target_parameters, online_parameters, momentum):
    """Only the first tensor of the list is updated."""
    return ema_update(target_parameters[:1], online_parameters[:1], momentum)


def _a_sum(target_parameters, online_parameters, momentum):
    """One number, the sum of all weights, in place of a list of tensors."""
    return sum(
        average.sum() for average in ema_update(target_parameters, online_parameters, momentum)
    )


def _target_unchanged(target_parameters, online_parameters, momentum):
    """The target as it was."""
    return [target.clone() for target in target_parameters]


def _online_copied(target_parameters, online_parameters, momentum):
    """A copy of the online weights, whatever the momentum is."""
    return [online.detach().clone() for online in online_parameters]


def _momentum_squared(target_parameters, online_parameters, momentum):
    """The update is done twice."""
    return ema_update(target_parameters, online_parameters, momentum**2)


def _as_one_vector(target_parameters, online_parameters, momentum):
    """All weights in one long vector in place of a list of tensors."""
    averages = ema_update(target_parameters, online_parameters, momentum)
    return torch.cat([average.flatten() for average in averages])


def _as_a_dict(target_parameters, online_parameters, momentum):
    """A dict of numbered tensors in place of a list."""
    return dict(enumerate(ema_update(target_parameters, online_parameters, momentum)))


def _online_in_place(target_parameters, online_parameters, momentum):
    """The right values, written over the tensors of the online network."""
    for target, online in zip(target_parameters, online_parameters, strict=True):
        online.data.lerp_(target, momentum)
    return [online.detach() for online in online_parameters]


def _sum_of_both(target_parameters, online_parameters, momentum):
    """Both networks get the factor momentum."""
    averages = []
    for target, online in zip(target_parameters, online_parameters, strict=True):
        averages.append(momentum * (target + online.detach()))
    return averages


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
        "the target unchanged": _target_unchanged,
        "the online weights copied": _online_copied,
        "momentum squared": _momentum_squared,
        "one long vector": _as_one_vector,
        "a dict": _as_a_dict,
        "in place, over the online weights": _online_in_place,
        "momentum for both": _sum_of_both,
    },
    alternatives=(
        _ema_by_copy,
        _ema_by_lerp,
        _ema_by_difference,
        _ema_by_numpy,
        _ema_in_float64,
        _ema_on_copies,
        _ema_backward,
    ),
)

EXERCISES = [NT_XENT, MASK, EMA]
