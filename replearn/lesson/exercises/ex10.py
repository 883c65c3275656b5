"""Exercises of lesson 10: Barlow Twins' loss, the stop-gradient's place, a diagnosis from a log.

Shapes: N pictures, D features.
"""

import statistics

import numpy as np
import torch
import torch.nn.functional as F

from replearn.lesson.exercises import Exercise

# --- barlow_loss ------------------------------------------------------------------------------


def barlow_loss(z1, z2, off_diagonal):
    """Barlow Twins' loss: sum_i (1 - C_ii)^2 + off_diagonal * sum_{i != j} C_ij^2.

    C (D, D) is the cross-correlation of the two views: subtract each feature's mean over the batch,
    divide by sqrt(variance + 1e-5) (biased variance: divide by N), then C = z1^T z2 / N. A constant
    feature has C_ii = 0 (Zbontar et al. 2021, Eq. 1).
    z1, z2: (N, D), float, row i of both from one picture. off_diagonal: float, the weight.
    Returns one number, a tensor of shape () that carries gradients.
    """
    z1 = (z1 - z1.mean(0)) / (z1.var(0, correction=0) + 1e-5).sqrt()
    z2 = (z2 - z2.mean(0)) / (z2.var(0, correction=0) + 1e-5).sqrt()
    c = z1.T @ z2 / len(z1)  # (D, D)
    on = torch.diagonal(c)
    off = c - torch.diag(on)
    return (1 - on).square().sum() + off_diagonal * off.square().sum()


def _barlow_cases(generator: torch.Generator) -> dict[str, tuple]:
    def pair(n, d, noise=0.7):
        z1 = torch.randn(n, d, generator=generator) @ torch.randn(d, d, generator=generator)
        return z1, z1 + noise * torch.randn(n, d, generator=generator)

    z1, z2 = pair(10, 4)
    held = torch.tensor([1.0, 1.0, 0.0, 1.0])  # the third feature says nothing
    sizes = torch.tensor([0.5, 3.0, 40.0])
    return {
        "random pairs": (*pair(8, 5), 0.1),
        "the paper's weight, 0.005": (*pair(12, 6), 0.005),
        "two pictures": (*pair(2, 3), 0.5),
        "features far from 0": (*(z + 20 for z in pair(9, 4)), 0.2),
        "features of very different size": (*(z * sizes for z in pair(9, 3)), 0.2),
        "features that hardly vary": (*(0.003 * z for z in pair(9, 4)), 0.2),
        "one feature constant": (z1 * held + 2, z2 * held + 2, 0.3),
        "no off-diagonal term": (*pair(7, 4), 0.0),
    }


def _barlow_by_loop(z1, z2, off_diagonal):
    n, d = z1.shape
    total = 0.0
    for i in range(d):
        for j in range(d):
            a = z1[:, i] - z1[:, i].sum() / n
            b = z2[:, j] - z2[:, j].sum() / n
            variances = (a.square().mean() + 1e-5) * (b.square().mean() + 1e-5)
            c = (a * b).mean() / variances.sqrt()
            if i == j:
                total = total + (1 - c) ** 2
            else:
                total = total + off_diagonal * c**2
    return total


def _barlow_by_batch_norm(z1, z2, off_diagonal):
    z1 = F.batch_norm(z1, None, None, training=True)
    z2 = F.batch_norm(z2, None, None, training=True)
    c = z1.T @ z2 / len(z1)
    target = torch.eye(len(c))
    weights = target + off_diagonal * (1 - target)
    return ((c - target) ** 2 * weights).sum()


def _barlow_by_einsum(z1, z2, off_diagonal):
    z1 = z1.double()
    z2 = z2.double()
    z1 = (z1 - z1.mean(dim=0)) * torch.rsqrt(z1.var(dim=0, unbiased=False) + 1e-5)
    z2 = (z2 - z2.mean(dim=0)) * torch.rsqrt(z2.var(dim=0, unbiased=False) + 1e-5)
    c = torch.einsum("ni,nj->ij", z1, z2) / z1.shape[0]
    on = c.diagonal()
    return (1 - on).pow(2).sum() + off_diagonal * (c.pow(2).sum() - on.pow(2).sum())


def _barlow_by_mask(z1, z2, off_diagonal):
    views = []
    for z in (z1, z2):
        centered = z - z.mean(0, keepdim=True)
        views.append(centered / torch.sqrt(centered.square().mean(0) + 1e-5))
    c = torch.matmul(views[0].transpose(0, 1), views[1]) / len(z1)
    is_diagonal = torch.eye(c.shape[0], dtype=torch.bool)
    return (c[is_diagonal] - 1).square().sum() + off_diagonal * c[~is_diagonal].square().sum()


def _barlow_on_a_copy(z1, z2, off_diagonal):
    z1 = z1.clone()
    z2 = z2.clone()
    z1 -= z1.mean(0)
    z2 -= z2.mean(0)
    z1 = z1 / (z1.pow(2).mean(0) + 1e-5).sqrt()
    z2 = z2 / (z2.pow(2).mean(0) + 1e-5).sqrt()
    c = (z1.T @ z2).div(z1.size(0))
    loss = (1 - torch.diagonal(c)).square().sum()
    c = c.clone()
    c.fill_diagonal_(0)
    return loss + off_diagonal * c.square().sum()


def _standardize(z, correction=0):
    return (z - z.mean(0)) / (z.var(0, correction=correction) + 1e-5).sqrt()


def _off_diagonal_squares(c):
    """Sum of the squares beside the diagonal."""
    return c.masked_fill(torch.eye(len(c), dtype=torch.bool), 0).square().sum()


def _barlow_of(c, off_diagonal):
    """The loss of a correlation matrix."""
    return (1 - c.diagonal()).square().sum() + off_diagonal * _off_diagonal_squares(c)


def _barlow_not_centered(z1, z2, off_diagonal):
    """The means are not subtracted from the features."""
    z1 = z1 / (z1.var(0, correction=0) + 1e-5).sqrt()
    z2 = z2 / (z2.var(0, correction=0) + 1e-5).sqrt()
    return _barlow_of(z1.T @ z2 / len(z1), off_diagonal)


def _unbiased_variance(z1, z2, off_diagonal):
    """The variance is divided by N - 1 and the products by N, so that no correlation reaches 1."""
    z1 = _standardize(z1, correction=1)
    z2 = _standardize(z2, correction=1)
    return _barlow_of(z1.T @ z2 / len(z1), off_diagonal)


def _divided_by_d(z1, z2, off_diagonal):
    """Divided by the number of features in place of the number of pictures."""
    c = _standardize(z1).T @ _standardize(z2) / z1.shape[1]
    return _barlow_of(c, off_diagonal)


def _not_divided(z1, z2, off_diagonal):
    """A sum over the pictures in place of the mean."""
    return _barlow_of(_standardize(z1).T @ _standardize(z2), off_diagonal)


def _correlation(z1, z2):
    return _standardize(z1).T @ _standardize(z2) / len(z1)


def _absolute_value(z1, z2, off_diagonal):
    """|1 - C_ii| in place of (1 - C_ii)^2."""
    c = _correlation(z1, z2)
    return (1 - c.diagonal()).abs().sum() + off_diagonal * _off_diagonal_squares(c)


def _diagonal_in_second_sum(z1, z2, off_diagonal):
    """The second sum runs over all entries, the diagonal among them."""
    c = _correlation(z1, z2)
    return (1 - c.diagonal()).square().sum() + off_diagonal * c.square().sum()


def _diagonal_to_0(z1, z2, off_diagonal):
    """C_ii^2 in place of (1 - C_ii)^2, which pushes the views apart."""
    c = _correlation(z1, z2)
    return c.diagonal().square().sum() + off_diagonal * _off_diagonal_squares(c)


def _second_sum_not_weighted(z1, z2, off_diagonal):
    """The second sum without its weight."""
    return barlow_loss(z1, z2, 1.0)


def _one_view_with_itself(z1, z2, off_diagonal):
    """The first view correlated with itself; the second is not used."""
    return _barlow_of(_correlation(z1, z1), off_diagonal)


def _pictures_for_features(z1, z2, off_diagonal):
    """Pictures are correlated over their features."""
    return barlow_loss(z1.T, z2.T, off_diagonal)


def _mean_over_features(z1, z2, off_diagonal):
    """The mean over the features in place of the sum."""
    return barlow_loss(z1, z2, off_diagonal) / z1.shape[1]


def _upper_triangle_only(z1, z2, off_diagonal):
    """Only the entries with i < j in the second sum, though C of two views is not symmetric."""
    c = _correlation(z1, z2)
    return (1 - c.diagonal()).square().sum() + off_diagonal * c.triu(1).square().sum()


def _square_of_the_sum(z1, z2, off_diagonal):
    """The entries beside the diagonal are added before they are squared."""
    c = _correlation(z1, z2)
    off = c - torch.diag(c.diagonal())
    return (1 - c.diagonal()).square().sum() + off_diagonal * off.sum().square()


def _weight_on_the_diagonal(z1, z2, off_diagonal):
    """The weight before the first sum in place of the second."""
    c = _correlation(z1, z2)
    return off_diagonal * (1 - c.diagonal()).square().sum() + _off_diagonal_squares(c)


def _rows_normalized(z1, z2, off_diagonal):
    """Each row is scaled to length 1, in place of each feature."""
    return _barlow_of(F.normalize(z1, dim=1).T @ F.normalize(z2, dim=1) / len(z1), off_diagonal)


def _statistics_without_gradient(z1, z2, off_diagonal):
    """The right value, but no gradient passes through mean and variance."""
    z1 = (z1 - z1.mean(0).detach()) / (z1.var(0, correction=0) + 1e-5).sqrt().detach()
    z2 = (z2 - z2.mean(0).detach()) / (z2.var(0, correction=0) + 1e-5).sqrt().detach()
    return _barlow_of(z1.T @ z2 / len(z1), off_diagonal)


def _second_view_without_gradient(z1, z2, off_diagonal):
    """The right value, but no gradient reaches z2."""
    return barlow_loss(z1, z2.detach(), off_diagonal)


BARLOW = Exercise(
    solution=barlow_loss,
    cases=_barlow_cases,
    difficulty=2,
    minutes=15,
    gradient_of=(0, 1),
    tolerance=1e-3,
    hints=(
        "Standardize each column of each view over the batch: z.mean(0) and "
        "z.var(0, correction=0).",
        "C = z1.T @ z2 / N is (D, D): C_ij correlates feature i of view 1 with feature j of view "
        "2.",
        "torch.diagonal(C) should be 1. Take C minus torch.diag of its diagonal for the rest, and "
        "square.",
    ),
    wrong={
        "not centered": _barlow_not_centered,
        "unbiased variance with /N": _unbiased_variance,
        "divided by D in place of N": _divided_by_d,
        "not divided by N": _not_divided,
        "absolute value in place of square": _absolute_value,
        "diagonal also in the second sum": _diagonal_in_second_sum,
        "diagonal pushed to 0": _diagonal_to_0,
        "second sum not weighted": _second_sum_not_weighted,
        "one view with itself": _one_view_with_itself,
        "pictures in place of features": _pictures_for_features,
        "mean in place of sum": _mean_over_features,
        "second view without gradient": _second_view_without_gradient,
        "upper triangle only": _upper_triangle_only,
        "square of the sum": _square_of_the_sum,
        "weight on the diagonal": _weight_on_the_diagonal,
        "rows normalized": _rows_normalized,
        "statistics without gradient": _statistics_without_gradient,
    },
    alternatives=(
        _barlow_by_loop,
        _barlow_by_batch_norm,
        _barlow_by_einsum,
        _barlow_by_mask,
        _barlow_on_a_copy,
    ),
)


# --- simsiam_loss -----------------------------------------------------------------------------


def simsiam_loss(p1, z1, p2, z2):
    """SimSiam's loss: the mean of -cos(p1, z2) and -cos(p2, z1), each over the batch.

    The targets z1 and z2 are constants: no gradient may reach them, and both p1 and p2 must get
    theirs (Chen & He 2021, Eq. 2 and 4). p1, p2: predictions (N, D), float; z1, z2: projections
    (N, D), float, of the two views. Returns one number in [-1, 1], a tensor of shape () that
    carries gradients.
    """
    first = F.cosine_similarity(p1, z2.detach(), dim=1).mean()
    second = F.cosine_similarity(p2, z1.detach(), dim=1).mean()
    return -(first + second) / 2


def _simsiam_cases(generator: torch.Generator) -> dict[str, tuple]:
    def four(n, d, noise=1.0):
        z1 = torch.randn(n, d, generator=generator)
        z2 = z1 + noise * torch.randn(n, d, generator=generator)
        p1 = z1 + noise * torch.randn(n, d, generator=generator)
        p2 = z1 + noise * torch.randn(n, d, generator=generator)
        return p1, z1, p2, z2

    rising = torch.linspace(0.5, 8, 6)[:, None]
    falling = rising.flip(0)
    p1, z1, p2, z2 = four(6, 4)
    return {
        "random vectors": four(8, 5),
        "one picture": four(1, 3),
        "views that agree": four(6, 4, 0.1),
        "rows of different lengths": (p1 * rising, z1 * falling, p2 * falling, z2),
    }


def _simsiam_by_no_grad(p1, z1, p2, z2):
    cosines = []
    for p, z in ((p1, z2), (p2, z1)):
        with torch.no_grad():
            target = z / z.norm(dim=1, keepdim=True)
        cosines.append((p / p.norm(dim=1, keepdim=True) * target).sum(1))
    return -torch.cat(cosines).mean()


def _simsiam_by_distance(p1, z1, p2, z2):
    p = F.normalize(torch.cat([p1, p2]))
    z = F.normalize(torch.cat([z2, z1])).detach()
    return (p - z).square().sum(1).mean() / 2 - 1  # |p - z|^2 = 2 - 2 cos


def _simsiam_by_loop(p1, z1, p2, z2):
    total = 0.0
    for i in range(len(p1)):
        a = torch.dot(p1[i], z2[i].detach()) / (p1[i].norm() * z2[i].detach().norm())
        b = torch.dot(p2[i], z1[i].detach()) / (p2[i].norm() * z1[i].detach().norm())
        total = total - (a + b) / 2
    return total / len(p1)


def _simsiam_by_copies(p1, z1, p2, z2):
    z1 = z1.clone().detach().double()
    z2 = z2.clone().detach().double()
    first = torch.nn.CosineSimilarity(dim=1)(p1.double(), z2)
    second = torch.nn.CosineSimilarity(dim=1)(p2.double(), z1)
    return -0.5 * torch.mean(first + second)


def _simsiam_by_einsum(p1, z1, p2, z2):
    p = F.normalize(torch.stack([p1, p2]), dim=2)
    z = F.normalize(torch.stack([z2, z1]), dim=2).data
    return -torch.einsum("vnd,vnd->", p, z) / (2 * len(p1))


def _cosine(a, b):
    """Mean cosine over the batch."""
    return F.cosine_similarity(a, b).mean()


def _no_stop_gradient(p1, z1, p2, z2):
    """The right value, but gradients reach the targets as well."""
    return -0.5 * (_cosine(p1, z2) + _cosine(p2, z1))


def _stopped_at_prediction(p1, z1, p2, z2):
    """The predictions are held constant in place of the targets."""
    return -0.5 * (_cosine(p1.detach(), z2) + _cosine(p2.detach(), z1))


def _stopped_at_both(p1, z1, p2, z2):
    """Both sides are held constant, so that nothing can be learned."""
    return -0.5 * (_cosine(p1.detach(), z2.detach()) + _cosine(p2.detach(), z1.detach()))


def _stopped_on_one_side(p1, z1, p2, z2):
    """Only z2 is held constant; z1 still gets a gradient."""
    return -(_cosine(p1, z2.detach()) + _cosine(p2, z1)) / 2


def _own_view(p1, z1, p2, z2):
    """Each prediction is compared with the projection of its own view."""
    return simsiam_loss(p1, z2, p2, z1)


def _one_direction(p1, z1, p2, z2):
    """Only p1 is compared with z2; the other half of the loss is missing."""
    return -_cosine(p1, z2.detach())


def _sum_of_both(p1, z1, p2, z2):
    """The sum of the two halves in place of their mean."""
    return 2 * simsiam_loss(p1, z1, p2, z2)


def _positive_sign(p1, z1, p2, z2):
    """The cosine without the minus, which pushes the views apart."""
    return -simsiam_loss(p1, z1, p2, z2)


def _dot_product(p1, z1, p2, z2):
    """The dot product in place of the cosine: the lengths are not divided out."""
    first = (p1 * z2.detach()).sum(1).mean()
    second = (p2 * z1.detach()).sum(1).mean()
    return -0.5 * (first + second)


def _along_the_batch(p1, z1, p2, z2):
    """The cosine of the columns, over the batch, in place of the rows."""
    first = F.cosine_similarity(p1, z2.detach(), dim=0).mean()
    second = F.cosine_similarity(p2, z1.detach(), dim=0).mean()
    return -(first + second) / 2


def _sum_over_the_batch(p1, z1, p2, z2):
    """The sum over the batch in place of the mean."""
    return simsiam_loss(p1, z1, p2, z2) * len(p1)


def _one_minus_cosine(p1, z1, p2, z2):
    """1 minus the cosine in place of minus the cosine."""
    return 1 + simsiam_loss(p1, z1, p2, z2)


def _mean_squared_error(p1, z1, p2, z2):
    """The mean squared error of vectors whose lengths are not divided out."""
    return (F.mse_loss(p1, z2.detach()) + F.mse_loss(p2, z1.detach())) / 2


def _cosine_of_the_means(p1, z1, p2, z2):
    """The batch is averaged before the cosine, not after it."""
    first = F.cosine_similarity(p1.mean(0), z2.detach().mean(0), dim=0)
    second = F.cosine_similarity(p2.mean(0), z1.detach().mean(0), dim=0)
    return -(first + second) / 2


def _predictor_unused(p1, z1, p2, z2):
    """The projections are compared with each other, and the predictions are not used."""
    return simsiam_loss(z1, z1, z2, z2)


SIMSIAM = Exercise(
    solution=simsiam_loss,
    cases=_simsiam_cases,
    difficulty=1,
    minutes=10,
    gradient_of=(0, 1, 2, 3),
    hints=(
        "Each prediction is compared with the projection of the other view: p1 with z2, p2 with "
        "z1.",
        "z.detach() is z without its history: the loss cannot send a gradient through it.",
        "F.cosine_similarity(a, b, dim=1) gives one number for each row. You need two such sets of "
        "numbers, their means, and a sign.",
    ),
    wrong={
        "no stop-gradient": _no_stop_gradient,
        "stop-gradient on the prediction": _stopped_at_prediction,
        "stop-gradient on both": _stopped_at_both,
        "stopped on one side only": _stopped_on_one_side,
        "each with its own view": _own_view,
        "one direction": _one_direction,
        "sum of both": _sum_of_both,
        "positive sign": _positive_sign,
        "dot product, lengths kept": _dot_product,
        "projections compared, predictor unused": _predictor_unused,
        "cosine along the batch": _along_the_batch,
        "sum over the batch": _sum_over_the_batch,
        "1 minus the cosine": _one_minus_cosine,
        "mean squared error": _mean_squared_error,
        "cosine of the means": _cosine_of_the_means,
    },
    alternatives=(
        _simsiam_by_no_grad,
        _simsiam_by_distance,
        _simsiam_by_loop,
        _simsiam_by_copies,
        _simsiam_by_einsum,
    ),
)


# --- diagnose ---------------------------------------------------------------------------------


def diagnose(log):
    """Name what happened in a run: "healthy", "complete collapse" or "dimensional collapse".

    log: a dict with the lists "loss", "std_ratio" (std of the normalized z times sqrt(D)) and
    "effective_rank", one entry a record, and the number "dimension" (D). Use the mean of the last
    five records: complete collapse if the std ratio is below 0.1; otherwise dimensional collapse
    if the effective rank is below D / 8; otherwise healthy.
    """
    std_ratio = sum(log["std_ratio"][-5:]) / 5
    rank = sum(log["effective_rank"][-5:]) / 5
    if std_ratio < 0.1:
        return "complete collapse"
    return "dimensional collapse" if rank < log["dimension"] / 8 else "healthy"


def _diagnose_cases(generator: torch.Generator) -> dict[str, tuple]:
    n = 20  # records

    def path(start, end, noise):
        """Numbers that go from start to end, quickly at first."""
        curve = end + (start - end) * torch.exp(-torch.linspace(0, 8, n))
        return (curve * (1 + noise * (2 * torch.rand(n, generator=generator) - 1))).tolist()

    def log(std_ratio, rank, dimension, loss=(5.0, 1.0)):
        return dict(
            loss=path(*loss, 0.05),
            std_ratio=path(*std_ratio, 0.1),
            effective_rank=path(*rank, 0.1),
            dimension=dimension,
        )

    def ending(std_ratio, rank):
        """A healthy log whose last five records have these means."""
        made = log((0.9, 0.9), (40, 40), 64)
        factors = (0.8, 1.2, 1.0, 0.9, 1.1)
        made["std_ratio"][-5:] = [std_ratio * factor for factor in factors]
        made["effective_rank"][-5:] = [rank * factor for factor in factors]
        return made

    def with_tail(std_ratios=None, ranks=None):
        """A healthy log that ends with these records."""
        made = log((0.9, 0.9), (40, 40), 64)
        if std_ratios is not None:
            made["std_ratio"][-len(std_ratios) :] = std_ratios
        if ranks is not None:
            made["effective_rank"][-len(ranks) :] = ranks
        return made

    spike = log((0.8, 0.9), (30, 40), 64)
    spike["std_ratio"][-1] = 0.02  # one bad record does not make a collapse
    recovered = log((0.02, 0.9), (1.2, 30), 64)
    return {
        "a first log": (log((0.8, 0.9), (20, 40), 64),),
        "a second log": (log((0.8, 0.01), (20, 1.2), 64, (-0.3, -1.0)),),
        "a third log": (log((0.8, 0.85), (30, 4), 64),),
        "a loss that hardly falls": (log((0.8, 0.9), (30, 35), 64, (4.9, 4.7)),),
        "a narrow head": (log((0.9, 0.9), (5, 6), 8),),
        "a wide head": (log((0.8, 0.8), (60, 16), 512),),
        "a cloud of rounding noise": (log((0.5, 0.001), (20, 40), 64),),
        "one bad record": (spike,),
        "a run that broke near its end": (ending(0.01, 1.1),),
        "a std ratio just above 0.1": (ending(0.11, 40.0),),
        "a std ratio just below 0.1": (ending(0.09, 40.0),),
        "an effective rank just above D / 8": (ending(0.9, 8.4),),
        "an effective rank just below D / 8": (ending(0.9, 7.6),),
        "a run that recovered": (recovered,),
        "std ratios with a mean above 0.1 and a median below": (
            with_tail(std_ratios=[0.02, 0.9, 0.03, 0.8, 0.04]),
        ),
        "std ratios with a mean below 0.1 and a median above": (
            with_tail(std_ratios=[0.11, 0.01, 0.12, 0.13, 0.02]),
        ),
        "effective ranks with a mean above D / 8 and a median below": (
            with_tail(ranks=[4.0, 30.0, 5.0, 28.0, 6.0]),
        ),
        "a fifth record from the end that decides": (
            with_tail(std_ratios=[0.9, 0.04, 0.05, 0.06, 0.04]),
        ),
        "a sixth record from the end that does not count": (
            with_tail(std_ratios=[0.9, 0.04, 0.05, 0.06, 0.04, 0.05]),
        ),
        "a fifth rank from the end that decides": (with_tail(ranks=[40.0, 4.0, 5.0, 4.0, 5.0]),),
        "a sixth rank from the end that does not count": (
            with_tail(ranks=[40.0, 4.0, 5.0, 4.0, 5.0, 4.0]),
        ),
    }


def _diagnose_by_tensor(log):
    def tail(name):
        return torch.tensor(log[name][-5:]).mean().item()

    names = ("healthy", "dimensional collapse", "complete collapse")
    severity = int(tail("effective_rank") / log["dimension"] < 1 / 8)
    if tail("std_ratio") < 0.1:
        severity = 2
    return names[severity]


def _diagnose_by_sums(log):
    def tail_sum(name):
        return sum(list(reversed(log[name]))[:5])

    if tail_sum("std_ratio") < 0.5:
        return "complete collapse"
    if tail_sum("effective_rank") >= 5 * log["dimension"] / 8:
        return "healthy"
    return "dimensional collapse"


def _diagnose_by_numpy(log):
    std_ratio = np.mean(np.asarray(log["std_ratio"], dtype=np.float64)[-5:])
    rank = np.mean(np.asarray(log["effective_rank"], dtype=np.float64)[-5:])
    if std_ratio < 0.1:
        return np.str_("complete collapse")
    return np.where(rank < log["dimension"] / 8, "dimensional collapse", "healthy").item()


def _diagnose_by_loop(log):
    count = len(log["std_ratio"])
    std_sum = 0.0
    rank_sum = 0.0
    for i in range(count - 5, count):
        std_sum += log["std_ratio"][i]
        rank_sum += log["effective_rank"][i]
    if not std_sum / 5 >= 0.1:
        return "complete collapse"
    elif 8 * rank_sum / 5 < log["dimension"]:
        return "dimensional collapse"
    else:
        return "healthy"


def _diagnose_by_statistics(log):
    collapsed = statistics.fmean(log["std_ratio"][-5:]) < 0.1
    narrow = statistics.fmean(log["effective_rank"][-5:]) < log["dimension"] / 8
    if collapsed:
        return "complete collapse"
    if narrow:
        return "dimensional collapse"
    return "healthy"


def _mean(numbers):
    return sum(numbers) / len(numbers)


def _name(std_ratio, rank, lowest_rank):
    """The name of what happened, from the means."""
    if std_ratio < 0.1:
        return "complete collapse"
    if rank < lowest_rank:
        return "dimensional collapse"
    return "healthy"


def _by_the_loss(log):
    """The diagnosis rests on the loss, which can be best in a collapsed run."""
    if log["loss"][-1] < log["loss"][0] - 0.5:
        return "healthy"
    return "complete collapse"


def _last_record_only(log):
    """The last record alone in place of the mean of the last five."""
    return _name(log["std_ratio"][-1], log["effective_rank"][-1], log["dimension"] / 8)


def _whole_log(log):
    """The mean over the whole log in place of its last five records."""
    return _name(_mean(log["std_ratio"]), _mean(log["effective_rank"]), log["dimension"] / 8)


def _first_records(log):
    """The first five records in place of the last."""
    std_ratio = _mean(log["std_ratio"][:5])
    rank = _mean(log["effective_rank"][:5])
    return _name(std_ratio, rank, log["dimension"] / 8)


def _same_rank_for_every_width(log):
    """A rank below 10 counts as a collapse, whatever the dimension is."""
    return _name(_mean(log["std_ratio"][-5:]), _mean(log["effective_rank"][-5:]), 10)


def _rank_before_std(log):
    """The rank is tested first, so that a complete collapse is called dimensional."""
    if _mean(log["effective_rank"][-5:]) < log["dimension"] / 8:
        return "dimensional collapse"
    return diagnose(log)


def _std_only(log):
    """Only the std ratio is tested, not the rank."""
    return _name(_mean(log["std_ratio"][-5:]), _mean(log["effective_rank"][-5:]), 0)


def _median(log):
    """The median of the last five records in place of their mean."""
    std_ratio = statistics.median(log["std_ratio"][-5:])
    rank = statistics.median(log["effective_rank"][-5:])
    return _name(std_ratio, rank, log["dimension"] / 8)


def _last_four(log):
    """The last four records in place of five."""
    return _name(
        _mean(log["std_ratio"][-4:]), _mean(log["effective_rank"][-4:]), log["dimension"] / 8
    )


def _last_six(log):
    """The last six records in place of five."""
    return _name(
        _mean(log["std_ratio"][-6:]), _mean(log["effective_rank"][-6:]), log["dimension"] / 8
    )


def _without_the_last(log):
    """The slice [-6:-1] leaves the last record out."""
    std_ratio = _mean(log["std_ratio"][-6:-1])
    rank = _mean(log["effective_rank"][-6:-1])
    return _name(std_ratio, rank, log["dimension"] / 8)


def _smallest_of_five(log):
    """The smallest of the last five records in place of their mean."""
    return _name(min(log["std_ratio"][-5:]), min(log["effective_rank"][-5:]), log["dimension"] / 8)


def _always_healthy(log):
    """The answer is healthy, whatever the log says."""
    return "healthy"


DIAGNOSE = Exercise(
    solution=diagnose,
    cases=_diagnose_cases,
    difficulty=1,
    minutes=10,
    hints=(
        "The loss is not needed: a collapsed run can have the best loss of all.",
        "log['std_ratio'][-5:] holds the last five records; take their mean, and that of the "
        "effective rank.",
        "First ask for complete collapse (std ratio below 0.1), then compare the rank with "
        "dimension / 8.",
    ),
    wrong={
        "judged by the loss": _by_the_loss,
        "the last record only": _last_record_only,
        "the whole log": _whole_log,
        "the first records": _first_records,
        "the same rank for every width": _same_rank_for_every_width,
        "rank before std": _rank_before_std,
        "std only": _std_only,
        "median in place of mean": _median,
        "the last four records": _last_four,
        "the last six records": _last_six,
        "the last record left out": _without_the_last,
        "the smallest of five": _smallest_of_five,
        "always healthy": _always_healthy,
    },
    alternatives=(
        _diagnose_by_tensor,
        _diagnose_by_sums,
        _diagnose_by_numpy,
        _diagnose_by_loop,
        _diagnose_by_statistics,
    ),
)

EXERCISES = [BARLOW, SIMSIAM, DIAGNOSE]
