"""Exercises of lesson F4: Kendall's rank correlation, the Epps-Pulley statistic.

Shapes: K encoders; N numbers.
"""

import itertools
import math

import numpy as np
import torch

from replearn.lesson.exercises import Exercise

# --- kendall_tau ------------------------------------------------------------------------------


def kendall_tau(score, accuracy):
    """How far a score puts encoders in the order of their accuracy: Kendall's tau.

    score: (K,) and accuracy: (K,), float32, of K encoders, K >= 2; no two scores are equal, and no
    two accuracies. Of all K (K - 1) / 2 pairs of encoders, call a pair agreed if the one with the
    higher score has the higher accuracy. Returns (agreed pairs - other pairs) / all pairs: 1 for
    the same order, -1 for the reversed one.
    """
    first, second = torch.triu_indices(len(score), len(score), offset=1)  # every pair once
    by_score = torch.sign(score[first] - score[second])
    by_accuracy = torch.sign(accuracy[first] - accuracy[second])
    return (by_score * by_accuracy).mean()


def _tau_cases(generator: torch.Generator) -> dict[str, tuple]:
    def order(k):
        return torch.randperm(k, generator=generator).float()

    accuracy = torch.rand(9, generator=generator)
    return {
        "ranks of eight encoders": (order(8), order(8)),
        "a score that follows the accuracy, with faults": (
            accuracy + 0.3 * torch.randn(9, generator=generator),
            accuracy,
        ),
        "a score on a curved scale": (
            torch.exp(9 * accuracy + torch.randn(9, generator=generator)),
            accuracy,
        ),
        "scores below 0": (-order(12) - 1, order(12) / 12),
        "three encoders, two of them swapped": (
            torch.tensor([0.1, 0.3, 0.2]),
            torch.tensor([0.2, 0.5, 0.9]),
        ),
        "the reversed order": (-accuracy, accuracy),
    }


def _tau_by_matrices(score, accuracy):
    a = torch.sign(score[:, None] - score[None, :])
    b = torch.sign(accuracy[:, None] - accuracy[None, :])
    k = len(score)
    return (a * b).sum() / (k * (k - 1))


def _tau_by_loops(score, accuracy):
    total = 0
    count = 0
    for i in range(len(score)):
        for j in range(i):
            same = (score[i] > score[j]).item() == (accuracy[i] > accuracy[j]).item()
            total += 1 if same else -1
            count += 1
    return total / count


def _tau_by_scipy(score, accuracy):
    from scipy.stats import kendalltau

    return float(kendalltau(score.numpy(), accuracy.numpy()).statistic)


def _tau_by_numpy(score, accuracy):
    upper = np.triu_indices(len(score), k=1)
    a = np.subtract.outer(score.numpy(), score.numpy())[upper]
    b = np.subtract.outer(accuracy.numpy(), accuracy.numpy())[upper]
    return np.mean(np.where(a * b > 0, 1.0, -1.0))


def _tau_by_inversions(score, accuracy):
    """Sorted by the score, every pair of accuracies in the wrong order counts against it."""
    sorted_by_score = accuracy.double()[score.argsort()].tolist()
    pairs = list(itertools.combinations(sorted_by_score, 2))
    wrong = sum(earlier > later for earlier, later in pairs)
    return 1 - 2 * wrong / len(pairs)


def _tau_by_correlation_of_signs(score, accuracy):
    """It is the cosine of two tables of signs."""
    a = torch.sign(score[:, None] - score).double().flatten()
    b = torch.sign(accuracy[:, None] - accuracy).double().flatten()
    return a @ b / (a.norm() * b.norm())


def _ranks(values):
    return values.argsort().argsort().double()


def _tau_spearman(score, accuracy):
    """The correlation of the ranks: that is Spearman's coefficient, not Kendall's."""
    return torch.corrcoef(torch.stack([_ranks(score), _ranks(accuracy)]))[0, 1]


def _tau_pearson(score, accuracy):
    """Pearson's correlation of the numbers themselves, not of their order."""
    return torch.corrcoef(torch.stack([score, accuracy]))[0, 1]


def _tau_share(score, accuracy):
    """The share of agreed pairs, between 0 and 1: the other pairs are not subtracted."""
    return (kendall_tau(score, accuracy) + 1) / 2


def _tau_not_divided(score, accuracy):
    """Agreed pairs minus other pairs, not divided by the number of pairs."""
    return kendall_tau(score, accuracy) * len(score) * (len(score) - 1) / 2


def _tau_with_the_diagonal(score, accuracy):
    """The mean over the whole table of K x K: an encoder compared with itself counts 0 there."""
    return kendall_tau(score, accuracy) * (len(score) - 1) / len(score)


def _tau_pairs_twice(score, accuracy):
    """Every pair is counted twice and divided by the number of pairs."""
    return kendall_tau(score, accuracy) * 2


def _tau_one_argsort(score, accuracy):
    """One argsort gives the place of the k-th smallest, not the rank of each encoder."""
    return kendall_tau(score.argsort().float(), accuracy.argsort().float())


def _tau_sign(score, accuracy):
    """The sign is turned: 1 for the reversed order."""
    return -kendall_tau(score, accuracy)


def _tau_absolute(score, accuracy):
    """The absolute value: a reversed order counts as a good one."""
    return abs(kendall_tau(score, accuracy))


def _tau_neighbors_only(score, accuracy):
    """Only pairs that stand beside each other in the order of the score are compared."""
    sorted_by_score = accuracy[score.argsort()]
    return torch.sign(sorted_by_score[1:] - sorted_by_score[:-1]).mean()


def _tau_with_the_first(score, accuracy):
    """Every encoder is compared with the first one only."""
    return torch.sign((score[1:] - score[0]) * (accuracy[1:] - accuracy[0])).mean()


KENDALL_TAU = Exercise(
    solution=kendall_tau,
    cases=_tau_cases,
    difficulty=1,
    minutes=5,
    hints=(
        "torch.sign(score[:, None] - score) holds for every two encoders which has the higher "
        "score.",
        "The product of two such tables is 1 for an agreed pair and -1 for another. The diagonal "
        "is 0, and every pair stands there twice.",
        "So divide the sum of the whole table by K (K - 1).",
    ),
    wrong={
        "Spearman": _tau_spearman,
        "Pearson": _tau_pearson,
        "share of agreed pairs": _tau_share,
        "not divided": _tau_not_divided,
        "diagonal counted": _tau_with_the_diagonal,
        "pairs twice": _tau_pairs_twice,
        "one argsort": _tau_one_argsort,
        "sign turned": _tau_sign,
        "absolute value": _tau_absolute,
        "neighbors only": _tau_neighbors_only,
        "first encoder only": _tau_with_the_first,
    },
    alternatives=(
        _tau_by_matrices,
        _tau_by_loops,
        _tau_by_scipy,
        _tau_by_numpy,
        _tau_by_inversions,
        _tau_by_correlation_of_signs,
    ),
)


# --- epps_pulley_exact ------------------------------------------------------------------------


def epps_pulley_exact(x):
    """The Epps-Pulley statistic of N numbers against the standard normal, without a grid.

    x: (N,) float32. With phi(t) the mean of exp(i t x) over the N numbers, returns N times the
    integral over all real t of |phi(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2). Written out, that is
    (1 / N) sum over all pairs j, k of sqrt(2 pi) exp(-(x_j - x_k)^2 / 2), minus
    2 sqrt(pi) sum over j of exp(-x_j^2 / 4), plus N sqrt(2 pi / 3). x is compared as it is, not
    standardized before.
    """
    x = x.double()
    n = len(x)
    pairs = torch.exp(-((x[:, None] - x[None, :]) ** 2) / 2).sum() / n  # j = k counts too
    single = torch.exp(-(x**2) / 4).sum()
    return (
        math.sqrt(2 * math.pi) * pairs
        - 2 * math.sqrt(math.pi) * single
        + n * math.sqrt(2 * math.pi / 3)
    )


def _epps_cases(generator: torch.Generator) -> dict[str, tuple]:
    normal = torch.randn(60, generator=generator)
    return {
        "normal numbers": (normal,),
        "normal numbers, moved by 1": (torch.randn(40, generator=generator) + 1,),
        "normal numbers, three times as wide": (3 * torch.randn(50, generator=generator),),
        "numbers that are all 0": (torch.zeros(12),),
        "skewed numbers": (torch.rand(30, generator=generator).log().neg() - 1,),
        "two clusters": (0.3 * normal + torch.sign(torch.randn(60, generator=generator)),),
        "a single number": (torch.randn(1, generator=generator) + 2,),
    }


def _gap(x, t):
    """|phi(t) - exp(-t^2 / 2)|^2 at the points t, by its two parts."""
    angle = x[:, None] * t
    real = angle.cos().mean(0) - torch.exp(-(t**2) / 2)
    return real**2 + angle.sin().mean(0) ** 2


def _epps_on_a_fine_grid(x):
    t = torch.linspace(-8, 8, 1601).double()
    return len(x) * torch.trapezoid(_gap(x.double(), t) * torch.exp(-(t**2) / 2), t)


def _epps_with_complex_numbers(x):
    t = torch.linspace(0, 9, 1801).double()
    phi = torch.exp(1j * x.double()[:, None] * t).mean(0)
    weight = torch.exp(-(t**2) / 2)
    return 2 * len(x) * torch.trapezoid((phi - weight).abs() ** 2 * weight, t)


def _epps_by_quad(x):
    from scipy.integrate import quad

    x = x.double().numpy()

    def integrand(t):
        normal = math.exp(-t * t / 2)
        gap = (np.cos(t * x).mean() - normal) ** 2 + np.sin(t * x).mean() ** 2
        return gap * normal

    return len(x) * 2 * quad(integrand, 0, 9, limit=200)[0]


def _epps_by_gauss_hermite(x):
    """Quadrature whose weight is exp(-t^2 / 2) already."""
    t, weights = np.polynomial.hermite_e.hermegauss(120)
    gap = _gap(x.double(), torch.from_numpy(t)).numpy()
    return float(len(x) * weights @ gap)


def _epps_by_numpy(x):
    x = x.numpy().astype(np.float64)
    n = len(x)
    pairs = np.exp(-(np.subtract.outer(x, x) ** 2) / 2).mean() * n
    return (
        np.sqrt(2 * np.pi) * pairs
        - 2 * np.sqrt(np.pi) * np.exp(-(x**2) / 4).sum()
        + n * np.sqrt(2 * np.pi / 3)
    )


def _epps_by_loops(x):
    values = [float(v) for v in x]
    total = len(values) * math.sqrt(2 * math.pi / 3)
    for a in values:
        total -= 2 * math.sqrt(math.pi) * math.exp(-a * a / 4)
        for b in values:
            total += math.sqrt(2 * math.pi) * math.exp(-((a - b) ** 2) / 2) / len(values)
    return total


def _epps_on_the_grid(x, *, weight=None, target=None):
    """The integral with another weight or target, for the mistakes below."""
    t = torch.linspace(-8, 8, 1601).double()
    normal = torch.exp(-(t**2) / 2)
    angle = x.double()[:, None] * t
    real = angle.cos().mean(0) - (normal if target is None else target(t))
    gap = real**2 + angle.sin().mean(0) ** 2
    return len(x) * torch.trapezoid(gap * (normal if weight is None else weight(t)), t)


def _epps_not_times_n(x):
    """The integral alone, not multiplied by N."""
    return epps_pulley_exact(x) / len(x)


def _epps_no_weight(x):
    """The weight exp(-t^2 / 2) is left out, and the integral grows with its limits."""
    return _epps_on_the_grid(x, weight=torch.ones_like)


def _epps_weight_squared(x):
    """The weight is exp(-t^2), not exp(-t^2 / 2)."""
    return _epps_on_the_grid(x, weight=lambda t: torch.exp(-(t**2)))


def _epps_other_variance(x):
    """The target exp(-t^2) belongs to a normal with variance 2."""
    return _epps_on_the_grid(x, target=lambda t: torch.exp(-(t**2)))


def _epps_standardized(x):
    """The numbers are standardized first, so that mean and width no longer count."""
    return epps_pulley_exact((x - x.mean()) / (x.std(correction=0) + 1e-6))


def _epps_real_part(x):
    """Only the cosines are compared; the sines, which should be 0 on average, are left out."""
    t = torch.linspace(-8, 8, 1601).double()
    normal = torch.exp(-(t**2) / 2)
    real = (x.double()[:, None] * t).cos().mean(0) - normal
    return len(x) * torch.trapezoid(real**2 * normal, t)


def _epps_half(x):
    """The integral from 0 on, half of that over all t."""
    return epps_pulley_exact(x) / 2


def _epps_stops_at_one(x):
    """The integral stops at t = -1 and 1."""
    t = torch.linspace(-1, 1, 401).double()
    return len(x) * torch.trapezoid(_gap(x.double(), t) * torch.exp(-(t**2) / 2), t)


def _epps_not_squared(x):
    """The absolute difference is not squared."""
    t = torch.linspace(-8, 8, 1601).double()
    return len(x) * torch.trapezoid(_gap(x.double(), t).sqrt() * torch.exp(-(t**2) / 2), t)


def _epps_without_the_diagonal(x):
    """Pairs of a number with itself, which count 1 each, are left out."""
    return epps_pulley_exact(x) - math.sqrt(2 * math.pi)


def _epps_pairs_not_divided(x):
    """The sum over the pairs is not divided by N."""
    pairs = torch.exp(-((x.double()[:, None] - x.double()) ** 2) / 2).sum()
    return epps_pulley_exact(x) + math.sqrt(2 * math.pi) * pairs * (1 - 1 / (len(x) + 1e-9))


def _epps_root(x):
    """The square root of the statistic."""
    return epps_pulley_exact(x).clamp(min=0).sqrt()


EPPS_PULLEY = Exercise(
    solution=epps_pulley_exact,
    cases=_epps_cases,
    difficulty=2,
    minutes=8,
    tolerance=1e-3,
    hints=(
        "Three sums: over all pairs, over the numbers, and a constant. x[:, None] - x holds all "
        "differences.",
        "The pairs include every number with itself: N of the N^2 terms are exp(0) = 1.",
        "A fine grid is right, too: torch.trapezoid from -8 to 8 with a thousand points. Do not "
        "forget the sines: |phi - normal|^2 has a real and an imaginary part.",
    ),
    wrong={
        "not times N": _epps_not_times_n,
        "no weight": _epps_no_weight,
        "weight squared": _epps_weight_squared,
        "another variance": _epps_other_variance,
        "standardized first": _epps_standardized,
        "real part only": _epps_real_part,
        "half of the line": _epps_half,
        "stops at 1": _epps_stops_at_one,
        "not squared": _epps_not_squared,
        "diagonal left out": _epps_without_the_diagonal,
        "pairs not divided": _epps_pairs_not_divided,
        "square root": _epps_root,
    },
    alternatives=(
        _epps_on_a_fine_grid,
        _epps_with_complex_numbers,
        _epps_by_quad,
        _epps_by_gauss_hermite,
        _epps_by_numpy,
        _epps_by_loops,
    ),
)

EXERCISES = [KENDALL_TAU, EPPS_PULLEY]
