"""Exercises of lesson 03: center a Gram matrix, linear CKA, a transformation that fools CKA.

Shapes: N examples; P and Q numbers in the features of two networks.
"""

import numpy as np
import torch

from replearn.lesson.exercises import Exercise

# --- center_gram ------------------------------------------------------------------------------


def center_gram(gram):
    """The Gram matrix H K H of the same examples with their mean subtracted.

    Every row and every column of it sums to 0. gram: (N, N), K_ij = the similarity of examples i
    and j. H = I - 11^T / N. Returns (N, N); the input is not changed.
    """
    rows = gram.mean(dim=1, keepdim=True)  # (N, 1)
    columns = gram.mean(dim=0, keepdim=True)  # (1, N)
    return gram - rows - columns + gram.mean()


def _gram_cases(generator: torch.Generator) -> dict[str, tuple]:
    def features(n, d, mean=0.0):
        return torch.randn(n, d, generator=generator) + mean

    def gram_of(x):
        return x @ x.T

    x = features(9, 3)
    points = features(7, 2)
    rbf = (-torch.cdist(points, points).square()).exp()
    return {
        "a linear Gram matrix": (gram_of(features(8, 4)),),
        "features that are far from 0": (gram_of(features(6, 3, 3.0)),),
        "an RBF Gram matrix (ones on the diagonal)": (rbf,),
        "features that are centered already": (gram_of(x - x.mean(0)),),
        "two examples": (gram_of(features(2, 5)),),
    }


def _center_by_h(gram):
    h = torch.eye(len(gram)) - 1 / len(gram)
    return h @ gram @ h


def _center_twice(gram):
    gram = gram - gram.mean(0)
    return gram - gram.mean(1)[:, None]


def _center_by_loop(gram):
    k = gram.double().numpy()
    n = len(k)
    centered = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            centered[i, j] = k[i, j] - k[i].sum() / n - k[:, j].sum() / n + k.sum() / n**2
    return centered


def _columns_only(gram):
    """K H or H K alone: only the columns sum to 0."""
    return gram - gram.mean(0)


def _rows_only(gram):
    """Only the rows sum to 0."""
    return gram - gram.mean(1, keepdim=True)


def _overall_mean_only(gram):
    """One number is subtracted from all entries."""
    return gram - gram.mean()


def _overall_mean_not_given_back(gram):
    """Row means and column means together take the overall mean away twice."""
    return gram - gram.mean(0) - gram.mean(1, keepdim=True)


def _sums_in_place_of_means(gram):
    """The sums are not divided by N."""
    return gram - gram.sum(0) - gram.sum(1, keepdim=True) + gram.sum()


def _divided_by_n_minus_1(gram):
    """A covariance's factor, which does not belong here."""
    return center_gram(gram) / (len(gram) - 1)


def _diagonal_zeroed(gram):
    """The similarity of an example with itself is erased."""
    return center_gram(gram).fill_diagonal_(0)


def _center_in_place(gram):
    """The right values, written over the input."""
    return gram.copy_(center_gram(gram))


CENTER = Exercise(
    solution=center_gram,
    cases=_gram_cases,
    difficulty=1,
    minutes=8,
    hints=(
        "H K subtracts from each column its mean, K H from each row its mean. You need both.",
        "K minus row means minus column means has taken the overall mean away twice: give it back "
        "once.",
        "gram.mean(dim=1, keepdim=True) is (N, 1) and gram.mean(dim=0, keepdim=True) is (1, N); "
        "both broadcast.",
    ),
    wrong={
        "columns only": _columns_only,
        "rows only": _rows_only,
        "overall mean only": _overall_mean_only,
        "overall mean not given back": _overall_mean_not_given_back,
        "sums in place of means": _sums_in_place_of_means,
        "divided by N - 1": _divided_by_n_minus_1,
        "diagonal set to 0": _diagonal_zeroed,
        "in place": _center_in_place,
    },
    alternatives=(_center_by_h, _center_twice, _center_by_loop),
)


# --- linear_cka -------------------------------------------------------------------------------


def linear_cka(x, y):
    """Linear CKA (Kornblith et al. 2019, Sec. 3): ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F).

    The columns are centered first. x: (N, P), y: (N, Q): features of the same N examples, row by
    row. Returns one number in [0, 1].
    """
    x = x - x.mean(dim=0)
    y = y - y.mean(dim=0)
    return (y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())


def _cka_cases(generator: torch.Generator) -> dict[str, tuple]:
    def random(*shape):
        return torch.randn(*shape, generator=generator)

    x = random(20, 5)
    return {
        "features that share something": (x, x @ random(5, 3) + random(20, 3)),
        "unrelated features": (random(30, 4), random(30, 6)),
        "features that are far from 0": (random(15, 4) + 5, random(15, 4) - 3),
        "more features than examples": (random(6, 10), random(6, 8)),
        "a rotated copy (CKA is 1)": (x, x @ torch.linalg.qr(random(5, 5))[0] + 1),
        "features in other units": (1e3 * random(12, 3), 1e-2 * random(12, 4)),
    }


def _cka_by_gram(x, y):
    # Subtracting the first row changes nothing but the rounding.
    x = x - x[0]
    y = y - y[0]
    k = _center_by_h(x @ x.T)
    m = _center_by_h(y @ y.T)
    return (k * m).sum() / ((k * k).sum() * (m * m).sum()).sqrt()


def _cka_by_numpy(x, y):
    def hsic(a, b):
        return np.sum((a.T @ b) ** 2)

    x = x.double().numpy()
    y = y.double().numpy()
    x = x - x.mean(0)
    y = y - y.mean(0)
    return float(hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y)))


def _overlap(x, y):
    """||X^T Y||_F^2."""
    return (x.T @ y).square().sum()


def _ratio(x, y):
    """CKA of features that are taken as centered."""
    return _overlap(x, y) / (_overlap(x, x) * _overlap(y, y)).sqrt()


def _cka_not_centered(x, y):
    """The mean of the features counts as something that they share."""
    return _ratio(x, y)


def _cka_rows_centered(x, y):
    """Each example is centered over its features, not each feature over the examples."""
    return _ratio(x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True))


def _cka_no_root(x, y):
    """The norms below the line are squared like the one above."""
    x = x - x.mean(0)
    y = y - y.mean(0)
    return _overlap(x, y) / (_overlap(x, x) * _overlap(y, y))


def _cka_norm_not_squared(x, y):
    """||Y^T X||_F above the line, where its square belongs."""
    x = x - x.mean(0)
    y = y - y.mean(0)
    return _ratio(x, y).sqrt()


def _cka_norms_of_features(x, y):
    """||X||_F^2 ||Y||_F^2 below the line, in place of the norms of the products."""
    x = x - x.mean(0)
    y = y - y.mean(0)
    return _overlap(x, y) / (x.square().sum() * y.square().sum())


def _cka_trace(x, y):
    """Only feature i of x with feature i of y, the diagonal of Y^T X."""
    x = x - x.mean(0)
    y = y - y.mean(0)
    trace = (y.T @ x).diagonal().sum()
    return trace.square() / (_overlap(x, x) * _overlap(y, y)).sqrt()


def _cka_one_minus(x, y):
    """A distance in place of a similarity."""
    return 1 - linear_cka(x, y)


def _cka_spectral(x, y):
    """The largest singular value in place of the Frobenius norm."""
    x = x - x.mean(0)
    y = y - y.mean(0)
    norm_xy = torch.linalg.matrix_norm(y.T @ x, 2)
    norm_xx = torch.linalg.matrix_norm(x.T @ x, 2)
    norm_yy = torch.linalg.matrix_norm(y.T @ y, 2)
    return norm_xy**2 / (norm_xx * norm_yy)


CKA = Exercise(
    solution=linear_cka,
    cases=_cka_cases,
    difficulty=1,
    minutes=8,
    tolerance=1e-3,
    hints=(
        "Subtract from every column its mean: x - x.mean(dim=0), and the same for y.",
        "y.T @ x is (Q, P): the inner products of every feature of y with every feature of x. "
        "Square, then sum.",
        "(x.T @ x).norm() is the Frobenius norm of a matrix; above the line the norm is squared, "
        "below it is not.",
    ),
    wrong={
        "not centered": _cka_not_centered,
        "no root below": _cka_no_root,
        "norm not squared above": _cka_norm_not_squared,
        "norms of the features below": _cka_norms_of_features,
        "trace of y.T @ x": _cka_trace,
        "each row centered": _cka_rows_centered,
        "one minus": _cka_one_minus,
        "spectral norm": _cka_spectral,
    },
    alternatives=(_cka_by_gram, _cka_by_numpy),
)


# --- fools_cka --------------------------------------------------------------------------------


def fools_cka(x):
    """A matrix M (P, P) that keeps all of x, and makes CKA say that x and x @ M differ.

    x: (N, P) features, N > P. M must have an inverse, with a condition number (largest over
    smallest singular value) of 10,000 or less, so that a linear probe w on x lives on as M^-1 w on
    x @ M. Linear CKA of x and x @ M: below 0.1.
    """
    # Rows of v: directions, the one in which the features vary most first.
    _, _, v = torch.linalg.svd(x - x.mean(dim=0), full_matrices=False)
    quiet = v[-1]  # the direction in which the features vary least
    return torch.eye(x.shape[1]) + 999 * torch.outer(quiet, quiet)


def _fools_cases(generator: torch.Generator) -> dict[str, tuple]:
    def features(n, spread, *, mean=0.0, turn=True):
        """Features with these standard deviations, along the columns or turned."""
        p = len(spread)
        u = torch.randn(n, p, generator=generator)
        u = torch.linalg.qr(u - u.mean(0))[0] * n**0.5  # exactly uncorrelated, variance 1
        v = torch.eye(p)
        if turn:
            v = torch.linalg.qr(torch.randn(p, p, generator=generator))[0]
        # The mean lies in the quietest direction.
        return u * torch.tensor(spread) @ v + mean * v[-1]

    falling_8 = [1 / i for i in range(1, 9)]
    falling_30 = [1 / i for i in range(1, 31)]
    first_loud = features(40, [3.0, 1.0, 0.7, 0.3], turn=False)
    last_loud = features(40, [0.3, 0.5, 1.0, 3.0], turn=False)
    eight = features(60, falling_8)
    two = features(30, [1.0, 0.05])
    two_far = features(30, [1.0, 0.05], mean=3.0, turn=False)
    five_far = features(80, [2.0, 1.0, 0.5, 0.25, 0.1], mean=4.0)
    return {
        "features whose first column varies most": (first_loud,),
        "features whose last column varies most": (last_loud,),
        "eight features": (eight,),
        "two features": (two,),
        "two features that are far from 0": (two_far,),
        "features that are far from 0": (five_far,),
        "thirty features": (features(100, falling_30),),
    }


def _fools_judge(answer, _, x):
    """Any matrix will do that has an inverse and brings CKA below 0.1."""
    m = torch.as_tensor(answer).detach().double()
    p = x.shape[1]
    if m.shape != (p, p) or not m.isfinite().all():
        return (
            f"expected a matrix of shape {(p, p)} with finite numbers, found shape {tuple(m.shape)}"
        )
    singular_values = torch.linalg.svdvals(m)
    largest = singular_values[0]
    smallest = singular_values[-1]
    if largest > 1.001e4 * smallest:
        condition = "one that has none"
        if smallest > 1e-12 * largest:
            condition = f"condition number {largest / smallest:.3g}"
        return (
            "expected a matrix with an inverse (condition number 10,000 or less), "
            f"found {condition}"
        )
    cka = linear_cka(x.double(), x.double() @ m).item()
    if cka < 0.1:
        return None
    return f"expected a CKA of x and x @ M below 0.1, found {cka:.3f}"


def _fools_by_covariance(x):
    variance, v = torch.linalg.eigh(torch.cov(x.T.double()))  # smallest first
    stretch = torch.ones(len(variance), dtype=torch.float64)
    stretch[0] = 2_000.0
    return (v * stretch) @ v.T


def _fools_by_reversing(x):
    """The quietest direction becomes the loudest."""
    variance, v = np.linalg.eigh(np.cov(x.double().numpy().T))
    return v * np.maximum((variance / variance[0]) ** -1.3, 1e-4)


def _stretch(x, which, factor):
    """Stretch one direction of x by a factor: 0 is the one that varies most, -1 the least."""
    _, _, v = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    return torch.eye(x.shape[1]) + (factor - 1) * torch.outer(v[which], v[which])


def _fools_by_500(x):
    return _stretch(x, -1, 500.0)


def _identity(x):
    """Nothing changes: CKA is 1."""
    return torch.eye(x.shape[1])


def _rotation(x):
    """CKA does not see rotations."""
    p = x.shape[1]
    numbers = torch.sin(torch.arange(p**2.0)).view(p, -1)
    return torch.linalg.qr(numbers)[0]


def _common_factor(x):
    """CKA does not see a common factor."""
    return 1000 * torch.eye(x.shape[1])


def _random_matrix(x):
    """It mixes the directions, but stretches the quiet one too little."""
    p = x.shape[1]
    return torch.randn(p, p, generator=torch.Generator().manual_seed(len(x)))


def _first_column_stretched(x):
    """A column is not a direction of the data, and may be the loudest."""
    return torch.diag(torch.tensor([1000.0] + [1.0] * (x.shape[1] - 1)))


def _last_column_stretched(x):
    """Right only where the last column happens to be the quietest direction."""
    return torch.diag(torch.tensor([1.0] * (x.shape[1] - 1) + [1000.0]))


def _loudest_stretched(x):
    """The direction that dominates CKA dominates it even more."""
    return _stretch(x, 0, 1_000.0)


def _everything_else_erased(x):
    """Only the quiet direction is left: the matrix has no inverse."""
    return _stretch(x, -1, 1_000.0) - _stretch(x, -1, 0.0)


def _stretched_too_far(x):
    """The condition number is a million."""
    return _stretch(x, -1, 1e6)


def _quiet_shrunk(x):
    """What CKA hardly saw, it sees even less."""
    return _stretch(x, -1, 1e-3)


FOOLS = Exercise(
    solution=fools_cka,
    cases=_fools_cases,
    difficulty=3,
    minutes=15,
    judge=_fools_judge,
    hints=(
        "Rotations and one common factor leave CKA alone. Stretch one direction, and CKA sees "
        "little else.",
        "Which direction tells CKA least about x? The one in which the centered x varies least: "
        "the last row of the third result of torch.linalg.svd(x - x.mean(0)).",
        "With that vector v: torch.eye(P) + (s - 1) * torch.outer(v, v) stretches along v by s: "
        "try s = 1000.",
    ),
    wrong={
        "the identity": _identity,
        "a rotation": _rotation,
        "a common factor": _common_factor,
        "a random matrix": _random_matrix,
        "the first column stretched": _first_column_stretched,
        "the last column stretched": _last_column_stretched,
        "the loudest direction stretched": _loudest_stretched,
        "everything else erased": _everything_else_erased,
        "stretched too far": _stretched_too_far,
        "the quiet direction shrunk": _quiet_shrunk,
    },
    alternatives=(_fools_by_covariance, _fools_by_reversing, _fools_by_500),
)

EXERCISES = [CENTER, CKA, FOOLS]
