"""Losses: features go in, one differentiable number comes out, and lower is better.

Dimensions: N images in the batch, D numbers in an embedding, K entries of a queue or outputs of a
head of DINO. Logarithms are natural, so that information is measured in nats.

Every loss is computed in float32 or float64, also under autocast and for half-precision input.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from replearn._check import finite, pair

__all__ = [
    "barlow_twins",
    "clip_loss",
    "comparable_rows",
    "decoupled_contrastive",
    "dino",
    "fill_diagonal",
    "full_precision",
    "info_nce",
    "kl_normal",
    "moco",
    "negative_cosine",
    "nt_xent",
    "unit_rows",
    "vicreg",
]


# --- what the losses share ------------------------------------------------------------------------


def full_precision(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function so that it computes in float32 or more, also under autocast.

    Half precision would not do: exp(1 / temperature) at a temperature of 0.01 overflows float16.

    Args:
        function: A function of tensors.

    Returns:
        The function, for which half-precision tensors are converted to float32 and autocast is
        off.

    Example:
        >>> square = full_precision(lambda x: x * x)
        >>> square(torch.tensor(300.0, dtype=torch.float16))
        tensor(90000.)
    """

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        device_type = "cpu"
        for x in (*args, *kwargs.values()):
            if isinstance(x, torch.Tensor) and not x.is_meta:
                device_type = x.device.type
                break
        args = [_lifted(x) for x in args]
        kwargs = {name: _lifted(x) for name, x in kwargs.items()}
        with torch.autocast(device_type, enabled=False):
            return function(*args, **kwargs)

    return wrapped


def _lifted(x: Any) -> Any:
    """Return a half-precision tensor as float32, and anything else as it is."""
    if isinstance(x, torch.Tensor) and x.dtype in (torch.float16, torch.bfloat16):
        return x.float()
    return x


def fill_diagonal(matrix: torch.Tensor, value: float) -> torch.Tensor:
    """Return a copy of a square matrix with another diagonal.

    The original stays whole, so that it can still be plotted.

    Args:
        matrix: (N, N).
        value: What the N entries of the diagonal become.

    Returns:
        (N, N).

    Example:
        >>> fill_diagonal(torch.ones(2, 2), 0)
        tensor([[0., 1.],
                [1., 0.]])
    """
    diagonal = torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)
    return matrix.masked_fill(diagonal, value)


def comparable_rows(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows whose squares neither overflow nor vanish, and which rows have no direction.

    A row that is far from 1 is divided by its largest entry, which leaves its direction alone; all
    other rows stay as they are, to the last bit. A row of zeros becomes a row of ones that carries
    no gradient, so that nothing is divided by zero: whoever calls has to take it out again.

    Args:
        z: (N, D).

    Returns:
        The rows (N, D), and a mask (N, 1) that is True for rows of zeros.

    Example:
        >>> rows, is_zero = comparable_rows(torch.tensor([[2.0**99, 2.0**100], [0, 0], [3, 4]]))
        >>> rows.tolist(), is_zero[:, 0].tolist()
        ([[0.5, 1.0], [1.0, 1.0], [3.0, 4.0]], [False, True, False])
    """
    largest = z.detach().abs().amax(dim=1, keepdim=True)  # (N, 1)
    is_zero = largest == 0
    is_far = (largest < 1e-12) | (largest > 1e15)
    scale = torch.where(is_far & ~is_zero, largest, 1.0)
    return z.masked_fill(is_zero, 1.0) / scale, is_zero


def unit_rows(z: torch.Tensor) -> torch.Tensor:
    r"""Return each row divided by its length, at any scale.

    .. math:: z_i / \|z_i\|

    A row of zeros has no direction: it stays zero, so that its cosine with everything is 0, and it
    gets no gradient.

    Args:
        z: (N, D).

    Returns:
        (N, D).

    Example:
        >>> unit_rows(torch.tensor([[3e-30, 4e-30], [0.0, 0.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    rows, is_zero = comparable_rows(z)
    return F.normalize(rows, dim=1).masked_fill(is_zero, 0.0)


def _view_logits(
    z1: torch.Tensor, z2: torch.Tensor, temperature: float | torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compare all 2N views of a batch.

    Returns cosine / temperature (2N, 2N), with -inf where a view would be compared with itself,
    and for each view the index of the other view of the same image (2N,).
    """
    pair("z1", z1, "z2", z2, temperature=temperature)
    z = unit_rows(torch.cat([z1, z2]))  # (2N, D)
    # To divide z is quicker than to divide the (2N, 2N) product, or to copy that for its diagonal.
    logits = (z @ (z / temperature).T).fill_diagonal_(-math.inf)
    partner = torch.arange(len(z), device=z.device).roll(len(z1))
    return logits, partner


# --- contrastive losses ---------------------------------------------------------------------------


@full_precision
def nt_xent(
    z1: torch.Tensor, z2: torch.Tensor, *, temperature: float | torch.Tensor = 0.5
) -> torch.Tensor:
    r"""Compute SimCLR's loss: each view has to find its partner among all other views.

    .. math::

        -\frac{1}{2N} \sum_{i=1}^{2N}
        \log \frac{\exp(s_{ij} / T)}{\sum_{k \ne i} \exp(s_{ik} / T)}

    where s is the cosine, T the temperature, and j the other view of the image of i.

    Args:
        z1: (N, D), embeddings of one view of each image; N is 2 or more.
        z2: (N, D), embeddings of the other view.
        temperature: T, above 0: a number, or a tensor that holds one.

    Returns:
        The loss in nats: 0 or more, and log(2N - 1) when all embeddings are the same.

    Raises:
        TypeError: An argument is no tensor of floating-point numbers.
        ValueError: A wrong shape, NaN or infinity, or a temperature that is not positive.

    References:
        Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual
        Representations", Eq. 1.

    Example:
        >>> z = torch.ones(4, 8)  # collapsed: log(2 * 4 - 1)
        >>> nt_xent(z, z)
        tensor(1.9459)
    """
    logits, partner = _view_logits(z1, z2, temperature)
    return F.cross_entropy(logits, partner)


@full_precision
def decoupled_contrastive(
    z1: torch.Tensor, z2: torch.Tensor, *, temperature: float | torch.Tensor = 0.1
) -> torch.Tensor:
    r"""Compute NT-Xent without the positive pair in the denominator.

    .. math::

        \frac{1}{2N} \sum_{i=1}^{2N} \Bigl[
        -\frac{s_{ij}}{T} + \log \sum_{k \ne i, j} \exp(s_{ik} / T) \Bigr]

    where s is the cosine, T the temperature, and j the other view of the image of i. A pair that is
    found already still gets a gradient, which makes small batches learn faster.

    Args:
        z1: (N, D), embeddings of one view of each image; N is 2 or more.
        z2: (N, D), embeddings of the other view.
        temperature: T, above 0: a number, or a tensor that holds one.

    Returns:
        The loss in nats, which can be negative; log(2N - 2) when all embeddings are the same.

    Raises:
        TypeError: An argument is no tensor of floating-point numbers.
        ValueError: A wrong shape, NaN or infinity, or a temperature that is not positive.

    References:
        Yeh et al. 2022, "Decoupled Contrastive Learning", Eq. 6.

    Example:
        >>> z = torch.ones(4, 8)  # collapsed: log(2 * 4 - 2)
        >>> decoupled_contrastive(z, z)
        tensor(1.7918)
    """
    logits, partner = _view_logits(z1, z2, temperature)
    column = partner[:, None]  # (2N, 1)
    positives = logits.gather(1, column)[:, 0]  # (2N,)
    negatives = logits.scatter(1, column, -math.inf).logsumexp(1)  # (2N,)
    return (negatives - positives).mean()


@full_precision
def info_nce(scores: torch.Tensor) -> torch.Tensor:
    r"""Compute the cross-entropy of finding the partner of each row.

    .. math:: -\frac{1}{N} \sum_i \log \frac{\exp S_{ii}}{\sum_j \exp S_{ij}}

    Args:
        scores: (N, N), what a critic says about the pairs (x_i, y_j); N is 2 or more.

    Returns:
        The loss in nats. log N minus it is a lower bound on the mutual information.

    Raises:
        TypeError: The scores are no tensor of floating-point numbers.
        ValueError: They are no square matrix, or hold NaN or infinity.

    References:
        van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding",
        Eq. 4.

    Example:
        >>> info_nce(torch.zeros(4, 4))  # a guess: log 4
        tensor(1.3863)
    """
    finite("scores", scores, min_rows=2)
    if scores.shape[0] != scores.shape[1]:
        raise ValueError(
            f"scores: expected a square (N, N) matrix, found shape {tuple(scores.shape)}"
        )
    partner = torch.arange(len(scores), device=scores.device)
    return F.cross_entropy(scores, partner)


@full_precision
def moco(
    query: torch.Tensor,
    key: torch.Tensor,
    queue: torch.Tensor,
    *,
    temperature: float | torch.Tensor = 0.1,
) -> torch.Tensor:
    r"""Compute MoCo's loss: each query has to tell its key from the keys of earlier batches.

    .. math::

        -\frac{1}{N} \sum_i \log \frac{\exp(q_i \cdot k_i / T)}
        {\exp(q_i \cdot k_i / T) + \sum_m \exp(q_i \cdot m / T)}

    with dot products of unit vectors, where m runs over the queue and T is the temperature. Only
    the query gets a gradient.

    Args:
        query: (N, D), embeddings of one view of each image.
        key: (N, D), embeddings of the other view by the slow copy of the network.
        queue: (K, D), older keys.
        temperature: T, above 0: a number, or a tensor that holds one.

    Returns:
        The loss in nats: 0 or more, and log(K + 1) when all embeddings are the same.

    Raises:
        TypeError: An argument is no tensor of floating-point numbers.
        ValueError: A wrong shape, NaN or infinity, or a temperature that is not positive.

    References:
        He et al. 2020, "Momentum Contrast for Unsupervised Visual Representation Learning", Eq. 1.

    Example:
        >>> z = torch.ones(4, 8)  # collapsed: log(9 + 1)
        >>> moco(z, z, torch.ones(9, 8))
        tensor(2.3026)
    """
    pair("query", query, "key", key, min_rows=1, temperature=temperature)
    finite("queue", queue)
    pair("one key", key[:1], "one row of the queue", queue[:1], min_rows=1)
    query = unit_rows(query)
    key = unit_rows(key.detach())
    queue = unit_rows(queue.detach())
    positives = (query * key).sum(1, keepdim=True)  # (N, 1)
    negatives = query @ queue.T  # (N, K)
    logits = torch.cat([positives, negatives], dim=1) / temperature
    return (logits.logsumexp(1) - logits[:, 0]).mean()


@full_precision
def clip_loss(
    image_z: torch.Tensor, text_z: torch.Tensor, *, temperature: float | torch.Tensor = 0.07
) -> torch.Tensor:
    r"""Compute CLIP's loss: each image has to find its text, and each text its image.

    .. math::

        \tfrac{1}{2} \bigl[ \mathrm{info\_nce}(S) + \mathrm{info\_nce}(S^\top) \bigr],
        \quad S_{ij} = \cos(\mathrm{image}_i, \mathrm{text}_j) / T

    Args:
        image_z: (N, D), embeddings of images; N is 2 or more.
        text_z: (N, D), embeddings of their texts.
        temperature: T, above 0: a number, or a tensor that holds one and may be learned.

    Returns:
        The loss in nats: 0 or more, and log N when all embeddings are the same.

    Raises:
        TypeError: An argument is no tensor of floating-point numbers.
        ValueError: A wrong shape, NaN or infinity, or a temperature that is not positive.

    References:
        Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
        Supervision", Fig. 3.

    Example:
        >>> z = torch.ones(4, 8)  # collapsed: log 4
        >>> clip_loss(z, z)
        tensor(1.3863)
    """
    pair("image_z", image_z, "text_z", text_z, temperature=temperature)
    cosine = unit_rows(image_z) @ unit_rows(text_z).T  # (N, N)
    scores = cosine / temperature
    return (info_nce(scores) + info_nce(scores.T)) / 2


# --- losses without negatives ---------------------------------------------------------------------


@full_precision
def negative_cosine(p: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    r"""Compute minus the cosine between predictions and their targets, the loss of SimSiam.

    .. math:: -\frac{1}{N} \sum_i \frac{p_i \cdot z_i}{\lVert p_i \rVert \lVert z_i \rVert}

    It does not stop the gradient of the target: pass `z.detach()`, which SimSiam cannot do without.

    Args:
        p: (N, D), predictions.
        z: (N, D), targets.

    Returns:
        A number in [-1, 1], of which -1 is best.

    Raises:
        TypeError: An argument is no tensor of floating-point numbers.
        ValueError: A wrong shape, NaN or infinity.

    References:
        Chen & He 2021, "Exploring Simple Siamese Representation Learning", Eq. 1.

    Example:
        >>> p = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> negative_cosine(p, p)
        tensor(-1.)
    """
    pair("p", p, "z", z, min_rows=1)
    p, p_is_zero = comparable_rows(p)
    z, z_is_zero = comparable_rows(z)
    cosine = F.cosine_similarity(p, z, dim=1, eps=1e-12)
    has_no_direction = (p_is_zero | z_is_zero)[:, 0]
    return -cosine.masked_fill(has_no_direction, 0.0).mean()


@full_precision
def barlow_twins(z1: torch.Tensor, z2: torch.Tensor, *, off_diagonal: float = 5e-3) -> torch.Tensor:
    r"""Pull the correlation matrix between two views toward the identity.

    .. math:: \sum_i (1 - C_{ii})^2 + \lambda \sum_{i \ne j} C_{ij}^2

    where C (D, D) holds the correlation of each feature of one view with each feature of the other.
    Standard deviations are the biased ones, of a variance with 1e-5 added; a constant feature has
    C = 0.

    Args:
        z1: (N, D), embeddings of one view of each image; N is 2 or more.
        z2: (N, D), embeddings of the other view.
        off_diagonal: The weight lambda of the second sum.

    Returns:
        A number, 0 or more; D when all features are constant.

    Raises:
        TypeError: An argument is no tensor of floating-point numbers.
        ValueError: A wrong shape, NaN or infinity.

    References:
        Zbontar et al. 2021, "Barlow Twins: Self-Supervised Learning via Redundancy Reduction",
        Eq. 1.

    Example:
        >>> z = torch.ones(4, 8)  # collapsed: 8 features that correlate with nothing
        >>> barlow_twins(z, z)
        tensor(8.)
    """
    pair("z1", z1, "z2", z2)
    z1 = F.batch_norm(z1, None, None, training=True, eps=1e-5)
    z2 = F.batch_norm(z2, None, None, training=True, eps=1e-5)
    c = z1.T @ z2 / len(z1)  # (D, D)
    on_diagonal = (1 - c.diagonal()).square().sum()
    return on_diagonal + off_diagonal * fill_diagonal(c, 0).square().sum()


@full_precision
def vicreg(
    z1: torch.Tensor,
    z2: torch.Tensor,
    *,
    similarity: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
) -> torch.Tensor:
    r"""Compute VICReg's loss: similar views, features that vary, and no two that say the same.

    .. math::

        \lambda \, \mathrm{MSE}(z_1, z_2) + \sum_{z \in \{z_1, z_2\}} \Bigl[
        \frac{\mu}{D} \sum_d \max(0, 1 - \sigma_d) + \frac{\nu}{D} \sum_{i \ne j} C_{ij}^2 \Bigr],
        \quad \sigma_d = \sqrt{C_{dd} + 10^{-4}}

    where C (D, D) is the covariance of the features of z, with N - 1 in its denominator. This is
    the paper's Algorithm 1. The authors' code halves the variance term, which `variance=12.5` does
    here.

    Args:
        z1: (N, D), embeddings of one view of each image; N is 2 or more.
        z2: (N, D), embeddings of the other view.
        similarity: The weight lambda.
        variance: The weight mu.
        covariance: The weight nu.

    Returns:
        A number, 0 or more.

    Raises:
        TypeError: An argument is no tensor of floating-point numbers.
        ValueError: A wrong shape, NaN or infinity, or numbers so large that the loss overflows.

    References:
        Bardes et al. 2022, "VICReg: Variance-Invariance-Covariance Regularization for
        Self-Supervised Learning".

    Example:
        >>> z = torch.ones(4, 8)  # collapsed: 25 * 2 * (1 - 0.01)
        >>> vicreg(z, z)
        tensor(49.5000)
    """
    pair("z1", z1, "z2", z2)
    loss = similarity * F.mse_loss(z1, z2)
    for z in (z1, z2):
        centered = z - z.mean(0)
        c = centered.T @ centered / (len(z) - 1)  # (D, D)
        std = (c.diagonal() + 1e-4).sqrt()
        loss = loss + variance * F.relu(1 - std).mean()
        loss = loss + covariance * fill_diagonal(c, 0).square().sum() / len(c)
    finite("VICReg's loss", loss[None], ndim=1)
    return loss


@full_precision
def dino(
    student: torch.Tensor,
    teacher: torch.Tensor,
    *,
    center: torch.Tensor,
    student_temperature: float | torch.Tensor = 0.1,
    teacher_temperature: float | torch.Tensor = 0.04,
) -> torch.Tensor:
    r"""Compute DINO's loss: the student predicts the classes that the teacher makes up.

    .. math::

        -\frac{1}{N} \sum_i \sum_k P_{ik} \log Q_{ik}, \quad
        P = \mathrm{softmax}((\mathrm{teacher} - \mathrm{center}) / T_t), \quad
        Q = \mathrm{softmax}(\mathrm{student} / T_s)

    The teacher gets no gradient. Student and teacher see different views of the same images: call
    the loss both ways and average.

    Args:
        student: (N, K), outputs of the student's head.
        teacher: (N, K), outputs of the teacher's head for another view.
        center: (K,), running mean of the teacher's outputs. Subtracting it keeps a single output
            from winning always.
        student_temperature: T_s, above 0.
        teacher_temperature: T_t, above 0; the smaller one makes the targets sharper.

    Returns:
        The loss in nats, 0 or more.

    Raises:
        TypeError: An argument is no tensor of floating-point numbers.
        ValueError: A wrong shape, NaN or infinity, or a temperature that is not positive.

    References:
        Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers",
        Algorithm 1.

    Example:
        >>> outputs = torch.ones(4, 8)  # uniform over 8 outputs: log 8
        >>> dino(outputs, outputs, center=torch.zeros(8))
        tensor(2.0794)
    """
    pair("student", student, "teacher", teacher, min_rows=1, temperature=student_temperature)
    finite("center", center, ndim=1)
    row = teacher[:1]  # (1, K)
    pair(
        "center", center[None], "a row of teacher", row, min_rows=1, temperature=teacher_temperature
    )
    target = ((teacher - center).detach() / teacher_temperature).softmax(1)  # (N, K)
    return F.cross_entropy(student / student_temperature, target)


# --- distributions --------------------------------------------------------------------------------


@full_precision
def kl_normal(
    mu: torch.Tensor,
    logvar: torch.Tensor,
    prior_mu: torch.Tensor | None = None,
    prior_logvar: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Compute the KL divergence of a Gaussian from a prior, both with independent dimensions.

    .. math::

        \frac{1}{2} \sum_d \Bigl[ \log \tau_d^2 - \log \sigma_d^2
        + \frac{\sigma_d^2 + (\mu_d - \nu_d)^2}{\tau_d^2} - 1 \Bigr]

    where the prior has mean nu and variance tau squared.

    Args:
        mu: (N, D), means.
        logvar: (N, D), logarithms of the variances.
        prior_mu: (N, D), means of the prior. None stands for 0.
        prior_logvar: (N, D), logarithms of the variances of the prior. None stands for 0.

    Returns:
        (N,), the divergence of each row in nats, 0 or more.

    Raises:
        TypeError: An argument is no tensor of floating-point numbers.
        ValueError: A wrong shape, NaN or infinity, or a variance that overflows.

    References:
        Kingma & Welling 2014, "Auto-Encoding Variational Bayes", appendix B.

    Example:
        >>> mu = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
        >>> kl_normal(mu, torch.zeros(2, 2))
        tensor([0.0000, 2.5000])
    """
    pair("mu", mu, "logvar", logvar, min_rows=1)
    if prior_mu is None:
        prior_mu = torch.zeros_like(mu)
    if prior_logvar is None:
        prior_logvar = torch.zeros_like(mu)
    pair("mu", mu, "prior_mu", prior_mu, min_rows=1)
    pair("mu", mu, "prior_logvar", prior_logvar, min_rows=1)
    squared_distance = (mu - prior_mu).square()
    scaled = (logvar - prior_logvar).exp() + squared_distance * (-prior_logvar).exp()
    kl = (prior_logvar - logvar + scaled - 1).sum(1) / 2
    return finite("KL (clamp a logvar beyond +-80)", kl, ndim=1)
