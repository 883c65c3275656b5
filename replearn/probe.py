"""Frozen features -> accuracy. Dimensions: N pictures to fit on, M to test on, d feature size, C classes."""

import warnings

import torch
import torch.nn.functional as F

from replearn import _check


@torch.no_grad()
def extract_features(encoder, images, *, batch_size=512):
    """Return h = encoder(images), (N, d) float32 on the encoder's device, in eval mode; leave the encoder as it was.

    images: (N, 3, H, W), uint8 (scaled to [0, 1] here) or float; vectors (N, n) pass too. Weights, buffers and every
    module's train/eval flag are the same afterwards. Raises: TypeError, ValueError if images or features are not so."""
    byte, axes = (
        getattr(images, "dtype", None) == torch.uint8,
        2 if getattr(images, "ndim", 4) == 2 else 4,
    )
    _check.finite("images", images[:1].float() if byte else images, ndim=axes)
    like = [*encoder.parameters(), *encoder.buffers(), torch.empty(0, device=images.device)][0]
    flags = [(module, module.training) for module in encoder.modules()]
    encoder.eval()  # BatchNorm in train mode would mix the batch into every feature and move its running statistics
    try:
        h = torch.cat(
            [encoder(x.to(like) / (255 if byte else 1)).float() for x in images.split(batch_size)]
        )
    finally:
        for (
            module,
            training,
        ) in flags:  # one by one: .train() would also wake the parts that were frozen on purpose
            module.training = training
    if len(_check.finite("features", h)) != len(images):
        raise ValueError(
            f"encoder: expected {len(images)} rows, one a picture, found features {tuple(h.shape)}"
        )
    return h


class LinearProbe:
    """Softmax regression fitted to convergence: minimize mean cross-entropy + l2/2 ||W||^2, bias not penalized.

    As scikit-learn's LogisticRegression(C=1/(N l2)); two classes keep a row of W each, so C=2/(N l2). standardize: each
    feature to unit variance first, so l2 means the same at any scale. coef_ (C, d), intercept_ (C,) take z as given."""

    def __init__(self, *, l2=1e-3, max_iter=500, standardize=True):
        self.l2, self.max_iter, self.standardize = l2, max_iter, standardize

    def fit(self, z, y):
        """Fit z (N, d) to integer labels y (N,); return self. Raises: ValueError for l2 <= 0 or a single class."""
        y = _check.labels("y", y, len(_check.finite("z", z, min_rows=2)))
        x, mean, scale = _standardize(z, self.l2, self.standardize)
        self.classes_, target = y.to(x.device).unique(return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y: expected two or more classes, found only {self.classes_.tolist()}"
            )
        # Large sets in float32, at half the time an evaluation. Pictures in columns: softmax is quickest along rows.
        x = (x if x.numel() <= 2**18 else x.float()).T.contiguous()  # (d, N)
        w, b = _softmax_regression(
            x, F.one_hot(target).to(x).T.contiguous(), self.l2, self.max_iter
        )
        self.coef_ = w * scale
        self.intercept_ = b.flatten() - self.coef_ @ mean
        return self

    def predict_proba(self, z):
        """Return class probabilities (M, C), columns as in classes_."""
        _check.same_shape("z[0]", _double(_check.finite("z", z))[0], "coef_[0]", self.coef_[0])
        return (_double(z) @ self.coef_.T + self.intercept_).softmax(1)

    def predict(self, z):
        """Return the most probable label (M,) of each row of z (M, d)."""
        return self.classes_[self.predict_proba(z).argmax(1)]

    def score(self, z, y):
        """Return the accuracy (fraction) on z (M, d), y (M,); a label never seen in training counts as wrong."""
        return (
            (self.predict(z) == _check.labels("y", y, len(z)).to(self.coef_.device))
            .double()
            .mean()
            .item()
        )


def linear_probe(z_train, y_train, z_test, y_test, *, l2=1e-3):
    """Return the test accuracy (fraction) of a LinearProbe. Source: Alain & Bengio 2016."""
    return LinearProbe(l2=l2).fit(z_train, y_train).score(z_test, y_test)


def linear_regression_r2(z_train, y_train, z_test, y_test, *, l2=1e-3):
    """Return the held-out R^2 (1 is perfect) of ridge regression: mean (y - Wz - b)^2 + l2 ||W||^2, z standardized.

    y: float (N,), or (N, k) for the mean over k; an angle is its sine and cosine. Raises: ValueError, TypeError."""
    y_train, y_test = (y[:, None] if getattr(y, "ndim", 2) == 1 else y for y in (y_train, y_test))
    for part, z, y in (("train", z_train, y_train), ("test", z_test, y_test)):
        z, y = _check.finite(f"z_{part}", z, min_rows=2), _check.finite(f"y_{part}", y)
        _check.same_shape(f"z_{part}[:, 0]", z[:, 0], f"y_{part}[:, 0]", y[:, 0])
    _check.same_shape("z_train[0]", z_train[0], "z_test[0]", z_test[0])
    _check.same_shape("y_train[0]", y_train[0], "y_test[0]", y_test[0])
    (x, mean, scale), y, y_test = _standardize(z_train, l2, True), _double(y_train), _double(y_test)
    gram = x.T @ x / len(x) + l2 * torch.eye(x.shape[1]).to(x)
    w = torch.linalg.solve(gram, x.T @ (y - y.mean(0)) / len(x))  # (d, k)
    error, spread = (
        y_test - y.mean(0) - (_double(z_test) - mean) * scale @ w,
        y_test.var(0, correction=0),
    )
    if not spread.all():
        raise ValueError(
            "y_test: expected targets that vary, found a constant one, for which R^2 is undefined"
        )
    return (1 - error.square().mean(0) / spread).mean().item()


def knn_predict(z_train, y_train, z_test, *, k=20, temperature=0.1):
    """Return labels (M,) voted by the k training features nearest in cosine, each with weight exp(cosine/temperature).

    1 <= k <= N, temperature > 0; a zero vector has cosine 0 to all. Source: Wu et al. 2018, section 3.4."""
    _check.labels("y_train", y_train, len(_check.finite("z_train", z_train)))
    _check.same_shape("z_train[0]", z_train[0], "z_test[0]", _check.finite("z_test", z_test)[0])
    if not 1 <= k <= len(z_train) or not temperature > 0:
        raise ValueError(
            f"expected 1 <= k <= N = {len(z_train)} and temperature > 0, found k = {k}, {temperature}"
        )
    classes, target = y_train.to(z_train.device).unique(
        return_inverse=True
    )  # the classes of the training labels
    bank, votes = F.normalize(z_train.float()).T, []
    for chunk in z_test.float().split(
        max(1, 2**24 // max(len(z_train), k * len(classes)))
    ):  # 64 MB of cosines a time
        cosine, nearest = (F.normalize(chunk) @ bank).topk(k)  # (m, k)
        weight = (
            (cosine - cosine[:, :1]) / temperature
        ).exp()  # relative to the nearest: cannot overflow
        votes.append(
            (weight[:, :, None] * F.one_hot(target[nearest], len(classes))).sum(1)
        )  # (m, C)
    return classes[torch.cat(votes).argmax(1)]


def knn_accuracy(z_train, y_train, z_test, y_test, *, k=20, temperature=0.1):
    """Return the accuracy (fraction) of knn_predict; a test label never seen in training counts as wrong."""
    predicted = knn_predict(z_train, y_train, z_test, k=k, temperature=temperature)
    return (
        (predicted == _check.labels("y_test", y_test, len(predicted)).to(predicted.device))
        .double()
        .mean()
        .item()
    )


def _double(z):
    return (
        (z.cpu() if z.device.type == "mps" else z).detach().double()
    )  # MPS has no float64: the probes use the CPU


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
        ValueError: The features are so large that their spread is not finite.

    Example:
        >>> mean, scale = standardization(torch.tensor([[0.0, 7.0], [4.0, 7.0]]))
        >>> mean.tolist(), scale.tolist()
        ([2.0, 7.0], [0.5, 1.0])
    """
    mean = z.mean(0)
    std = _check.finite("spread of the features", z.std(0, correction=0), ndim=1)
    if not unit_variance:
        return mean, torch.ones_like(std)
    varies = std > 1e-6 * mean.abs()
    return mean, torch.where(varies, 1 / std, 1.0)


def _standardize(z, l2, unit_variance):
    if not l2 > 0:
        raise ValueError(
            f"l2: expected > 0 (without it separable classes have no optimum), found {l2}"
        )
    x = _double(z)
    mean, scale = standardization(x, unit_variance=unit_variance)
    return (x - mean) * scale, mean, scale


def _softmax_regression(x, onehot, l2, max_iter):
    from scipy.optimize import (
        minimize,  # fewer evaluations and less overhead than torch.optim.LBFGS
    )
    from threadpoolctl import threadpool_limits

    (c, n), d = onehot.shape, len(x)
    # The loss curves as x x^T/(NC) + l2 at W = 0, and less (0.1 is a good guess) as classes separate. In coordinates
    # where that is the identity L-BFGS needs 20 to 150 steps, in the features' own coordinates 20 to 1,000.
    rows = (
        torch.linalg.qr(x).Q.T if n < d else torch.eye(d).to(x)
    )  # (r, d): the optimal W lies in the span of x
    some = rows @ x[:, :: max(1, n // (4 * d))]
    curvature = 0.1 / c * some @ some.T / some.shape[1] + l2 * torch.eye(len(rows)).to(x)
    basis, bias = (
        torch.linalg.solve_triangular(torch.linalg.cholesky(curvature), rows, upper=False),
        (c / 0.1) ** 0.5,
    )

    def parts(v):
        v = torch.from_numpy(v).to(x).view(c, -1)
        return v[:, :-1] @ basis, v[:, -1:] * bias  # W (C, d), b (C, 1)

    def loss_and_gradient(v):
        w, b = parts(v)
        log_p = torch.addmm(b, w, x).log_softmax(0)  # (C, N)
        loss = l2 / 2 * w.double().square().sum() - (log_p * onehot).double().sum() / n
        error = (log_p.exp() - onehot) / n
        gradient = torch.cat(
            [(error @ x.T + l2 * w) @ basis.T, error.sum(1, keepdim=True) * bias], 1
        )
        return (
            1e4 * loss.item(),
            1e4 * gradient.double().flatten().cpu().numpy(),
        )  # 1e4 makes ftol relative

    with threadpool_limits(
        1, user_api="blas"
    ):  # else SciPy's threads and torch's wait for each other: 40 times slower
        options = {
            "maxiter": max_iter,
            "ftol": 1e-12 if x.dtype == torch.float64 else 1e-6,
            "gtol": 0,
        }
        start = [0.0] * (c * (len(rows) + 1))
        result = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options=options)
    if result.nit >= max_iter:
        warnings.warn(f"LinearProbe: not converged after max_iter = {max_iter} steps", stacklevel=3)
    return tuple(part.double() for part in parts(result.x))
