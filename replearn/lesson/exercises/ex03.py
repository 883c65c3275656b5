"""Exercises of lesson 03: center a Gram matrix, linear CKA, a transformation that fools CKA.

Shapes: N examples; P and Q numbers in the features of two networks.
"""

import numpy as np
import torch

from replearn.lesson.exercises import Exercise

# --- center_gram ------------------------------------------------------------------------------


def center_gram(gram):
    """The Gram matrix H K H of the same examples with their mean subtracted.

    Every row and every column of it sums to 0. gram: (N, N) float32, K_ij = the similarity of
    examples i and j. H = I - 11^T / N. Returns (N, N) float32; the input is not changed.
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


def _center_in_float64(gram):
    n = gram.shape[0]
    ones = torch.ones(n, n, dtype=torch.float64) / n
    gram = gram.double()
    return gram - ones @ gram - gram @ ones + ones @ gram @ ones


def _center_by_numpy(gram):
    k = gram.numpy()
    return k - k.mean(axis=0) - k.mean(axis=1)[:, np.newaxis] + np.mean(k)


def _center_in_place_on_a_copy(gram):
    centered = gram.clone()
    centered -= centered.mean(dim=0, keepdim=True)
    centered.sub_(centered.mean(dim=1, keepdim=True))
    return centered


def _center_row_by_row(gram):
    column_means = gram.sum(0) / len(gram)
    rows = []
    for row in gram:
        rows.append(row - column_means - row.mean() + column_means.mean())
    return torch.stack(rows)


def _center_by_projection(gram):
    """The part of each side along the constant vector is taken away."""
    constant = torch.full((len(gram),), len(gram) ** -0.5)
    gram = gram - torch.outer(constant, constant @ gram)
    return gram - torch.outer(gram @ constant, constant)


def _columns_only(gram):
    """Only H K is computed, so that the columns sum to 0 and the rows do not."""
    return gram - gram.mean(0)


def _rows_only(gram):
    """Only K H is computed, so that the rows sum to 0 and the columns do not."""
    return gram - gram.mean(1, keepdim=True)


def _overall_mean_only(gram):
    """One number, the overall mean, is subtracted from all entries."""
    return gram - gram.mean()


def _overall_mean_not_given_back(gram):
    """Row means and column means together take the overall mean away twice."""
    return gram - gram.mean(0) - gram.mean(1, keepdim=True)


def _sums_in_place_of_means(gram):
    """Sums of rows and columns are subtracted in place of their means."""
    return gram - gram.sum(0) - gram.sum(1, keepdim=True) + gram.sum()


def _divided_by_n_minus_1(gram):
    """The centered matrix is divided by N - 1, as for a covariance."""
    return center_gram(gram) / (len(gram) - 1)


def _diagonal_zeroed(gram):
    """The diagonal, each example's similarity with itself, is set to 0 after the centering."""
    return center_gram(gram).fill_diagonal_(0)


def _center_in_place(gram):
    """The right values are written over the input."""
    return gram.copy_(center_gram(gram))


def _divided_by_the_deviation(gram):
    """The centered entries are also divided by their standard deviation."""
    centered = center_gram(gram)
    return centered / centered.std()


def _normalized_to_cosines(gram):
    """The centered matrix is scaled to ones on its diagonal, as for a correlation."""
    centered = center_gram(gram)
    length = centered.diagonal().clamp(min=1e-12).sqrt()
    return centered / torch.outer(length, length)


def _h_with_n_minus_1(gram):
    """H has 1 / (N - 1) in place of 1 / N."""
    h = torch.eye(len(gram)) - 1 / (len(gram) - 1)
    return h @ gram @ h


def _h_without_a_division(gram):
    """H is I - 11^T, without the division by N."""
    h = torch.eye(len(gram)) - 1
    return h @ gram @ h


def _diagonal_mean_subtracted(gram):
    """The mean of the diagonal is added back in place of the overall mean."""
    rows_and_columns = gram.mean(0) + gram.mean(1, keepdim=True)
    return gram - rows_and_columns + gram.diagonal().mean()


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
        "divided by the deviation": _divided_by_the_deviation,
        "cosines": _normalized_to_cosines,
        "N - 1 in H": _h_with_n_minus_1,
        "H without a division": _h_without_a_division,
        "mean of the diagonal": _diagonal_mean_subtracted,
    },
    alternatives=(
        _center_by_h,
        _center_twice,
        _center_by_loop,
        _center_in_float64,
        _center_by_numpy,
        _center_in_place_on_a_copy,
        _center_row_by_row,
        _center_by_projection,
    ),
)


# --- linear_cka -------------------------------------------------------------------------------


def linear_cka(x, y):
    """Linear CKA (Kornblith et al. 2019, Sec. 3): ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F).

    The columns are centered first. x: (N, P) and y: (N, Q), float32: features of the same N
    examples, row by row. Returns one number in [0, 1], a float or a tensor ().
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


def _cka_by_trace(x, y):
    h = torch.eye(len(x), dtype=torch.float64) - 1 / len(x)
    x = x.double()
    y = y.double()
    k = x @ x.T @ h
    m = y @ y.T @ h
    return torch.trace(k @ m) / (torch.trace(k @ k) * torch.trace(m @ m)) ** 0.5


def _cka_as_a_cosine(x, y):
    x = (x - x.mean(0)).double()
    y = (y - y.mean(0)).double()
    return torch.cosine_similarity((x @ x.T).flatten(), (y @ y.T).flatten(), dim=0)


def _cka_by_covariance(x, y):
    covariance = torch.cov(torch.cat([x, y], 1).T.double())
    p = x.shape[1]
    between = covariance[:p, p:].pow(2).sum()
    within = covariance[:p, :p].pow(2).sum() * covariance[p:, p:].pow(2).sum()
    return (between / within.sqrt()).item()


def _cka_by_directions(x, y):
    """The formula with eigenvalues and eigenvectors of the Gram matrices."""
    u, s, _ = torch.linalg.svd(x.double() - x.double().mean(0), full_matrices=False)
    v, r, _ = torch.linalg.svd(y.double() - y.double().mean(0), full_matrices=False)
    shared = (u.T @ v).square() * torch.outer(s.square(), r.square())
    return shared.sum() / (s.pow(4).sum() * r.pow(4).sum()).sqrt()


def _cka_by_loops(x, y):
    x = (x - x.mean(0)).T.tolist()
    y = (y - y.mean(0)).T.tolist()

    def overlap(a, b):
        total = 0.0
        for column in a:
            for other in b:
                total += sum(i * j for i, j in zip(column, other, strict=True)) ** 2
        return total

    return overlap(x, y) / (overlap(x, x) * overlap(y, y)) ** 0.5


def _cka_in_place_on_copies(x, y):
    x = x.clone().sub_(x.mean(0))
    y = y.clone().sub_(y.mean(0))
    x /= x.norm()
    y /= y.norm()
    return torch.linalg.norm(x.T @ y) ** 2 / torch.linalg.norm(x.T @ x) / torch.linalg.norm(y.T @ y)


def _overlap(x, y):
    """||X^T Y||_F^2."""
    return (x.T @ y).square().sum()


def _ratio(x, y):
    """CKA of features that are taken as centered."""
    return _overlap(x, y) / (_overlap(x, x) * _overlap(y, y)).sqrt()


def _cka_not_centered(x, y):
    """The features are not centered, so their means count as something that they share."""
    return _ratio(x, y)


def _cka_rows_centered(x, y):
    """Each example is centered over its features, not each feature over the examples."""
    return _ratio(x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True))


def _cka_no_root(x, y):
    """The norms below the line are squared, like the one above it."""
    x = x - x.mean(0)
    y = y - y.mean(0)
    return _overlap(x, y) / (_overlap(x, x) * _overlap(y, y))


def _cka_norm_not_squared(x, y):
    """The norm above the line is not squared."""
    x = x - x.mean(0)
    y = y - y.mean(0)
    return _ratio(x, y).sqrt()


def _cka_norms_of_features(x, y):
    """Below the line stand the squared norms of X and Y, not the norms of X^T X and Y^T Y."""
    x = x - x.mean(0)
    y = y - y.mean(0)
    return _overlap(x, y) / (x.square().sum() * y.square().sum())


def _cka_trace(x, y):
    """Only feature i of x is compared with feature i of y, the diagonal of Y^T X."""
    x = x - x.mean(0)
    y = y - y.mean(0)
    trace = (y.T @ x).diagonal().sum()
    return trace.square() / (_overlap(x, x) * _overlap(y, y)).sqrt()


def _cka_one_minus(x, y):
    """One minus CKA, a distance in place of a similarity."""
    return 1 - linear_cka(x, y)


def _cka_spectral(x, y):
    """The largest singular value in place of the Frobenius norm."""
    x = x - x.mean(0)
    y = y - y.mean(0)
    norm_xy = torch.linalg.matrix_norm(y.T @ x, 2)
    norm_xx = torch.linalg.matrix_norm(x.T @ x, 2)
    norm_yy = torch.linalg.matrix_norm(y.T @ y, 2)
    return norm_xy**2 / (norm_xx * norm_yy)


def _cka_one_mean_for_all(x, y):
    """One mean of all numbers is subtracted in place of the mean of each column."""
    return _ratio(x - x.mean(), y - y.mean())


def _cka_standardized(x, y):
    """Each column is also divided by its standard deviation."""
    x = x - x.mean(0)
    y = y - y.mean(0)
    return _ratio(x / x.std(0), y / y.std(0))


def _cka_of_unit_rows(x, y):
    """Each example is scaled to length 1 after the centering."""
    x = x - x.mean(0)
    y = y - y.mean(0)
    return _ratio(x / x.norm(dim=1, keepdim=True), y / y.norm(dim=1, keepdim=True))


def _cka_squared(x, y):
    """The square of CKA."""
    return linear_cka(x, y) ** 2


def _cka_without_the_diagonal(x, y):
    """Each example's similarity with itself is left out, which is no longer this formula."""
    k = _center_by_h(x @ x.T).fill_diagonal_(0)
    m = _center_by_h(y @ y.T).fill_diagonal_(0)
    return (k * m).sum() / (k.norm() * m.norm())


def _cka_by_the_mean(x, y):
    """The mean of the squared covariances stands above the line in place of their sum."""
    x = x - x.mean(0)
    y = y - y.mean(0)
    return (y.T @ x).square().mean() / ((x.T @ x).norm() * (y.T @ y).norm())


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
        "one mean for all": _cka_one_mean_for_all,
        "columns standardized": _cka_standardized,
        "rows of length 1": _cka_of_unit_rows,
        "squared": _cka_squared,
        "without the diagonal": _cka_without_the_diagonal,
        "mean in place of sum": _cka_by_the_mean,
    },
    alternatives=(
        _cka_by_gram,
        _cka_by_numpy,
        _cka_by_trace,
        _cka_as_a_cosine,
        _cka_by_covariance,
        _cka_by_directions,
        _cka_by_loops,
        _cka_in_place_on_copies,
    ),
)


# --- fools_cka --------------------------------------------------------------------------------


def fools_cka(x):
    """A matrix M (P, P) that keeps all of x, and makes CKA say that x and x @ M differ.

    x: (N, P) float32 features, N > P. Returns M, (P, P), floating point. It has an inverse, with a
    condition number (largest over smallest singular value) of 10,000 or less, so that what a
    linear probe w reads from x, the probe M^-1 w reads from x @ M. Linear CKA of x and x @ M is
    below 0.1.
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


def _fools_by_shrinking_the_rest(x):
    """All directions but the quietest become a thousand times smaller."""
    return _stretch(x, -1, 1_000.0) / 1_000.0


def _fools_by_a_negative_factor(x):
    return _stretch(x, -1, -3_000.0).double()


def _fools_and_rotates(x):
    p = x.shape[1]
    rotation = torch.linalg.qr(torch.randn(p, p, generator=torch.Generator().manual_seed(p)))[0]
    return (_stretch(x, -1, 800.0) @ rotation).numpy()


def _fools_by_lists(x):
    return _stretch(x, -1, 1_500.0).tolist()


def _fools_by_trying(x):
    """Stretch one principal direction after the other, and keep the one with the lowest CKA."""
    candidates = [_stretch(x, which, 900.0) for which in range(x.shape[1])]
    scores = [linear_cka(x, x @ m).item() for m in candidates]
    return candidates[scores.index(min(scores))]


def _identity(x):
    """Nothing changes, so CKA is 1."""
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
    """A random matrix mixes the directions, but stretches the quiet ones too little."""
    p = x.shape[1]
    return torch.randn(p, p, generator=torch.Generator().manual_seed(len(x)))


def _first_column_stretched(x):
    """The first column is stretched, which is not the direction that varies least."""
    return torch.diag(torch.tensor([1000.0] + [1.0] * (x.shape[1] - 1)))


def _last_column_stretched(x):
    """The last column is stretched, which need not be the direction that varies least."""
    return torch.diag(torch.tensor([1.0] * (x.shape[1] - 1) + [1000.0]))


def _loudest_stretched(x):
    """The direction that varies most is stretched, and CKA sees it best already."""
    return _stretch(x, 0, 1_000.0)


def _everything_else_erased(x):
    """Only the quiet direction is left, so the matrix has no inverse."""
    return _stretch(x, -1, 1_000.0) - _stretch(x, -1, 0.0)


def _stretched_too_far(x):
    """The stretch of a million is too large for a condition number of 10,000."""
    return _stretch(x, -1, 1e6)


def _quiet_shrunk(x):
    """The direction that varies least is made even smaller."""
    return _stretch(x, -1, 1e-3)


def _quiet_doubled(x):
    """The direction that varies least is stretched, but only twofold."""
    return _stretch(x, -1, 2.0)


def _columns_reversed(x):
    """The columns change places, which is a rotation that CKA does not see."""
    return torch.eye(x.shape[1]).flip(0)


def _not_centered_directions(x):
    """The directions are those of x before centering, so that the mean decides."""
    _, _, v = torch.linalg.svd(x, full_matrices=False)
    return torch.eye(x.shape[1]) + 999 * torch.outer(v[-1], v[-1])


def _loudest_erased(x):
    """The direction that varies most is set to 0, so the matrix has no inverse."""
    return _stretch(x, 0, 0.0)


def _loudest_shrunk(x):
    """The direction that varies most is made half as large, which is too little."""
    return _stretch(x, 0, 0.5)


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
        "the quiet direction doubled": _quiet_doubled,
        "columns in another order": _columns_reversed,
        "directions before centering": _not_centered_directions,
        "the loudest direction erased": _loudest_erased,
        "the loudest direction halved": _loudest_shrunk,
    },
    alternatives=(
        _fools_by_covariance,
        _fools_by_reversing,
        _fools_by_500,
        _fools_by_shrinking_the_rest,
        _fools_by_a_negative_factor,
        _fools_and_rotates,
        _fools_by_lists,
        _fools_by_trying,
    ),
)

EXERCISES = [CENTER, CKA, FOOLS]
