r"""Metrics: features in, one number out (or a few).

Dimensions: N examples (rows), P, Q or D features (columns), K true factors.

Only `alignment`, `uniformity` and `mi_lower_bound` are differentiable; the others return plain
numbers. Every function raises ValueError for a wrong shape, too few rows, NaN or infinity, and
TypeError for anything but a floating-point tensor. Half-precision features are lifted to float32
or more before any arithmetic.
"""

import math

import torch
import torch.nn.functional as F

from replearn import _check
from replearn._check import pair, positive
from replearn.losses import fill_diagonal, full_precision, info_nce, unit_rows

BLOCK_ROWS = 8192  # rows whose products are summed in float32; the sums of blocks are in float64
LOST_DIGITS = 0.01  # a difference below this part of a float32 number is computed in float64
QUERY_ROWS = 1024  # queries whose distances to all N rows are held at once


# --- shared by several metrics --------------------------------------------------------------------


def _same_rows(
    name_x: str, x: torch.Tensor, name_y: str, y: torch.Tensor, *, min_rows: int = 2
) -> None:
    """Raise unless both are finite matrices about the same N examples; their columns may differ."""
    _check.finite(name_x, x, min_rows=min_rows)
    _check.finite(name_y, y, min_rows=min_rows)
    if len(x) != len(y) or x.dtype != y.dtype:
        raise ValueError(
            f"{name_x} and {name_y}: expected equal numbers of rows and equal dtypes, found "
            f"{tuple(x.shape)} {x.dtype} and {tuple(y.shape)} {y.dtype}"
        )


def _centered(x: torch.Tensor) -> torch.Tensor:
    """Return a copy whose columns have mean 0.

    The first row is subtracted before the mean is: a constant column becomes exactly 0 that way,
    instead of rounding noise.
    """
    x = x.detach()
    differences = x - x[0]
    return differences.sub_(differences.mean(0))


def _log_mean_exp_off_diagonal(matrix: torch.Tensor) -> torch.Tensor:
    """Return log mean_{i != j} exp(matrix_ij) of a square matrix (N, N)."""
    n = len(matrix)
    without_diagonal = fill_diagonal(matrix, -math.inf)
    return without_diagonal.flatten().logsumexp(0) - math.log(n * (n - 1))


# --- do two representations agree? ----------------------------------------------------------------


@full_precision
def linear_cka(x: torch.Tensor, y: torch.Tensor, *, debiased: bool = False) -> float:
    r"""Return how alike two representations of the same examples are (centered kernel alignment).

    With the columns of X and Y centered,

    .. math:: CKA = \frac{\|Y^T X\|_F^2}{\|X^T X\|_F \, \|Y^T Y\|_F}

    CKA does not change if one side is rotated, mirrored, shifted or scaled as a whole; it does
    change under other invertible linear maps. With few examples it is biased upward: features of
    pure noise agree clearly unless N is much larger than P and Q. `debiased=True` replaces the
    three squared norms, which estimate the Hilbert-Schmidt independence criterion (HSIC), by
    unbiased estimates of it. The ratio of unbiased estimates is less biased, not unbiased.

    Args:
        x: Features (N, P), N >= 2, or N >= 4 if debiased.
        y: Features (N, Q) of the same examples in the same order, of the same dtype as x.
        debiased: Use the unbiased estimates of HSIC.

    Returns:
        A number without unit in [0, 1]; 1 means equal up to rotation and scale. The debiased one
        can be negative. If one side is constant, the result is 0.0.

    Raises:
        ValueError: The shapes or dtypes do not fit together, or there is NaN or infinity.
        TypeError: An argument is not a floating-point tensor.

    References:
        Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited", Section 3.
        Song et al. 2012, "Feature Selection via Dependence Maximization" (unbiased HSIC).
        Nguyen et al. 2021, "Do Wide and Deep Networks Learn the Same Things?" (debiased CKA).

    Example:
        >>> x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
        >>> mirrored = x.flip(1)
        >>> round(linear_cka(x, 5 * mirrored + 1), 4)
        1.0
    """
    _same_rows("x", x, "y", y, min_rows=4 if debiased else 2)
    centered_x = _centered_to_unit_range(x)
    centered_y = _centered_to_unit_range(y)
    hsic_xx, biased_xx = _hsic(centered_x, centered_x, debiased)
    hsic_yy, biased_yy = _hsic(centered_y, centered_y, debiased)
    hsic_xy, biased_xy = _hsic(centered_x, centered_y, debiased)
    scale = math.sqrt(max(hsic_xx, 0) * max(hsic_yy, 0))
    # What is left of a much larger number has lost its digits: then float64 is needed.
    has_lost_digits = (
        hsic_xx < LOST_DIGITS * biased_xx
        or hsic_yy < LOST_DIGITS * biased_yy
        or scale < LOST_DIGITS * biased_xy
    )
    if debiased and has_lost_digits and x.dtype != torch.float64:
        return linear_cka(x.cpu().double(), y.cpu().double(), debiased=True)
    if not min(hsic_xx, hsic_yy) > 0:
        return 0.0  # one side is constant, or nothing of it is left after the bias
    return min(hsic_xy / scale, 1.0)


def _centered_to_unit_range(x: torch.Tensor) -> torch.Tensor:
    """Return centered columns, all divided by the largest entry, so that squares cannot overflow.

    CKA does not depend on the scale.
    """
    x = _centered(x)
    largest = max(x.amax(), -x.amin(), 1e-30)
    return x.div_(largest)


def _hsic(x: torch.Tensor, y: torch.Tensor, debiased: bool) -> tuple[float, float]:
    """Return HSIC of centered x and y, up to a factor that cancels in CKA, and its biased estimate.

    Without `debiased` the two are the same.
    """
    biased = _squared_norm_of_product(x, y)
    if not debiased:
        return biased.item(), biased.item()

    # The diagonals of the Gram matrices x x^T and y y^T are what biases the estimate: an example
    # compared with itself. Song et al. leave them out and correct the centering.
    n = len(x)
    diagonal_x = x.square().sum(1).cpu().double()  # (N,)
    diagonal_y = y.square().sum(1).cpu().double()  # (N,)
    rows = n / (n - 2) * (diagonal_x @ diagonal_y)
    everything = diagonal_x.sum() * diagonal_y.sum() / ((n - 1) * (n - 2))
    unbiased = biased - rows + everything
    rounding_noise = 10 * torch.finfo(x.dtype).eps * biased
    if unbiased.abs() <= rounding_noise:
        return 0.0, biased.item()
    return unbiased.item(), biased.item()


def _squared_norm_of_product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return ||x^T y||_F^2 as a float64 number on the CPU; x: (N, P), y: (N, Q)."""
    n, p = x.shape
    q = y.shape[1]
    if n * (p + q) < p * q:
        # Few rows of many features: the inner product of the Gram matrices is the same number,
        # ||x^T y||^2 = trace(x x^T y y^T), and costs less.
        gram_x = x @ x.T  # (N, N)
        gram_y = y @ y.T
        return (gram_x * gram_y).cpu().double().sum()
    product = torch.zeros(p, q, dtype=torch.float64)
    for x_block, y_block in zip(x.split(BLOCK_ROWS), y.split(BLOCK_ROWS), strict=True):
        product += (x_block.T @ y_block).cpu().double()
    return product.square().sum()


def cca_correlations(x: torch.Tensor, y: torch.Tensor, *, ridge: float = 0.0) -> torch.Tensor:
    r"""Return the canonical correlations of two representations of the same examples.

    They are the singular values of

    .. math:: (S_{xx} + r I)^{-1/2} \, S_{xy} \, (S_{yy} + r I)^{-1/2}

    where S are covariance matrices and r is the ridge. Without a ridge they do not change under
    any invertible linear map of either side. If P + Q >= N, the first one is 1.0 even for pure
    noise: a ridge or held-out data is the cure.

    Args:
        x: Features (N, P), N >= 2.
        y: Features (N, Q) of the same examples in the same order, of the same dtype as x.
        ridge: What is added to the variance of each feature, 0 or more, in units of variance.

    Returns:
        (min(P, Q, N - 1),) correlations in [0, 1], the largest first, in the dtype and on the
        device of x. Directions without variation have correlation 0.

    Raises:
        ValueError: The shapes or dtypes do not fit together, there is NaN or infinity, or the
            ridge is negative or not finite.
        TypeError: An argument is not a floating-point tensor.

    References:
        Hotelling 1936, "Relations between two sets of variates".
        Vinod 1976, "Canonical ridge and econometrics of joint production" (the ridge).

    Example:
        >>> x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
        >>> mixed = x @ torch.tensor([[1.0, 2.0], [0.0, 3.0]])
        >>> [round(value, 4) for value in cca_correlations(x, mixed).tolist()]
        [1.0, 1.0]
    """
    _same_rows("x", x, "y", y)
    if not 0 <= ridge < math.inf:
        raise ValueError(f"ridge: expected a finite number, 0 or more, found {ridge}")
    correlations = torch.linalg.svdvals(_whitened(x, ridge).T @ _whitened(y, ridge))
    return correlations[: len(x) - 1].clamp(max=1).to(x)


def _whitened(x: torch.Tensor, ridge: float) -> torch.Tensor:
    """Return the left singular vectors (N, R) of centered x, each shrunk by the ridge.

    Centered x = U S V^T times (S_xx + ridge I)^-1/2 is U S (S^2 + (N - 1) ridge)^-1/2 V^T, up to a
    factor that cancels. The rotation V changes no singular value of the product and is left out.
    """
    centered = _centered(x.cpu().double())
    # Divided by the largest entry, squares neither overflow nor vanish.
    size = centered.abs().max().clamp(min=1e-307)
    u, s, _ = torch.linalg.svd(centered / size, full_matrices=False)
    # Of half precision's own rounding, 1e-3, most directions would fall short: float32's is used.
    rounding = min(torch.finfo(x.dtype).eps, 1e-7)
    constant = s <= s[0] * x.shape[1] * rounding  # directions without variation, so uncorrelated
    scaled_ridge = ridge / size / size * (len(x) - 1)
    shrink = s / (s.square() + scaled_ridge).sqrt()
    return u * shrink.masked_fill(constant, 0)


# --- were the true factors found? -----------------------------------------------------------------


def mcc(z: torch.Tensor, z_true: torch.Tensor, *, method: str = "pearson") -> float:
    r"""Return how well latents recover the true factors (mean correlation coefficient).

    .. math:: MCC = \max_{\pi} \frac{1}{K} \sum_{k=1}^{K} |corr(z_{\pi(k)}, z^{true}_k)|

    where the maximum is over all ways to give each factor a latent of its own. It ignores the
    order, sign and scale of the latents. A rotation of the factors is not counted as recovery.

    Args:
        z: Latents (N, D), N >= 2: posterior means on held-out data.
        z_true: True factors (N, K) of the same examples, of the same dtype as z.
        method: "pearson" for linear, "spearman" for any monotone relation (by ranks).

    Returns:
        A number in [0, 1]; 1 means that every factor was found. A constant latent, and a factor
        for which no latent is left, count 0. Random latents do not give 0: compare with noise of
        the same shape.

    Raises:
        ValueError: The shapes or dtypes do not fit together, there is NaN or infinity, a factor
            is constant, or the method is unknown.
        TypeError: An argument is not a floating-point tensor.

    References:
        Hyvärinen & Morioka 2016, "Unsupervised Feature Extraction by Time-Contrastive Learning".

    Example:
        >>> factors = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0], [3.0, 0.0]])
        >>> round(mcc(-7 * factors.flip(1), factors), 4)  # other order, sign and scale
        1.0
    """
    from scipy import optimize, stats

    _same_rows("z", z, "z_true", z_true)
    if method not in ("pearson", "spearman"):
        raise ValueError(f'method: expected "pearson" or "spearman", found {method!r}')
    if (z_true == z_true[0]).all(0).any():
        raise ValueError(
            "z_true: expected factors that vary, found a constant column; leave it out"
        )
    latents = z.detach().cpu().double()
    factors = z_true.detach().cpu().double()
    if method == "spearman":  # it is Pearson's correlation of the ranks
        latents = torch.from_numpy(stats.rankdata(latents, axis=0))
        factors = torch.from_numpy(stats.rankdata(factors, axis=0))
    correlation = (_unit_columns(latents).T @ _unit_columns(factors)).abs().numpy()  # (D, K)
    assignment = optimize.linear_sum_assignment(correlation, maximize=True)
    return float(correlation[assignment].sum() / factors.shape[1])


def _unit_columns(x: torch.Tensor) -> torch.Tensor:
    """Return centered columns of length 1: their dot products are correlations.

    A constant column becomes 0. Each is divided by its largest entry first, so that its squares
    neither overflow nor vanish.
    """
    x = _centered(x)
    largest = x.abs().amax(0).clamp(min=1e-307)
    return F.normalize(x / largest, dim=0)


# --- how much do two views share? -----------------------------------------------------------------


@full_precision
def mi_lower_bound(scores: torch.Tensor, *, bound: str = "infonce") -> torch.Tensor:
    r"""Return an estimate from below of the mutual information I(x; y) of pairs, from a batch.

    With N pairs and the scores :math:`S_{ij} = critic(x_i, y_j)`,

    .. math::

        infonce &= \log N - \text{info\_nce}(S)

        nwj &= mean_i \, S_{ii} - mean_{i \neq j} \, e^{S_{ij} - 1}

        mine &= mean_i \, S_{ii} - \log mean_{i \neq j} \, e^{S_{ij}}

    A single batch can exceed the truth. The mean over many batches cannot for infonce and nwj; for
    mine it cannot in the limit of large N only. infonce never exceeds log N, so it is too low
    whenever the truth is higher.

    Args:
        scores: (N, N), N >= 2, from any critic; the diagonal holds the true pairs.
        bound: "infonce", "nwj" or "mine".

    Returns:
        A scalar tensor, in nats, with a gradient to the scores.

    Raises:
        ValueError: The scores are not square, hold NaN or infinity, or the bound is unknown or
            overflows (nwj takes the exponential of a score).
        TypeError: The scores are not a floating-point tensor.

    References:
        Poole et al. 2019, "On Variational Bounds of Mutual Information", Section 2.

    Example:
        >>> perfect = 100 * torch.eye(4)
        >>> round(mi_lower_bound(perfect).item(), 4)  # log 4
        1.3863
    """
    loss = info_nce(scores)  # it checks the scores, too
    true_pairs = scores.diagonal().mean()
    log_other_pairs = _log_mean_exp_off_diagonal(scores)
    if bound == "infonce":
        value = math.log(len(scores)) - loss
    elif bound == "nwj":
        value = true_pairs - (log_other_pairs - 1).exp()
    elif bound == "mine":
        value = true_pairs - log_other_pairs
    else:
        raise ValueError(f"bound: expected one of infonce, nwj, mine, found {bound!r}")
    _check.finite("nwj (e^score overflows: normalize the critic)", value[None], ndim=1)
    return value


# --- how do features fill their space? ------------------------------------------------------------


@full_precision
def alignment(z1: torch.Tensor, z2: torch.Tensor, *, alpha: float = 2) -> torch.Tensor:
    r"""Return how far apart the two views of an example are, on the unit sphere.

    .. math:: alignment = mean_i \, \|z_{1,i} - z_{2,i}\|^{\alpha}

    with every row scaled to length 1.

    Args:
        z1: Features (N, D) of the first views.
        z2: Features (N, D) of the second views, row by row of the same examples.
        alpha: The power of the distance, above 0.

    Returns:
        A scalar tensor with a gradient, without unit, in [0, 2^alpha]; 0 is best, and is also the
        value at collapse: read it together with `uniformity`.

    Raises:
        ValueError: The shapes differ, there is NaN or infinity, or alpha is not positive.
        TypeError: The dtypes differ, or an argument is not a floating-point tensor.

    References:
        Wang & Isola 2020, "Understanding Contrastive Representation Learning through Alignment
        and Uniformity on the Hypersphere", Section 4.1.

    Example:
        >>> z = torch.tensor([[3.0, 4.0]])
        >>> alignment(z, 2 * z).item(), round(alignment(z, -z).item(), 4)
        (0.0, 4.0)
    """
    pair("z1", z1, "z2", z2, min_rows=1)
    positive("alpha", alpha)
    difference = unit_rows(z1) - unit_rows(z2)
    return difference.norm(dim=1).pow(alpha).mean()


@full_precision
def uniformity(z: torch.Tensor, *, t: float = 2) -> torch.Tensor:
    r"""Return how unevenly features fill the unit sphere.

    .. math:: uniformity = \log mean_{i \neq j} \, e^{-t \|z_i - z_j\|^2}

    with every row scaled to length 1.

    Args:
        z: Features (N, D), N >= 2.
        t: How fast the influence of a neighbor falls with its squared distance, above 0.

    Returns:
        A scalar tensor with a gradient, without unit, in [-4t, 0]; lower is more even, and 0
        is collapse to a point.

    Raises:
        ValueError: There are too few rows, NaN or infinity, or t is not positive.
        TypeError: z is not a floating-point tensor.

    References:
        Wang & Isola 2020, "Understanding Contrastive Representation Learning through Alignment
        and Uniformity on the Hypersphere", Section 4.1.

    Example:
        >>> opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # squared distance 4
        >>> round(uniformity(opposite).item(), 4)
        -8.0
    """
    positive("t", t)
    _check.finite("z", z, min_rows=2)
    z = unit_rows(z)
    exponent = 2 * t * (z @ z.T - 1)  # on the sphere ||z_i - z_j||^2 = 2 - 2 z_i.z_j
    # A row of zeros is not on the sphere: its squared length is 0 where the line above counts 1.
    missing = (z.detach() == 0).all(1).to(z.dtype)
    exponent = exponent + t * (missing[:, None] + missing)
    return _log_mean_exp_off_diagonal(exponent)


def effective_rank(z: torch.Tensor) -> float:
    r"""Return how many directions features use: the exponential of an entropy.

    .. math:: effective\ rank = \exp\left(-\sum_i p_i \log p_i\right), \quad
        p_i = s_i / \textstyle\sum_j s_j

    where s are the singular values of z.

    Args:
        z: Features (N, D). Pass `z - z.mean(0)` to ignore their mean.

    Returns:
        A number of directions in [1, min(N, D)]; 0.0 if z is all zeros.

    Raises:
        ValueError: z is not a matrix, or holds NaN or infinity.
        TypeError: z is not a floating-point tensor.

    References:
        Roy & Vetterli 2007, "The effective rank: A measure of effective dimensionality".

    Example:
        >>> round(effective_rank(torch.eye(8)), 4)
        8.0
    """
    _check.finite("z", z)
    singular_values = torch.linalg.svdvals(z.detach().cpu().double())
    total = singular_values.sum()
    if total == 0:
        return 0.0
    return torch.special.entr(singular_values / total).sum().exp().item()


def collapse_meter(z: torch.Tensor) -> dict[str, float]:
    r"""Return the vital signs of features, each row scaled to length 1.

    Healthy features have a std near :math:`1 / \sqrt{D}`, as if drawn evenly from the sphere.
    Features that collapsed to a point have std 0, effective rank 1 and mean cosine 1. An
    effective rank far below D says that they fill only a few directions (dimensional collapse).

    Args:
        z: Features (N, D), N >= 2.

    Returns:
        A dict of four numbers without unit: `std`, the standard deviation of a feature over the
        examples (divided by N), mean over the D features; `std_uniform`, :math:`1 / \sqrt{D}`;
        `effective_rank`, see there; `mean_cosine`, over all pairs of different examples.

    Raises:
        ValueError: There are too few rows, NaN or infinity.
        TypeError: z is not a floating-point tensor.

    References:
        Chen & He 2021, "Exploring Simple Siamese Representation Learning", Section 4.1 (the std).

    Example:
        >>> collapsed = torch.ones(10, 4)
        >>> {name: round(value, 4) for name, value in collapse_meter(collapsed).items()}
        {'std': 0.0, 'std_uniform': 0.5, 'effective_rank': 1.0, 'mean_cosine': 1.0}
    """
    _check.finite("z", z, min_rows=2)
    n, d = z.shape
    z = unit_rows(z.detach().cpu().double())
    # The squared length of the sum of all rows holds the cosine of every pair, and those of the
    # rows with themselves.
    all_cosines = z.sum(0).square().sum()
    own_cosines = z.square().sum()
    return {
        "std": z.std(0, correction=0).mean().item(),
        "std_uniform": d**-0.5,
        "effective_rank": effective_rank(z),
        "mean_cosine": (all_cosines - own_cosines).item() / (n * (n - 1)),
    }


# --- are neighbors of one kind? -------------------------------------------------------------------


@full_precision
def precision_at_k(
    features: torch.Tensor, labels: torch.Tensor, *, k: int = 10, metric: str = "euclidean"
) -> float:
    r"""Return which share of the k nearest other examples has the label of the query.

    .. math:: precision@k = \frac{1}{N k} \sum_i \sum_{j \in kNN(i)} [y_j = y_i]

    Every row is a query once, and is not its own neighbor.

    Args:
        features: (N, D), N >= 2.
        labels: (N,) integers.
        k: Neighbors of a query, 1 to N - 1.
        metric: "euclidean" or "cosine".

    Returns:
        A fraction in [0, 1]. For features without information it is about the share of the
        query's class, so 1 / C for C classes of equal size.

    Raises:
        ValueError: The shapes do not fit together, there is NaN or infinity, or k or the metric
            is out of range.
        TypeError: The features are not floating-point numbers, or the labels not integers.

    References:
        Manning et al. 2008, "Introduction to Information Retrieval", Section 8.4.

    Example:
        >>> features = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
        >>> precision_at_k(features, torch.tensor([0, 0, 1, 0]), k=1)
        0.5
    """
    features = _check.finite("features", features, min_rows=2).detach()
    n = len(features)
    labels = _check.labels("labels", labels, n).to(features.device)
    if not 1 <= k < n or metric not in ("euclidean", "cosine"):
        raise ValueError(
            f"expected k in 1 to {n - 1} (a query is not its own neighbor) and metric "
            f"'euclidean' or 'cosine', found k={k!r} and metric={metric!r}"
        )
    if metric == "cosine":
        x = unit_rows(features)
    else:
        x = features - features.mean(0)  # distances of small numbers keep more digits

    hits = 0
    for queries in torch.arange(n, device=x.device).split(QUERY_ROWS):
        if metric == "cosine":
            closeness = x[queries] @ x.T  # (QUERY_ROWS, N)
        else:
            closeness = -torch.cdist(x[queries], x)
        rows = torch.arange(len(queries), device=x.device)
        closeness[rows, queries] = -math.inf  # not its own neighbor
        nearest = closeness.topk(k).indices  # (QUERY_ROWS, k)
        hits += (labels[nearest] == labels[queries, None]).sum().item()
    return hits / (n * k)
