"""Losses: features in, one differentiable number out (lower is better).
Dimensions: N images in the batch, D size of an embedding, K entries of a queue or outputs of a DINO head.
Every function raises ValueError for a wrong shape, too few rows, NaN or infinity, and TypeError for a wrong dtype."""

import functools
import math

import torch
import torch.nn.functional as F

from replearn._check import finite, same_shape


def full_precision(function):
    """Run `function` outside autocast, half-precision tensors lifted to float32: exp(1 / 0.01) overflows float16."""

    def lift(x):
        return (
            x.float()
            if isinstance(x, torch.Tensor) and x.dtype in (torch.float16, torch.bfloat16)
            else x
        )

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        devices = [
            x.device.type
            for x in (*args, *kwargs.values())
            if isinstance(x, torch.Tensor) and not x.is_meta
        ]
        with torch.autocast(devices[0] if devices else "cpu", enabled=False):
            return function(*map(lift, args), **{name: lift(x) for name, x in kwargs.items()})

    return wrapped


def positive(name, value):
    """Raise unless `value` is one number from 1e-6 up (below that, dividing by it leaves the range of float32)."""
    if (isinstance(value, torch.Tensor) and value.numel() != 1) or not 1e-6 <= value < math.inf:
        raise ValueError(f"{name}: expected one finite number, 1e-6 or more, found {value}")


def pair(name_1, z1, name_2, z2, *, min_rows=2, temperature=1.0):
    """Raise unless both are finite, of one shape, dtype and device, and the temperature is a positive number."""
    same_shape(
        name_1, finite(name_1, z1, min_rows=min_rows), name_2, finite(name_2, z2, min_rows=min_rows)
    )
    if z1.dtype != z2.dtype:
        raise TypeError(
            f"{name_1} and {name_2}: expected one dtype, found {z1.dtype} and {z2.dtype}"
        )
    if not torch.isfinite(z1.detach().norm() + z2.detach().norm()):
        raise ValueError(
            f"{name_1}, {name_2}: expected numbers that can be squared, found up to {z1.abs().max():.3g}"
        )
    positive("temperature", temperature)


def fill_diagonal(matrix, value):
    """A copy of a square matrix with `value` on its diagonal; the original stays whole, for plotting."""
    return matrix.masked_fill(torch.eye(len(matrix), dtype=torch.bool, device=matrix.device), value)


def _view_logits(z1, z2, temperature):
    """Cosine / temperature between all 2N views, self-pairs at -inf (2N, 2N), and the column of each row's positive."""
    pair("z1", z1, "z2", z2, temperature=temperature)
    z = F.normalize(
        torch.cat([z1, z2]), dim=1
    )  # (2N, D); a division of (2N, 2N), or a copy to fill, would take longer
    return (z @ (z / temperature).T).fill_diagonal_(-math.inf), torch.arange(
        len(z), device=z.device
    ).roll(len(z1))


@full_precision
def nt_xent(z1, z2, *, temperature=0.5):
    """SimCLR's loss: -log( exp(s_ij / T) / sum_{k != i} exp(s_ik / T) ), s cosine, j the other view of i, mean over 2N.
    z1, z2: (N, D), N >= 2. Returns nats; log(2N - 1) at collapse. Source: Chen et al. 2020, Eq. 1."""
    return F.cross_entropy(*_view_logits(z1, z2, temperature))


@full_precision
def decoupled_contrastive(z1, z2, *, temperature=0.1):
    """NT-Xent with no positive in the denominator: -s_ij / T + log sum_{k not i, j} exp(s_ik / T), mean over 2N.
    z1, z2: (N, D), N >= 2. Returns nats, can be negative; log(2N - 2) at collapse. Source: Yeh et al. 2022, Eq. 6."""
    logits, j = _view_logits(z1, z2, temperature)
    return (
        logits.scatter(1, j[:, None], -math.inf).logsumexp(1) - logits.gather(1, j[:, None])[:, 0]
    ).mean()


@full_precision
def info_nce(scores):
    """Cross-entropy of finding the partner of each row: -mean_i log( exp(S_ii) / sum_j exp(S_ij) ).
    scores: (N, N), N >= 2, S_ij = critic of (x_i, y_j). Returns nats. Source: van den Oord et al. 2018, Eq. 4."""
    if finite("scores", scores, min_rows=2).shape[0] != scores.shape[1]:
        raise ValueError(
            f"scores: expected a square (N, N) matrix, found shape {tuple(scores.shape)}"
        )
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))


@full_precision
def moco(query, key, queue, *, temperature=0.1):
    """InfoNCE against a queue: -log( exp(q.k / T) / (exp(q.k / T) + sum_m exp(q.queue_m / T)) ), dots of unit vectors.
    query, key: (N, D); queue: (K, D), older keys; only query gets a gradient. Nats. Source: He et al. 2020, Eq. 1."""
    pair("query", query, "key", key, min_rows=1, temperature=temperature)
    pair("one key", key[:1], "one row of the queue", finite("queue", queue)[:1], min_rows=1)
    query, key, queue = (F.normalize(x, dim=1) for x in (query, key.detach(), queue.detach()))
    logits = (
        torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T], dim=1) / temperature
    )  # (N, 1 + K)
    return (logits.logsumexp(1) - logits[:, 0]).mean()


@full_precision
def clip_loss(image_z, text_z, *, temperature=0.07):
    """CLIP's loss, picture to text and back: (info_nce(S) + info_nce(S^T)) / 2, S = cosine / T.
    image_z, text_z: (N, D), N >= 2; temperature: number or tensor. In nats. Source: Radford et al. 2021, Fig. 3."""
    pair("image_z", image_z, "text_z", text_z, temperature=temperature)
    scores = F.normalize(image_z, dim=1) @ F.normalize(text_z, dim=1).T / temperature  # (N, N)
    return (info_nce(scores) + info_nce(scores.T)) / 2


@full_precision
def negative_cosine(p, z):
    """Minus the cosine: -mean_i p_i.z_i / (|p_i| |z_i|). It does not stop the gradient: pass `z.detach()`.
    p, z: (N, D), prediction and target. Returns a number in [-1, 1], -1 is best. Source: Chen & He 2021, Eq. 1."""
    pair("p", p, "z", z, min_rows=1)
    return -F.cosine_similarity(p, z, dim=1, eps=1e-12).mean()


@full_precision
def barlow_twins(z1, z2, *, off_diagonal=5e-3):
    """Make the views' cross-correlation C the identity: sum_i (1 - C_ii)^2 + off_diagonal sum_{i != j} C_ij^2.
    z1, z2: (N, D), N >= 2; variance: biased, + 1e-5 (a constant feature: C = 0). Source: Zbontar et al. 2021, Eq. 1."""
    pair("z1", z1, "z2", z2)
    z1, z2 = (F.batch_norm(z, None, None, training=True, eps=1e-5) for z in (z1, z2))
    c = z1.T @ z2 / len(z1)  # (D, D)
    return (1 - c.diagonal()).square().sum() + off_diagonal * fill_diagonal(c, 0).square().sum()


@full_precision
def vicreg(z1, z2, *, similarity=25.0, variance=25.0, covariance=1.0):
    """similarity MSE(z1, z2) + sum over views [ variance mean_d relu(1 - std_d) + covariance sum_{i != j} C_ij^2 / D ].
    The paper's Algorithm 1; the authors' code halves the variance term (variance=12.5 here). z1, z2: (N, D), N >= 2;
    C: covariance (/ (N - 1)), std = sqrt(C_dd + 1e-4). Returns a number >= 0. Source: Bardes et al. 2022."""
    pair("z1", z1, "z2", z2)
    loss = similarity * F.mse_loss(z1, z2)
    for z in (z1 - z1.mean(0), z2 - z2.mean(0)):
        c = z.T @ z / (len(z) - 1)  # (D, D)
        std = (c.diagonal() + 1e-4).sqrt()
        loss = (
            loss
            + variance * F.relu(1 - std).mean()
            + covariance * fill_diagonal(c, 0).square().sum() / len(c)
        )
    return finite("VICReg's loss", loss[None], ndim=1)[0]


@full_precision
def dino(student, teacher, *, center, student_temperature=0.1, teacher_temperature=0.04):
    """-mean_i sum_k P_ik log Q_ik with P = softmax((teacher - center) / T_teacher), Q = softmax(student / T_student).
    student, teacher: (N, K) outputs for *different* views (call it both ways and average); center: (K,), running mean
    of the teacher's. No gradient to the teacher. Returns nats. Source: Caron et al. 2021, Algorithm 1."""
    pair("student", student, "teacher", teacher, min_rows=1, temperature=student_temperature)
    center = finite("center", center, ndim=1)[None]  # (1, K)
    pair(
        "center",
        center,
        "a row of teacher",
        teacher[:1],
        min_rows=1,
        temperature=teacher_temperature,
    )
    target = ((teacher - center).detach() / teacher_temperature).softmax(1)  # (N, K)
    return F.cross_entropy(student / student_temperature, target)


@full_precision
def kl_normal(mu, logvar, prior_mu=None, prior_logvar=None):
    """Diagonal Gaussians: 1/2 sum_d [ prior_logvar - logvar + (e^logvar + (mu - prior_mu)^2) e^-prior_logvar - 1 ].
    All (N, D); no prior: N(0, 1). Returns (N,) nats; ValueError on overflow. Source: Kingma & Welling 2014, App. B."""
    pair("mu", mu, "logvar", logvar, min_rows=1)
    prior_mu, prior_logvar = (
        torch.zeros_like(mu) if x is None else x for x in (prior_mu, prior_logvar)
    )
    pair("mu", mu, "prior_mu", prior_mu, min_rows=1)
    pair("mu", mu, "prior_logvar", prior_logvar, min_rows=1)
    scaled = (logvar - prior_logvar).exp() + (mu - prior_mu).square() * (-prior_logvar).exp()
    return finite(
        "KL (clamp a logvar beyond +-80)", (prior_logvar - logvar + scaled - 1).sum(1) / 2, ndim=1
    )
