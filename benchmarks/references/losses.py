"""Losses, value and gradient: other libraries, loops straight from the papers and closed forms."""

import importlib.util
import math
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from references import Compared, Row, compared_with_gradients, normal

from replearn import losses

TEMPERATURE = 0.3


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the cosine of two vectors."""
    return a @ b / (a.norm() * b.norm())


# --- contrast within a batch
# -----------------------------------------------------------------------


def our_nt_xent(z1: torch.Tensor, z2: torch.Tensor) -> torch.Tensor:
    """The package's NT-Xent."""
    return losses.nt_xent(z1, z2, temperature=TEMPERATURE)


def our_decoupled(z1: torch.Tensor, z2: torch.Tensor) -> torch.Tensor:
    """The package's decoupled contrastive loss."""
    return losses.decoupled_contrastive(z1, z2, temperature=TEMPERATURE)


def contrast_loop(z1: torch.Tensor, z2: torch.Tensor, *, decoupled: bool = False) -> torch.Tensor:
    """NT-Xent, one view and one cosine at a time; decoupled leaves the positive out of the sum."""
    z = torch.cat([z1, z2])
    n = len(z1)
    total = 0.0
    for i in range(2 * n):
        positive = (i + n) % (2 * n)
        denominator = 0.0
        for k in range(2 * n):
            if k == i or (decoupled and k == positive):
                continue
            denominator = denominator + (cosine(z[i], z[k]) / TEMPERATURE).exp()
        total = total + denominator.log() - cosine(z[i], z[positive]) / TEMPERATURE
    return total / (2 * n)


def with_self_pairs(
    z1: torch.Tensor, z2: torch.Tensor, temperature: float = TEMPERATURE
) -> torch.Tensor:
    """The usual mistake: NT-Xent with each view among its own negatives."""
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    positives = torch.arange(len(z)).roll(len(z1))
    return F.cross_entropy(z @ z.T / temperature, positives)


def nt_xent_loop(seed: int) -> Compared:
    """NT-Xent as a loop over the paper's formula."""
    return compared_with_gradients(
        our_nt_xent, contrast_loop, with_self_pairs, *normal(seed, 2, 6, 5)
    )


def nt_xent_lightly(seed: int) -> Compared:
    """NT-Xent of lightly."""
    from lightly.loss import NTXentLoss

    theirs = NTXentLoss(temperature=TEMPERATURE)
    return compared_with_gradients(our_nt_xent, theirs, with_self_pairs, *normal(seed, 2, 32, 16))


def nt_xent_metric_learning(seed: int) -> Compared:
    """NT-Xent of pytorch-metric-learning, which wants one batch and a label for each row."""
    from pytorch_metric_learning.losses import NTXentLoss

    of_labels = NTXentLoss(temperature=TEMPERATURE)

    def theirs(z1: torch.Tensor, z2: torch.Tensor) -> torch.Tensor:
        return of_labels(torch.cat([z1, z2]), torch.arange(32).repeat(2))

    return compared_with_gradients(our_nt_xent, theirs, with_self_pairs, *normal(seed, 2, 32, 16))


def nt_xent_collapse(seed: int) -> Compared:
    """Where all rows are equal the loss is the logarithm of the number of candidates."""
    row = normal(seed, 1, 1, 8)[0]
    collapsed = [row.expand(n, 8) for n in (2, 16, 128)]
    return Compared(
        ours=[losses.nt_xent(z, z, temperature=0.1).item() for z in collapsed],
        expected=[math.log(2 * len(z) - 1) for z in collapsed],
        faulty=[with_self_pairs(z, z, 0.1).item() for z in collapsed],
    )


def decoupled_loop(seed: int) -> Compared:
    """The decoupled loss as a loop over the paper's formula."""
    loop = partial(contrast_loop, decoupled=True)
    return compared_with_gradients(our_decoupled, loop, our_nt_xent, *normal(seed, 2, 6, 5))


def decoupled_lightly(seed: int) -> Compared:
    """The decoupled loss of lightly."""
    from lightly.loss import DCLLoss

    theirs = DCLLoss(temperature=TEMPERATURE)
    return compared_with_gradients(our_decoupled, theirs, our_nt_xent, *normal(seed, 2, 32, 16))


# --- scores, queues, texts
# -------------------------------------------------------------------------


def info_nce_loop(seed: int) -> Compared:
    """InfoNCE as a loop over rows."""

    def loop(scores: torch.Tensor) -> torch.Tensor:
        total = 0.0
        for i in range(len(scores)):
            denominator = sum(scores[i, j].exp() for j in range(len(scores)))
            total = total + (scores[i, i].exp() / denominator).log()
        return -total / len(scores)

    def by_columns(scores: torch.Tensor) -> torch.Tensor:
        return losses.info_nce(scores.T)

    scores = normal(seed, 1, 8, 8)[0]
    return compared_with_gradients(losses.info_nce, loop, by_columns, scores)


def moco_loop(seed: int) -> Compared:
    """MoCo's loss as a loop over queries."""
    query, key = normal(seed, 2, 6, 5)
    queue = normal(seed + 100, 1, 9, 5)[0]

    def ours(query: torch.Tensor) -> torch.Tensor:
        return losses.moco(query, key, queue, temperature=0.2)

    def loop(query: torch.Tensor) -> torch.Tensor:
        total = 0.0
        for q, k in zip(query, key, strict=True):
            positive = (cosine(q, k) / 0.2).exp()
            negatives = sum((cosine(q, old_key) / 0.2).exp() for old_key in queue)
            total = total - (positive / (positive + negatives)).log()
        return total / len(query)

    def forgetful(query: torch.Tensor) -> torch.Tensor:
        return losses.moco(query, key, queue[:-1], temperature=0.2)

    return compared_with_gradients(ours, loop, forgetful, query)


def open_clip_loss() -> torch.nn.Module:
    """Return open_clip's loss, loaded from its file by itself.

    `import open_clip` would load every model of the library, which takes seconds.
    """
    folder = importlib.util.find_spec("open_clip").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("open_clip_loss", Path(folder) / "loss.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ClipLoss()


def clip_open_clip(seed: int) -> Compared:
    """CLIP's loss of open_clip, which takes normalized features and the inverse temperature."""
    of_normalized = open_clip_loss()
    scale = torch.tensor(1 / 0.07, dtype=torch.float64)

    def theirs(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        return of_normalized(F.normalize(images, dim=1), F.normalize(texts, dim=1), scale)

    def one_direction(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        cosines = F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
        return losses.info_nce(cosines / 0.07)

    return compared_with_gradients(
        losses.clip_loss, theirs, one_direction, *normal(seed, 2, 32, 16)
    )


# --- without negatives
# -----------------------------------------------------------------------------


def negative_cosine_lightly(seed: int) -> Compared:
    """lightly's negative cosine."""
    from lightly.loss import NegativeCosineSimilarity

    def dot_product(p: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return -(p * z).sum(1).mean()

    return compared_with_gradients(
        losses.negative_cosine,
        NegativeCosineSimilarity(),
        dot_product,
        *normal(seed, 2, 32, 16),
    )


def barlow_lightly(seed: int) -> Compared:
    """lightly's Barlow Twins."""
    from lightly.loss import BarlowTwinsLoss

    def unbiased(z1: torch.Tensor, z2: torch.Tensor) -> torch.Tensor:
        """With torch's default standard deviation, which divides by N - 1."""
        a = (z1 - z1.mean(0)) / z1.std(0)
        b = (z2 - z2.mean(0)) / z2.std(0)
        c = a.T @ b / len(a)
        off_diagonal = losses.fill_diagonal(c, 0)
        return (1 - c.diagonal()).square().sum() + 5e-3 * off_diagonal.square().sum()

    return compared_with_gradients(
        losses.barlow_twins, BarlowTwinsLoss(), unbiased, *normal(seed, 2, 32, 16)
    )


def covariance(z: torch.Tensor, a: int, b: int) -> torch.Tensor:
    """Return the covariance of two columns."""
    products = (z[:, a] - z[:, a].mean()) * (z[:, b] - z[:, b].mean())
    return products.sum() / (len(z) - 1)


def vicreg_by_coordinates(z1: torch.Tensor, z2: torch.Tensor) -> torch.Tensor:
    """Algorithm 1 of the paper, one coordinate at a time."""
    d = z1.shape[1]
    squares = sum((row1 - row2).square().sum() for row1, row2 in zip(z1, z2, strict=True))
    total = 25 * squares / z1.numel()
    for z in (z1, z2):
        c = [[covariance(z, a, b) for b in range(d)] for a in range(d)]
        variance = sum(F.relu(1 - (c[a][a] + 1e-4).sqrt()) for a in range(d)) / d
        off_diagonal = sum(c[a][b] ** 2 for a in range(d) for b in range(d) if a != b) / d
        total = total + 25 * variance + off_diagonal
    return total


halved_vicreg = partial(losses.vicreg, variance=12.5)


def vicreg_loop(seed: int) -> Compared:
    """VICReg as the paper writes it."""
    return compared_with_gradients(
        losses.vicreg, vicreg_by_coordinates, halved_vicreg, *normal(seed, 2, 8, 5) / 2
    )


def vicreg_lightly(seed: int) -> Compared:
    """VICReg of lightly, which halves the variance term as the authors' code does."""
    from lightly.loss import VICRegLoss

    return compared_with_gradients(
        halved_vicreg, VICRegLoss(), losses.vicreg, *normal(seed, 2, 32, 16) / 2
    )


def dino_lightly(seed: int) -> Compared:
    """lightly's DINO, which takes all views of student and teacher at once."""
    from lightly.loss import DINOLoss

    student1, student2, teacher1, teacher2 = normal(seed, 4, 32, 16)
    center = normal(seed + 100, 1, 16)[0]
    of_lists = DINOLoss(output_dim=16).double()

    def theirs(student1: torch.Tensor, student2: torch.Tensor) -> torch.Tensor:
        of_lists.center = center[None, None].clone()  # each call moves it
        return of_lists([teacher1, teacher2], [student1, student2])

    def ours(
        student1: torch.Tensor, student2: torch.Tensor, center: torch.Tensor = center
    ) -> torch.Tensor:
        first = losses.dino(student1, teacher2, center=center)
        second = losses.dino(student2, teacher1, center=center)
        return (first + second) / 2

    not_centered = partial(ours, center=0 * center)
    return compared_with_gradients(ours, theirs, not_centered, student1, student2)


# --- likelihoods
# -----------------------------------------------------------------------------------


def kl_torch(seed: int) -> Compared:
    """KL of diagonal Gaussians by torch.distributions."""
    from torch.distributions import Normal, kl_divergence

    def ours(mu, logvar, prior_mu, prior_logvar) -> torch.Tensor:
        return losses.kl_normal(mu, logvar, prior_mu, prior_logvar).sum()

    def theirs(mu, logvar, prior_mu, prior_logvar) -> torch.Tensor:
        posterior = Normal(mu, (logvar / 2).exp())
        prior = Normal(prior_mu, (prior_logvar / 2).exp())
        return kl_divergence(posterior, prior).sum()

    def faulty(mu, logvar, prior_mu, prior_logvar) -> torch.Tensor:
        return ours(mu, 2 * logvar, prior_mu, 2 * prior_logvar)

    return compared_with_gradients(ours, theirs, faulty, *normal(seed, 4, 9, 4))


# --- the rows
# --------------------------------------------------------------------------------------

SELF_PAIRS = "each view among its own negatives"
POSITIVE_KEPT = "the positive in the denominator"
EXACT = 1e-10
ROWS = [
    Row(
        quantity="NT-Xent and its gradient",
        lesson="06",
        check=nt_xent_loop,
        reference="loop over Chen et al. 2020, Eq. 1",
        allowed=EXACT,
        fault=SELF_PAIRS,
    ),
    Row(
        quantity="NT-Xent and its gradient",
        lesson="06",
        check=nt_xent_lightly,
        reference="NTXentLoss",
        allowed=EXACT,
        fault=SELF_PAIRS,
        peer="lightly",
    ),
    Row(
        quantity="NT-Xent and its gradient",
        lesson="06",
        check=nt_xent_metric_learning,
        reference="NTXentLoss",
        allowed=EXACT,
        fault=SELF_PAIRS,
        peer="pytorch-metric-learning",
    ),
    Row(
        quantity="NT-Xent at collapse, N = 2, 16, 128",
        lesson="06",
        check=nt_xent_collapse,
        reference="closed form: log(2N - 1)",
        allowed=EXACT,
        fault=SELF_PAIRS,
    ),
    Row(
        quantity="MoCo's loss and its gradient",
        lesson="06",
        check=moco_loop,
        reference="loop over He et al. 2020, Eq. 1",
        allowed=EXACT,
        fault="the oldest key forgotten",
    ),
    Row(
        quantity="decoupled contrastive loss and its gradient",
        lesson="12",
        check=decoupled_loop,
        reference="loop over Yeh et al. 2022, Eq. 6",
        allowed=EXACT,
        fault=POSITIVE_KEPT,
    ),
    Row(
        quantity="decoupled contrastive loss and its gradient",
        lesson="12",
        check=decoupled_lightly,
        reference="DCLLoss",
        allowed=EXACT,
        fault=POSITIVE_KEPT,
        peer="lightly",
    ),
    Row(
        quantity="InfoNCE and its gradient",
        lesson="09",
        check=info_nce_loop,
        reference="loop over van den Oord et al. 2018, Eq. 4",
        allowed=EXACT,
        fault="columns in place of rows",
    ),
    Row(
        quantity="CLIP's loss and its gradient",
        lesson="07",
        check=clip_open_clip,
        reference="ClipLoss",
        allowed=EXACT,
        fault="one direction only",
        peer="open_clip_torch",
    ),
    Row(
        quantity="negative cosine and its gradient",
        lesson="10",
        check=negative_cosine_lightly,
        reference="NegativeCosineSimilarity",
        allowed=EXACT,
        fault="lengths not divided out",
        peer="lightly",
    ),
    Row(
        quantity="Barlow Twins and its gradient",
        lesson="10",
        check=barlow_lightly,
        reference="BarlowTwinsLoss",
        allowed=EXACT,
        fault="standard deviation / (N - 1)",
        peer="lightly",
    ),
    Row(
        quantity="VICReg (the paper's variant) and its gradient",
        lesson="10",
        check=vicreg_loop,
        reference="loop over Bardes et al. 2022, Algorithm 1",
        allowed=EXACT,
        fault="variance term halved",
    ),
    Row(
        quantity="VICReg (the authors' code: variance=12.5) and its gradient",
        lesson="10",
        check=vicreg_lightly,
        reference="VICRegLoss",
        allowed=EXACT,
        fault="variance term not halved",
        peer="lightly",
    ),
    Row(
        quantity="DINO both ways and its gradient",
        lesson="10",
        check=dino_lightly,
        reference="DINOLoss",
        # lightly keeps the teacher's temperature in float32, which moves the ninth digit
        allowed=1e-7,
        fault="teacher not centered",
        peer="lightly",
    ),
    Row(
        quantity="KL of diagonal Gaussians and its gradient",
        lesson="05, 08",
        check=kl_torch,
        reference="torch.distributions.kl_divergence",
        allowed=EXACT,
        fault="log-variance taken for log standard deviation",
    ),
]
