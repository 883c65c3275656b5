r"""Frozen features in, accuracy out: what can be read from a representation?

Dimensions: N examples to fit on, M to test on, d features, C classes.

Every function raises ValueError for a wrong shape, too few rows, NaN or infinity, and TypeError
for anything but floating-point features and integer labels.
"""

import itertools
import warnings

import torch
import torch.nn.functional as F
from torch import nn

from replearn import _check, _device
from replearn.losses import unit_rows

FLOAT64_LIMIT = 2**18  # features (N d) up to which a LinearProbe is fitted in float64
COSINES_AT_ONCE = 2**24  # 64 MB of float32 for one chunk of queries
CURVATURE = (
    0.1  # of the cross-entropy, relative to that at W = 0: a guess for classes that separate
)
LOSS_SCALE = 1e4  # what SciPy sees is the loss times this


# --- features -------------------------------------------------------------------------------------


@torch.no_grad()
def extract_features(
    encoder: nn.Module, images: torch.Tensor, *, batch_size: int = 512
) -> torch.Tensor:
    """Return the representation of images by an encoder in eval mode, and leave it as it was.

    Weights, buffers and the train or eval flag of every module are the same afterwards.

    Args:
        encoder: Maps images (n, 3, H, W) to features (n, d).
        images: (N, 3, H, W), uint8 (divided by 255 here) or floats from 0 to 1; what an encoder
            subtracts or divides is a layer of its own. Vectors (N, n) of any range pass as well.
            They may be on another device than the encoder.
        batch_size: Images that are encoded at once.

    Returns:
        Features (N, d), float32, on the encoder's device, without gradient.

    Raises:
        ValueError: The images or the features have a wrong shape, or hold NaN or infinity, or
            floating-point images hold values outside 0 to 1.
        TypeError: The images are not a tensor of bytes or floating-point numbers.

    Warns:
        UserWarning: All values are below 1/128, as after two divisions by 255.

    Example:
        >>> images = torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)
        >>> features = extract_features(nn.Flatten(), images)
        >>> features.shape, features.max().item()
        (torch.Size([2, 48]), 1.0)
    """
    is_bytes = getattr(images, "dtype", None) == torch.uint8
    is_vectors = getattr(images, "ndim", None) == 2
    # Bytes are always finite: one image tells all that is to be checked, without a float copy.
    checked = images[:1].float() if is_bytes else images
    _check.finite("images", checked, ndim=2 if is_vectors else 4)
    if not is_vectors:
        _check_images(images)

    reference = _reference(encoder, images)
    scale = 255 if is_bytes else 1
    training_flags = [(module, module.training) for module in encoder.modules()]
    # In train mode BatchNorm would mix the batch into every feature, and move its statistics.
    encoder.eval()
    try:
        batches = [
            encoder(batch.to(reference) / scale).float() for batch in images.split(batch_size)
        ]
        features = torch.cat(batches)
    finally:
        # One by one: `encoder.train()` would also wake the parts that were frozen on purpose.
        for module, training in training_flags:
            module.training = training
    _check.finite("features", features)
    if len(features) != len(images):
        raise ValueError(
            f"encoder: expected {len(images)} rows, one a picture, "
            f"found features {tuple(features.shape)}"
        )
    return features


def _check_images(images: torch.Tensor) -> None:
    """Raise unless channels come second, and floating-point images have values from 0 to 1."""
    shape = tuple(images.shape)
    if shape[1] not in (1, 3) and shape[3] in (1, 3):
        raise ValueError(
            f"images: expected channels second, (N, 3, H, W), found {shape}, channels last; "
            "images.permute(0, 3, 1, 2) moves them"
        )
    if not images.is_floating_point() or images.numel() == 0:
        return
    lowest, highest = (value.item() for value in images.aminmax())
    margin = 1e-3  # a resized image may be a little above 1
    if lowest < -margin or highest > 1 + margin:
        raise ValueError(
            f"images: expected floating-point values from 0 to 1, or bytes from 0 to 255, found "
            f"{lowest:.3g} to {highest:.3g}; divide by 255, and leave out other normalization"
        )
    if 0 < highest < 1 / 128:
        warnings.warn(
            f"images: all values are below 1/128 (the largest is {highest:.2g}): were they divided "
            "by 255 twice?",
            stacklevel=4,
        )


def _reference(encoder: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return a tensor of the dtype and on the device that an encoder works in."""
    for tensor in itertools.chain(encoder.parameters(), encoder.buffers()):
        return tensor
    return torch.empty(0, device=images.device)  # an encoder of no weights: float32


def _accuracy(predicted: torch.Tensor, y: torch.Tensor) -> float:
    """Return the fraction of predicted labels that are right."""
    # Counted: a device need not know float64, and float32 would round the fraction.
    return (predicted == y).sum().item() / len(y)


def standardization(
    z: torch.Tensor, *, unit_variance: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Return the mean and the scale that standardize features: :math:`(z - mean) \cdot scale`.

    .. math:: scale_j = 1 / \sqrt{\tfrac{1}{N} \sum_i (z_{ij} - mean_j)^2}

    A feature that is constant up to rounding (a dead unit) gets scale 1, so that it stays constant
    instead of becoming amplified noise.

    Args:
        z: Features (N, d) of the training set. The arithmetic is in their dtype.
        unit_variance: If False, every scale is 1, and only the mean is taken away.

    Returns:
        The mean (d,) and the scale (d,), each in the dtype and on the device of z.

    Raises:
        ValueError: z is not a matrix of finite numbers, or they are so large that their
            mean or spread is not.
        TypeError: z is not a floating-point tensor.

    Example:
        >>> mean, scale = standardization(torch.tensor([[0.0, 7.0], [4.0, 7.0]]))
        >>> mean.tolist(), scale.tolist()
        ([2.0, 7.0], [0.5, 1.0])
    """
    _check.finite("z", z)
    mean = _check.finite("mean of the features", z.mean(0), ndim=1)
    std = _check.finite("spread of the features", z.std(0, correction=0), ndim=1)
    if not unit_variance:
        return mean, torch.ones_like(std)
    varies = std > 1e-6 * mean.abs()
    return mean, torch.where(varies, 1 / std, 1.0)


# --- linear probe ---------------------------------------------------------------------------------


class LinearProbe:
    r"""Softmax regression on frozen features, fitted to convergence.

    It minimizes, over the weights W (C, d) and the bias b (C,),

    .. math:: -\frac{1}{N} \sum_i \log softmax(W z_i + b)_{y_i} + \frac{l2}{2} \|W\|^2

    which is the objective of scikit-learn's `LogisticRegression(C=1 / (N * l2))`. The bias is not
    penalized. With two classes both keep a row of W here, where scikit-learn fits one row for
    their difference: that is `C=2 / (N * l2)`.

    Args:
        l2: The weight of the penalty, above 0. Without it separable classes have no optimum.
        max_iter: Steps of L-BFGS after which the fit is given up with a warning.
        standardize: Scale each feature to unit variance first, so that l2 means the same for
            features of any scale.

    Attributes:
        coef_: Weights W (C, d), float64. They take features as they were given, not standardized.
        intercept_: Bias b (C,), float64.
        classes_: The labels (C,) of the training set, in rising order.

    References:
        Alain & Bengio 2016, "Understanding intermediate layers using linear classifier probes".

    Example:
        >>> z = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]])
        >>> fitted = LinearProbe().fit(z, torch.tensor([3, 3, 8, 8]))
        >>> fitted.classes_.tolist(), fitted.predict(torch.tensor([[5.0]])).tolist()
        ([3, 8], [8])
    """

    def __init__(self, *, l2: float = 1e-3, max_iter: int = 500, standardize: bool = True):
        self.l2 = l2
        self.max_iter = max_iter
        self.standardize = standardize

    def fit(self, z: torch.Tensor, y: torch.Tensor) -> "LinearProbe":
        """Fit to features and labels.

        Args:
            z: Features (N, d), N >= 2.
            y: Labels (N,), integers, two classes or more.

        Returns:
            The probe itself.

        Raises:
            ValueError: The shapes do not fit together, there is NaN or infinity, a single class,
                or l2 is not above 0.
            TypeError: z is not a floating-point tensor, or y not one of integers.
        """
        _check.finite("z", z, min_rows=2)
        _check.labels("y", y, len(z))
        _check_l2(self.l2)
        z = _device.double(z)
        mean, scale = standardization(z, unit_variance=self.standardize)
        self.classes_, target = y.to(z.device).unique(return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y: expected two or more classes, found only {self.classes_.tolist()}"
            )

        x = (z - mean) * scale
        if x.numel() > FLOAT64_LIMIT:
            x = x.float()  # an evaluation takes half the time
        # Examples become columns: the softmax over the classes is quickest along rows.
        x = x.T.contiguous()  # (d, N)
        onehot = F.one_hot(target).to(x).T.contiguous()  # (C, N)
        w, b = _softmax_regression(x, onehot, self.l2, self.max_iter)

        # W ((z - mean) * scale) + b = (W * scale) z + (b - (W * scale) mean)
        self.coef_ = w * scale
        self.intercept_ = b.flatten() - self.coef_ @ mean
        return self

    def predict_proba(self, z: torch.Tensor) -> torch.Tensor:
        """Return class probabilities.

        Args:
            z: Features (M, d).

        Returns:
            Probabilities (M, C), float64, columns in the order of `classes_`.

        Raises:
            ValueError: z has another number of features than the probe was fitted to.
            TypeError: z is not a floating-point tensor.
        """
        z = _device.double(_check.finite("z", z))
        _check.same_shape("z[0]", z[0], "coef_[0]", self.coef_[0])
        return (z @ self.coef_.T + self.intercept_).softmax(1)

    def predict(self, z: torch.Tensor) -> torch.Tensor:
        """Return the most probable label of each example.

        Args:
            z: Features (M, d).

        Returns:
            Labels (M,), values of `classes_`.

        Raises:
            ValueError: z has another number of features than the probe was fitted to.
            TypeError: z is not a floating-point tensor.
        """
        return self.classes_[self.predict_proba(z).argmax(1)]

    def score(self, z: torch.Tensor, y: torch.Tensor) -> float:
        """Return the accuracy; a label that was never seen in training counts as wrong.

        Args:
            z: Features (M, d).
            y: Labels (M,), integers.

        Returns:
            A fraction in [0, 1].

        Raises:
            ValueError: The shapes do not fit together.
            TypeError: z is not a floating-point tensor, or y not one of integers.
        """
        predicted = self.predict(z)
        return _accuracy(predicted, _check.labels("y", y, len(z)).to(self.coef_.device))


def linear_probe(
    z_train: torch.Tensor,
    y_train: torch.Tensor,
    z_test: torch.Tensor,
    y_test: torch.Tensor,
    *,
    l2: float = 1e-3,
) -> float:
    """Return the test accuracy of a `LinearProbe`: how well classes separate by hyperplanes.

    Args:
        z_train: Features (N, d) to fit on.
        y_train: Labels (N,), integers, two classes or more.
        z_test: Features (M, d) to test on.
        y_test: Labels (M,); one that was never seen in training counts as wrong.
        l2: The weight of the penalty on standardized features, above 0.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: The shapes do not fit together, there is NaN or infinity, a single class, or
            l2 is not above 0.
        TypeError: Features are not floating-point tensors, or labels not integers.

    References:
        Alain & Bengio 2016, "Understanding intermediate layers using linear classifier probes".

    Example:
        >>> z = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]])
        >>> linear_probe(z, torch.tensor([0, 0, 1, 1]), z[1:3], torch.tensor([0, 0]))
        0.5
    """
    return LinearProbe(l2=l2).fit(z_train, y_train).score(z_test, y_test)


def _check_l2(l2: float) -> None:
    if not l2 > 0:  # NaN fails every comparison
        raise ValueError(
            f"l2: expected > 0 (without it separable classes have no optimum), found {l2}"
        )


def _softmax_regression(
    x: torch.Tensor, onehot: torch.Tensor, l2: float, max_iter: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Minimize mean cross-entropy + l2/2 ||W||^2 by L-BFGS; return W (C, d) and b (C, 1), float64.

    x: (d, N), standardized features; onehot: (C, N), the targets. Examples are columns in both.

    L-BFGS works best where the loss curves the same in all directions. In the features' own
    coordinates it does not, and 20 to 1,000 steps are needed. So the search is over V (C, r) and
    a (C, 1) with W = V B and b = s a. The basis B and the scale s are chosen such that the loss
    as a function of V and a curves about the same everywhere; then 20 to 150 steps are enough.
    """
    # SciPy's L-BFGS needs fewer evaluations than torch.optim.LBFGS, and less time between them.
    from scipy.optimize import minimize
    from threadpoolctl import threadpool_limits

    n_classes, n = onehot.shape
    basis = _even_basis(x, n_classes, l2)  # B: (r, d)
    bias_scale = (n_classes / CURVATURE) ** 0.5  # s: along a bias the loss curves as CURVATURE / C

    def weights_and_bias(searched):
        searched = torch.from_numpy(searched).to(x).view(n_classes, -1)  # (C, r + 1): V and a
        return searched[:, :-1] @ basis, searched[:, -1:] * bias_scale

    def loss_and_gradient(searched):
        w, b = weights_and_bias(searched)
        log_p = torch.addmm(b, w, x).log_softmax(0)  # (C, N)
        penalty = l2 / 2 * w.double().square().sum()
        loss = penalty - (log_p * onehot).double().sum() / n
        error = (log_p.exp() - onehot) / n  # the gradient by the logits
        gradient_v = (error @ x.T + l2 * w) @ basis.T  # by the chain rule, as W = V B
        gradient_a = error.sum(1, keepdim=True) * bias_scale
        gradient = torch.cat([gradient_v, gradient_a], 1).double().flatten().cpu().numpy()
        return LOSS_SCALE * loss.item(), LOSS_SCALE * gradient

    options = {
        "maxiter": max_iter,
        # Stop when a step lowers the loss by less than this share. For a loss below 1 SciPy takes
        # the share of 1 instead of the loss, and LOSS_SCALE lifts it above 1.
        "ftol": 1e-12 if x.dtype == torch.float64 else 1e-6,
        "gtol": 0,
    }
    start = [0.0] * (n_classes * (len(basis) + 1))
    # One thread, or SciPy's threads and torch's wait for each other: 40 times slower.
    with threadpool_limits(1, user_api="blas"):
        result = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options=options)
    if result.nit >= max_iter:
        warnings.warn(f"LinearProbe: not converged after max_iter = {max_iter} steps", stacklevel=3)
    w, b = weights_and_bias(result.x)
    return w.double(), b.double()


def _even_basis(x: torch.Tensor, n_classes: int, l2: float) -> torch.Tensor:
    r"""Return a basis B (r, d) such that the loss curves about evenly in V, where W = V B.

    At W = 0 all classes have probability 1 / C, and along a row of W the loss curves as
    x x^T / (N C) + l2 I (the coupling of the classes is left out). As classes separate the first
    part shrinks, by a factor of about CURVATURE. With Q, whose r rows are the directions of the
    search, and Q (curvature) Q^T = L L^T, the basis B = L^-1 Q makes the curvature in V the
    identity: B (curvature) B^T = I.
    """
    d, n = x.shape
    if n < d:
        # The optimal W lies in the span of the examples, so r = N directions are enough.
        directions = torch.linalg.qr(x).Q.T  # (r, d)
    else:
        directions = torch.eye(d).to(x)
    some_examples = x[:, :: max(1, n // (4 * d))]  # 4 d of them are enough
    projected = directions @ some_examples  # (r, n')
    penalty = l2 * torch.eye(len(directions)).to(x)
    curvature = CURVATURE / n_classes * projected @ projected.T / projected.shape[1] + penalty
    lower = torch.linalg.cholesky(curvature)  # L
    return torch.linalg.solve_triangular(lower, directions, upper=False)


# --- ridge regression -----------------------------------------------------------------------------


def linear_regression_r2(
    z_train: torch.Tensor,
    y_train: torch.Tensor,
    z_test: torch.Tensor,
    y_test: torch.Tensor,
    *,
    l2: float = 1e-3,
) -> float:
    r"""Return how well real-valued targets can be read linearly: held-out R^2 of ridge regression.

    It minimizes :math:`\frac{1}{N} \sum_i (y_i - W z_i - b)^2 + l2 \|W\|^2` on standardized
    features of the training set and gives, on the test set,

    .. math:: R^2 = 1 - \frac{\sum_i (y_i - \hat{y}_i)^2}{\sum_i (y_i - \bar{y})^2}

    Args:
        z_train: Features (N, d), N >= 2, to fit on.
        y_train: Targets (N,), floats; or (N, k), for the mean of R^2 over k targets. Give an angle
            as its sine and cosine.
        z_test: Features (M, d), M >= 2, to test on.
        y_test: Targets (M,) or (M, k).
        l2: The weight of the penalty, above 0.

    Returns:
        A number without unit, at most 1. 1 is perfect, 0 is as good as the mean of the test
        targets; on held-out data it can be negative.

    Raises:
        ValueError: The shapes do not fit together, there is NaN or infinity, a test target is
            constant, or l2 is not above 0.
        TypeError: An argument is not a floating-point tensor.

    References:
        Hoerl & Kennard 1970, "Ridge Regression: Biased Estimation for Nonorthogonal Problems".

    Example:
        >>> z = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> round(linear_regression_r2(z, 7 - 2 * z, z, 7 - 2 * z, l2=1e-6), 4)
        1.0
    """
    y_train = _as_column(y_train)
    y_test = _as_column(y_test)
    _check_regression("train", z_train, y_train)
    _check_regression("test", z_test, y_test)
    _check.same_shape("z_train[0]", z_train[0], "z_test[0]", z_test[0])
    _check.same_shape("y_train[0]", y_train[0], "y_test[0]", y_test[0])
    _check_l2(l2)

    z = _device.double(z_train)
    mean, scale = standardization(z)
    x = (z - mean) * scale
    x_test = (_device.double(z_test) - mean) * scale
    y = _device.double(y_train)
    y_test = _device.double(y_test)

    # The mean of y is the bias, as the features have mean 0.
    n, d = x.shape
    gram = x.T @ x / n + l2 * torch.eye(d).to(x)
    w = torch.linalg.solve(gram, x.T @ (y - y.mean(0)) / n)  # (d, k)
    error = y_test - y.mean(0) - x_test @ w

    variance = y_test.var(0, correction=0)
    if not variance.all():
        raise ValueError(
            "y_test: expected targets that vary, found a constant one, for which R^2 is undefined"
        )
    return (1 - error.square().mean(0) / variance).mean().item()


def _as_column(y: torch.Tensor) -> torch.Tensor:
    """Return targets (N,) as (N, 1); anything else as it is, for the checks to judge."""
    if getattr(y, "ndim", None) == 1:
        return y[:, None]
    return y


def _check_regression(part: str, z: torch.Tensor, y: torch.Tensor) -> None:
    """Raise unless z (N, d) and y (N, k) are finite and of the same N examples."""
    _check.finite(f"z_{part}", z, min_rows=2)
    _check.finite(f"y_{part}", y)
    _check.same_shape(f"z_{part}[:, 0]", z[:, 0], f"y_{part}[:, 0]", y[:, 0])


# --- nearest neighbors ----------------------------------------------------------------------------


def knn_vote(
    cosine: torch.Tensor, labels: torch.Tensor, *, k: int = 20, temperature: float = 0.1
) -> torch.Tensor:
    r"""Return the label that the k nearest neighbors of each query vote for.

    A neighbor with cosine s has the weight

    .. math:: \exp(s / temperature)

    and the label with the largest sum of weights wins. `knn_predict` takes features instead of
    cosines.

    Args:
        cosine: (M, N), the cosine of each query to each labeled example. An entry below -1 keeps
            an example from being asked, as long as k others are left.
        labels: (N,) integers.
        k: Neighbors that vote, 1 to N.
        temperature: Above 0. The lower, the more the nearest ones count.

    Returns:
        Labels (M,), each one of `labels`.

    Raises:
        ValueError: The shapes do not fit together, there is NaN or infinity, or k or the
            temperature is out of range.
        TypeError: The cosines are not floating-point numbers, or the labels not integers.

    References:
        Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance
        Discrimination", Section 3.4.

    Example:
        >>> cosine = torch.tensor([[0.9, 0.5, 0.5, -0.1]])
        >>> knn_vote(cosine, torch.tensor([4, 7, 7, 7]), k=3, temperature=0.1).item()
        4
        >>> knn_vote(cosine, torch.tensor([4, 7, 7, 7]), k=3, temperature=10.0).item()
        7
    """
    _check.finite("cosine", cosine)
    _check.labels("labels", labels, cosine.shape[1])
    _check_vote(k, temperature, cosine.shape[1])
    classes, target = labels.to(cosine.device).unique(return_inverse=True)
    return classes[_vote(cosine, target, len(classes), k, temperature)]


def _vote(
    cosine: torch.Tensor, target: torch.Tensor, n_classes: int, k: int, temperature: float
) -> torch.Tensor:
    """Return the index (M,) of the class that wins; target: (N,), the class of each example."""
    cosine, nearest = cosine.topk(k)  # (M, k)
    # Relative to the nearest one, a weight is at most 1 and cannot overflow.
    weight = ((cosine - cosine[:, :1]) / temperature).exp()
    votes = weight[:, :, None] * F.one_hot(target[nearest], n_classes)  # (M, k, C)
    return votes.sum(1).argmax(1)


def _check_vote(k: int, temperature: float, n: int) -> None:
    if not isinstance(k, int) or isinstance(k, bool):
        raise TypeError(f"k: expected a whole number, found {k!r}")
    if not 1 <= k <= n or not temperature > 0:
        raise ValueError(
            f"expected 1 <= k <= N = {n} and temperature > 0, found k = {k}, {temperature}"
        )


def _unit_rows(z: torch.Tensor) -> torch.Tensor:
    """Return rows of length 1 in float32, whatever their scale and precision."""
    if z.dtype != torch.float64:
        z = z.float()
    return unit_rows(z).float()


def knn_predict(
    z_train: torch.Tensor,
    y_train: torch.Tensor,
    z_test: torch.Tensor,
    *,
    k: int = 20,
    temperature: float = 0.1,
) -> torch.Tensor:
    """Return the label that the k nearest training features vote for.

    Nearest is by cosine, and a neighbor's vote counts exp(cosine / temperature). A zero vector
    has cosine 0 to all others.

    Args:
        z_train: Features (N, d) with labels.
        y_train: Labels (N,), integers.
        z_test: Features (M, d) to label.
        k: Neighbors that vote, 1 to N.
        temperature: Above 0. The lower, the more the nearest ones count.

    Returns:
        Labels (M,), each one of `y_train`, on the device of z_train.

    Raises:
        ValueError: The shapes do not fit together, there is NaN or infinity, or k or the
            temperature is out of range.
        TypeError: Features are not floating-point tensors, or labels not integers.

    References:
        Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance
        Discrimination", Section 3.4.

    Example:
        >>> z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        >>> knn_predict(z, torch.tensor([5, 6, 7]), torch.tensor([[9.0, 1.0]]), k=1).item()
        5
    """
    _check.finite("z_train", z_train)
    _check.labels("y_train", y_train, len(z_train))
    _check.finite("z_test", z_test)
    _check.same_shape("z_train[0]", z_train[0], "z_test[0]", z_test[0])
    _check_vote(k, temperature, len(z_train))

    classes, target = y_train.to(z_train.device).unique(return_inverse=True)
    bank = _unit_rows(z_train).T  # (d, N)
    numbers_per_query = max(len(z_train), k * len(classes))  # its cosines, its votes
    queries_at_once = max(1, COSINES_AT_ONCE // numbers_per_query)
    winners = []
    for queries in z_test.split(queries_at_once):
        cosine = _unit_rows(queries) @ bank  # (m, N)
        winners.append(_vote(cosine, target, len(classes), k, temperature))
    return classes[torch.cat(winners)]


def knn_accuracy(
    z_train: torch.Tensor,
    y_train: torch.Tensor,
    z_test: torch.Tensor,
    y_test: torch.Tensor,
    *,
    k: int = 20,
    temperature: float = 0.1,
) -> float:
    """Return the test accuracy of `knn_predict`: are neighbors of the same class?

    Args:
        z_train: Features (N, d) with labels.
        y_train: Labels (N,), integers.
        z_test: Features (M, d) to label.
        y_test: Labels (M,); one that was never seen in training counts as wrong.
        k: Neighbors that vote, 1 to N.
        temperature: Above 0. The lower, the more the nearest ones count.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: The shapes do not fit together, there is NaN or infinity, or k or the
            temperature is out of range.
        TypeError: Features are not floating-point tensors, or labels not integers.

    References:
        Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance
        Discrimination", Section 3.4.

    Example:
        >>> z = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> knn_accuracy(z, torch.tensor([5, 6]), 2 * z, torch.tensor([5, 5]), k=1)
        0.5
    """
    predicted = knn_predict(z_train, y_train, z_test, k=k, temperature=temperature)
    y_test = _check.labels("y_test", y_test, len(predicted))
    return _accuracy(predicted, y_test.to(predicted.device))
