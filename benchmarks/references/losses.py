"""Losses, value and gradient, against other libraries, loops straight from the papers and closed forms."""

import importlib.util
import math
from pathlib import Path

import torch
import torch.nn.functional as F

from references import normal, three
from replearn import losses


def cosine(a, b):
    return a @ b / (a.norm() * b.norm())


def contrast_loop(z1, z2, t, *, decoupled=False):
    """One view and one cosine at a time; decoupled leaves the positive out of the sum."""
    z, n, total = torch.cat([z1, z2]), len(z1), 0.0
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        others = [k for k in range(2 * n) if k != i and not (decoupled and k == j)]
        total = (
            total
            + sum((cosine(z[i], z[k]) / t).exp() for k in others).log()
            - cosine(z[i], z[j]) / t
        )
    return total / (2 * n)


def with_self_pairs(z1, z2, t):
    """NT-Xent with each view among its own negatives."""
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    return F.cross_entropy(z @ z.T / t, torch.arange(len(z)).roll(len(z1)))


def nt_xent_loop(seed):
    return three(
        lambda *z: losses.nt_xent(*z, temperature=0.3),
        lambda *z: contrast_loop(*z, 0.3),
        lambda *z: with_self_pairs(*z, 0.3),
        *normal(seed, 2, 6, 5),
    )


def nt_xent_lightly(seed):
    from lightly.loss import NTXentLoss

    return three(
        lambda *z: losses.nt_xent(*z, temperature=0.3),
        NTXentLoss(temperature=0.3),
        lambda *z: with_self_pairs(*z, 0.3),
        *normal(seed, 2, 32, 16),
    )


def nt_xent_metric_learning(seed):
    from pytorch_metric_learning.losses import NTXentLoss

    theirs = NTXentLoss(temperature=0.3)
    return three(
        lambda *z: losses.nt_xent(*z, temperature=0.3),
        lambda *z: theirs(torch.cat(z), torch.arange(32).repeat(2)),
        lambda *z: with_self_pairs(*z, 0.3),
        *normal(seed, 2, 32, 16),
    )


def nt_xent_collapse(seed):
    z = [normal(seed, 1, 1, 8)[0].expand(n, 8) for n in (2, 16, 128)]
    return (
        [losses.nt_xent(x, x, temperature=0.1).item() for x in z],
        [math.log(2 * len(x) - 1) for x in z],
        [with_self_pairs(x, x, 0.1).item() for x in z],
    )


def decoupled_loop(seed):
    return three(
        lambda *z: losses.decoupled_contrastive(*z, temperature=0.3),
        lambda *z: contrast_loop(*z, 0.3, decoupled=True),
        lambda *z: losses.nt_xent(*z, temperature=0.3),
        *normal(seed, 2, 6, 5),
    )


def decoupled_lightly(seed):
    from lightly.loss import DCLLoss

    return three(
        lambda *z: losses.decoupled_contrastive(*z, temperature=0.3),
        DCLLoss(temperature=0.3),
        lambda *z: losses.nt_xent(*z, temperature=0.3),
        *normal(seed, 2, 32, 16),
    )


def info_nce_loop(seed):
    def loop(s):
        return -sum(
            (s[i, i].exp() / sum(s[i, j].exp() for j in range(len(s)))).log() for i in range(len(s))
        ) / len(s)

    return three(losses.info_nce, loop, lambda s: losses.info_nce(s.T), normal(seed, 1, 8, 8)[0])


def moco_loop(seed):
    (query, key), (queue,) = normal(seed, 2, 6, 5), normal(seed + 100, 1, 9, 5)

    def loop(query):
        total = 0.0
        for q, k in zip(query, key, strict=True):
            positive = (cosine(q, k) / 0.2).exp()
            total = (
                total
                - (positive / (positive + sum((cosine(q, m) / 0.2).exp() for m in queue))).log()
            )
        return total / len(query)

    return three(
        lambda q: losses.moco(q, key, queue, temperature=0.2),
        loop,
        lambda q: losses.moco(q, key, queue[:-1], temperature=0.2),
        query,
    )


def clip_open_clip(seed):
    # the file by itself: `import open_clip` loads every model of the library, which takes seconds
    folder = importlib.util.find_spec("open_clip").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("open_clip_loss", Path(folder) / "loss.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    theirs, scale = module.ClipLoss(), torch.tensor(1 / 0.07, dtype=torch.float64)
    return three(
        losses.clip_loss,
        lambda a, b: theirs(F.normalize(a, dim=1), F.normalize(b, dim=1), scale),
        lambda a, b: losses.info_nce(F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / 0.07),
        *normal(seed, 2, 32, 16),
    )


def negative_cosine_lightly(seed):
    from lightly.loss import NegativeCosineSimilarity

    return three(
        losses.negative_cosine,
        NegativeCosineSimilarity(),
        lambda p, z: -(p * z).sum(1).mean(),
        *normal(seed, 2, 32, 16),
    )


def barlow_lightly(seed):
    from lightly.loss import BarlowTwinsLoss

    def unbiased(z1, z2):  # torch's default standard deviation, / (N - 1)
        a, b = ((z - z.mean(0)) / z.std(0) for z in (z1, z2))
        c = a.T @ b / len(a)
        return (1 - c.diagonal()).square().sum() + 5e-3 * losses.fill_diagonal(c, 0).square().sum()

    return three(losses.barlow_twins, BarlowTwinsLoss(), unbiased, *normal(seed, 2, 32, 16))


def vicreg_loop(seed):
    """Algorithm 1 of the paper, one coordinate at a time."""

    def loop(z1, z2):
        (n, d), total = (
            z1.shape,
            25 * sum((z1[i] - z2[i]).square().sum() for i in range(len(z1))) / z1.numel(),
        )
        for z in (z1, z2):
            c = [
                [
                    ((z[:, a] - z[:, a].mean()) * (z[:, b] - z[:, b].mean())).sum() / (n - 1)
                    for b in range(d)
                ]
                for a in range(d)
            ]
            total = total + 25 * sum(F.relu(1 - (c[a][a] + 1e-4).sqrt()) for a in range(d)) / d
            total = total + sum(c[a][b] ** 2 for a in range(d) for b in range(d) if a != b) / d
        return total

    return three(
        losses.vicreg, loop, lambda *z: losses.vicreg(*z, variance=12.5), *normal(seed, 2, 8, 5) / 2
    )


def vicreg_lightly(seed):
    from lightly.loss import VICRegLoss

    return three(
        lambda *z: losses.vicreg(*z, variance=12.5),
        VICRegLoss(),
        losses.vicreg,
        *normal(seed, 2, 32, 16) / 2,
    )


def dino_lightly(seed):
    from lightly.loss import DINOLoss

    (a, b, c, d), center = normal(seed, 4, 32, 16), normal(seed + 100, 1, 16)[0]
    theirs = DINOLoss(output_dim=16).double()

    def lightly(a, b):
        theirs.center = center[None, None].clone()  # each call moves it
        return theirs([c, d], [a, b])

    def both_ways(a, b, center=center):
        return (losses.dino(a, d, center=center) + losses.dino(b, c, center=center)) / 2

    return three(both_ways, lightly, lambda a, b: both_ways(a, b, 0 * center), a, b)


def kl_torch(seed):
    from torch.distributions import Normal, kl_divergence

    normals = lambda mu, logvar: Normal(mu, (logvar / 2).exp())
    return three(
        lambda *p: losses.kl_normal(*p).sum(),
        lambda m, v, pm, pv: kl_divergence(normals(m, v), normals(pm, pv)).sum(),
        lambda m, v, pm, pv: losses.kl_normal(m, 2 * v, pm, 2 * pv).sum(),
        *normal(seed, 4, 9, 4),
    )


SELF, EXACT = "each view among its own negatives", 1e-10
ROWS = [
    dict(
        check=nt_xent_loop,
        quantity="NT-Xent and its gradient",
        lesson="06",
        fault=SELF,
        allowed=EXACT,
        reference="loop over Chen et al. 2020, Eq. 1",
    ),
    dict(
        check=nt_xent_lightly,
        quantity="NT-Xent and its gradient",
        lesson="06",
        fault=SELF,
        allowed=EXACT,
        reference="NTXentLoss",
        peer="lightly",
    ),
    dict(
        check=nt_xent_metric_learning,
        quantity="NT-Xent and its gradient",
        lesson="06",
        fault=SELF,
        allowed=EXACT,
        reference="NTXentLoss",
        peer="pytorch-metric-learning",
    ),
    dict(
        check=nt_xent_collapse,
        quantity="NT-Xent at collapse, N = 2, 16, 128",
        lesson="06",
        fault=SELF,
        allowed=EXACT,
        reference="closed form: log(2N - 1)",
    ),
    dict(
        check=moco_loop,
        quantity="MoCo's loss and its gradient",
        lesson="06",
        fault="the oldest key forgotten",
        allowed=EXACT,
        reference="loop over He et al. 2020, Eq. 1",
    ),
    dict(
        check=decoupled_loop,
        quantity="decoupled contrastive loss and its gradient",
        lesson="12",
        fault="the positive in the denominator",
        allowed=EXACT,
        reference="loop over Yeh et al. 2022, Eq. 6",
    ),
    dict(
        check=decoupled_lightly,
        quantity="decoupled contrastive loss and its gradient",
        lesson="12",
        fault="the positive in the denominator",
        allowed=EXACT,
        reference="DCLLoss",
        peer="lightly",
    ),
    dict(
        check=info_nce_loop,
        quantity="InfoNCE and its gradient",
        lesson="09",
        fault="columns in place of rows",
        allowed=EXACT,
        reference="loop over van den Oord et al. 2018, Eq. 4",
    ),
    dict(
        check=clip_open_clip,
        quantity="CLIP's loss and its gradient",
        lesson="07",
        fault="one direction only",
        allowed=EXACT,
        reference="ClipLoss",
        peer="open_clip_torch",
    ),
    dict(
        check=negative_cosine_lightly,
        quantity="negative cosine and its gradient",
        lesson="10",
        fault="lengths not divided out",
        allowed=EXACT,
        reference="NegativeCosineSimilarity",
        peer="lightly",
    ),
    dict(
        check=barlow_lightly,
        quantity="Barlow Twins and its gradient",
        lesson="10",
        allowed=EXACT,
        fault="standard deviation / (N - 1)",
        reference="BarlowTwinsLoss",
        peer="lightly",
    ),
    dict(
        check=vicreg_loop,
        quantity="VICReg (the paper's variant) and its gradient",
        lesson="10",
        allowed=EXACT,
        fault="variance term halved",
        reference="loop over Bardes et al. 2022, Algorithm 1",
    ),
    dict(
        check=vicreg_lightly,
        quantity="VICReg (the authors' code: variance=12.5) and its gradient",
        lesson="10",
        allowed=EXACT,
        fault="variance term not halved",
        reference="VICRegLoss",
        peer="lightly",
    ),
    # lightly keeps the teacher's temperature in float32, which moves the ninth digit
    dict(
        check=dino_lightly,
        quantity="DINO both ways and its gradient",
        lesson="10",
        allowed=1e-7,
        fault="teacher not centered",
        reference="DINOLoss",
        peer="lightly",
    ),
    dict(
        check=kl_torch,
        quantity="KL of diagonal Gaussians and its gradient",
        lesson="05, 08",
        allowed=EXACT,
        fault="log-variance taken for log standard deviation",
        reference="torch.distributions.kl_divergence",
    ),
]
