"""Exercises of lesson 03: center a Gram matrix, linear CKA, a transformation that fools CKA."""

import numpy as np
import torch

from replearn.lesson.exercises import Exercise


def center_gram(gram):
    """The Gram matrix H K H of the same examples with their mean subtracted: every row and every column sums to 0.

    gram: (N, N), K_ij = the similarity of examples i and j. H = I - 11^T / N. Returns (N, N); the input is not changed.
    """
    rows, columns = gram.mean(dim=1, keepdim=True), gram.mean(dim=0, keepdim=True)  # (N, 1), (1, N)
    return gram - rows - columns + gram.mean()


def _gram_cases(generator):
    def features(n, d, mean=0.0):
        return torch.randn(n, d, generator=generator) + mean

    x = features(9, 3)
    points = features(7, 2)
    return {
        "a linear Gram matrix": ((z := features(8, 4)) @ z.T,),
        "features that are far from 0": ((z := features(6, 3, 3.0)) @ z.T,),
        "an RBF Gram matrix (ones on the diagonal)": (
            (-torch.cdist(points, points).square()).exp(),
        ),
        "features that are centered already": ((z := x - x.mean(0)) @ z.T,),
        "two examples": ((z := features(2, 5)) @ z.T,),
    }


def _gram_by_h(gram):
    h = torch.eye(len(gram)) - 1 / len(gram)
    return h @ gram @ h


def _gram_twice(gram):
    gram = gram - gram.mean(0)
    return gram - gram.mean(1)[:, None]


def _gram_loop(gram):
    n, k = len(gram), gram.double().numpy()
    return np.array(
        [
            [k[i, j] - k[i].sum() / n - k[:, j].sum() / n + k.sum() / n**2 for j in range(n)]
            for i in range(n)
        ]
    )


CENTER = Exercise(
    solution=center_gram,
    cases=_gram_cases,
    difficulty=1,
    minutes=8,
    hints=(
        "H K subtracts from each column its mean, K H from each row its mean. You need both.",
        "K minus row means minus column means has taken the overall mean away twice: give it back once.",
        "gram.mean(dim=1, keepdim=True) is (N, 1) and gram.mean(dim=0, keepdim=True) is (1, N); both broadcast.",
    ),
    wrong={
        "columns only": lambda k: k - k.mean(0),
        "rows only": lambda k: k - k.mean(1, keepdim=True),
        "overall mean only": lambda k: k - k.mean(),
        "overall mean not given back": lambda k: k - k.mean(0) - k.mean(1, keepdim=True),
        "sums in place of means": lambda k: k - k.sum(0) - k.sum(1, keepdim=True) + k.sum(),
        "divided by N - 1": lambda k: center_gram(k) / (len(k) - 1),
        "diagonal set to 0": lambda k: center_gram(k).fill_diagonal_(0),
        "in place": lambda k: k.copy_(center_gram(k)),
    },
    alternatives=(_gram_by_h, _gram_twice, _gram_loop),
)


def linear_cka(x, y):
    """Linear CKA (Kornblith et al. 2019, Sec. 3): ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F), columns centered first.

    x: (N, P), y: (N, Q): features of the same N examples, row by row. Returns one number in [0, 1].
    """
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    return (y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())


def _cka_cases(generator):
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


def _cka_gram(x, y):
    k, m = (_gram_by_h(v @ v.T) for v in (x - x[0], y - y[0]))
    return (k * m).sum() / ((k * k).sum() * (m * m).sum()).sqrt()


def _cka_numpy(x, y):
    x, y = (v.double().numpy() - v.double().numpy().mean(0) for v in (x, y))
    hsic = lambda a, b: np.sum((a.T @ b) ** 2)
    return float(hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y)))


def _wrong_cka(ratio, center=True):
    def wrong(x, y):
        x, y = (v - v.mean(0) if center else v for v in (x, y))
        return ratio(x, y, lambda a, b: (a.T @ b).square().sum())

    return wrong


CKA = Exercise(
    solution=linear_cka,
    cases=_cka_cases,
    difficulty=1,
    minutes=8,
    tolerance=1e-3,
    hints=(
        "Subtract from every column its mean: x - x.mean(dim=0), and the same for y.",
        "y.T @ x is (Q, P): the inner products of every feature of y with every feature of x. Square, then sum.",
        "(x.T @ x).norm() is the Frobenius norm of a matrix; above the line the norm is squared, below it is not.",
    ),
    wrong={
        "not centered": _wrong_cka(
            lambda x, y, f: f(x, y) / (f(x, x) * f(y, y)).sqrt(), center=False
        ),
        "no root below": _wrong_cka(lambda x, y, f: f(x, y) / (f(x, x) * f(y, y))),
        "norm not squared above": _wrong_cka(
            lambda x, y, f: (f(x, y) / (f(x, x) * f(y, y)).sqrt()).sqrt()
        ),
        "norms of the features below": _wrong_cka(
            lambda x, y, f: f(x, y) / (x.square().sum() * y.square().sum())
        ),
        "trace of y.T @ x": _wrong_cka(
            lambda x, y, f: (y.T @ x).diagonal().sum().square() / (f(x, x) * f(y, y)).sqrt()
        ),
        "each row centered": lambda x, y: _wrong_cka(
            lambda x, y, f: f(x, y) / (f(x, x) * f(y, y)).sqrt(), center=False
        )(*(v - v.mean(1, keepdim=True) for v in (x, y))),
        "one minus": lambda x, y: 1 - linear_cka(x, y),
        "spectral norm": _wrong_cka(
            lambda x, y, f: (
                torch.linalg.matrix_norm(y.T @ x, 2) ** 2
                / (torch.linalg.matrix_norm(x.T @ x, 2) * torch.linalg.matrix_norm(y.T @ y, 2))
            )
        ),
    },
    alternatives=(_cka_gram, _cka_numpy),
)


def fools_cka(x):
    """A matrix M (P, P) that takes nothing away and yet makes CKA say that x and x @ M have little in common.

    x: (N, P) features, N > P. M must have an inverse, with a condition number (largest over smallest singular value)
    of 10,000 or less, so that a linear probe w on x lives on as M^-1 w on x @ M. Linear CKA of x and x @ M: below 0.1.
    """
    _, _, v = torch.linalg.svd(
        x - x.mean(dim=0), full_matrices=False
    )  # rows: directions, most varied first
    quiet = v[-1]  # the direction in which the features vary least
    return torch.eye(x.shape[1]) + 999 * torch.outer(quiet, quiet)


def _fools_cases(generator):
    def features(n, spread, *, mean=0.0, turn=True):
        p = len(spread)
        u = torch.randn(n, p, generator=generator)
        u = torch.linalg.qr(u - u.mean(0))[0] * n**0.5  # exactly uncorrelated, variance 1
        v = torch.linalg.qr(torch.randn(p, p, generator=generator))[0] if turn else torch.eye(p)
        return (
            u * torch.tensor(spread) @ v + mean * v[-1]
        )  # the mean lies in the quietest direction

    return {
        "features whose first column varies most": (
            features(40, [3.0, 1.0, 0.7, 0.3], turn=False),
        ),
        "features whose last column varies most": (features(40, [0.3, 0.5, 1.0, 3.0], turn=False),),
        "eight features": (features(60, [1 / i for i in range(1, 9)]),),
        "two features": (features(30, [1.0, 0.05]),),
        "two features that are far from 0": (features(30, [1.0, 0.05], mean=3.0, turn=False),),
        "features that are far from 0": (features(80, [2.0, 1.0, 0.5, 0.25, 0.1], mean=4.0),),
        "thirty features": (features(100, [1 / i for i in range(1, 31)]),),
    }


def _fools_judge(found, _, x):
    m = torch.as_tensor(found).detach().double()
    p = x.shape[1]
    if m.shape != (p, p) or not m.isfinite().all():
        return (
            f"expected a matrix of shape {(p, p)} with finite numbers, found shape {tuple(m.shape)}"
        )
    s = torch.linalg.svdvals(m)
    if s[0] > 1.001e4 * s[-1]:
        condition = (
            f"condition number {s[0] / s[-1]:.3g}" if s[-1] > 1e-12 * s[0] else "one that has none"
        )
        return f"expected a matrix with an inverse (condition number 10,000 or less), found {condition}"
    value = linear_cka(x.double(), x.double() @ m).item()
    return None if value < 0.1 else f"expected a CKA of x and x @ M below 0.1, found {value:.3f}"


def _fools_by_covariance(x):
    variance, v = torch.linalg.eigh(torch.cov(x.T.double()))  # smallest first
    stretch = torch.ones(len(variance), dtype=torch.float64)
    stretch[0] = 2_000.0
    return (v * stretch) @ v.T


def _fools_by_reversing(x):
    variance, v = np.linalg.eigh(np.cov(x.double().numpy().T))
    return v * np.maximum(
        (variance / variance[0]) ** -1.3, 1e-4
    )  # the quietest direction becomes the loudest


def _stretch(choose, factor=1_000.0):
    def answer(x):
        _, _, v = torch.linalg.svd(x - x.mean(0), full_matrices=False)
        return torch.eye(x.shape[1]) + (factor - 1) * torch.outer(choose(v), choose(v))

    return answer


FOOLS = Exercise(
    solution=fools_cka,
    cases=_fools_cases,
    difficulty=3,
    minutes=15,
    judge=_fools_judge,
    hints=(
        "Rotations and one common factor leave CKA alone. Stretch one direction, and CKA sees little else.",
        "Which direction tells CKA least about x? The one in which the centered x varies least: the last row of the "
        "third result of torch.linalg.svd(x - x.mean(0)).",
        "With that vector v: torch.eye(P) + (s - 1) * torch.outer(v, v) stretches along v by s: try s = 1000.",
    ),
    wrong={
        "the identity": lambda x: torch.eye(x.shape[1]),
        "a rotation": lambda x: torch.linalg.qr(
            torch.sin(torch.arange(x.shape[1] ** 2.0)).view(x.shape[1], -1)
        )[0],
        "a common factor": lambda x: 1000 * torch.eye(x.shape[1]),
        "a random matrix": lambda x: torch.randn(
            x.shape[1], x.shape[1], generator=torch.Generator().manual_seed(len(x))
        ),
        "the first column stretched": lambda x: torch.diag(
            torch.tensor([1000.0] + [1.0] * (x.shape[1] - 1))
        ),
        "the last column stretched": lambda x: torch.diag(
            torch.tensor([1.0] * (x.shape[1] - 1) + [1000.0])
        ),
        "the loudest direction stretched": _stretch(lambda v: v[0]),
        "everything else erased": lambda x: (
            _stretch(lambda v: v[-1])(x) - _stretch(lambda v: v[-1], 0.0)(x)
        ),
        "stretched too far": _stretch(lambda v: v[-1], 1e6),
        "the quiet direction shrunk": _stretch(lambda v: v[-1], 1e-3),
    },
    alternatives=(_fools_by_covariance, _fools_by_reversing, _stretch(lambda v: v[-1], 500.0)),
)

EXERCISES = [CENTER, CKA, FOOLS]
