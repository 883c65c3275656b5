"""Exercises of lesson 10: Barlow Twins' loss, the stop-gradient's place, a diagnosis from the log of a run."""

import torch
import torch.nn.functional as F

from replearn.lesson.exercises import Exercise


def barlow_loss(z1, z2, off_diagonal):
    """Barlow Twins' loss (Zbontar et al. 2021, Eq. 1): sum_i (1 - C_ii)^2 + off_diagonal * sum_{i != j} C_ij^2.

    C (D, D) is the cross-correlation of the two views: subtract each feature's mean over the batch, divide by
    sqrt(variance + 1e-5) (biased variance: divide by N), then C = z1^T z2 / N. A constant feature has C_ii = 0.
    z1, z2: (N, D), row i of both from one picture. Returns one number.
    """
    z1, z2 = ((z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt() for z in (z1, z2))
    c = z1.T @ z2 / len(z1)  # (D, D)
    on = torch.diagonal(c)
    off = c - torch.diag(on)
    return (1 - on).square().sum() + off_diagonal * off.square().sum()


def _barlow_cases(generator):
    def pair(n, d, noise=0.7):
        z1 = torch.randn(n, d, generator=generator) @ torch.randn(d, d, generator=generator)
        return z1, z1 + noise * torch.randn(n, d, generator=generator)

    z1, z2 = pair(10, 4)
    held = torch.tensor([1.0, 1.0, 0.0, 1.0])  # the third feature says nothing
    return {
        "random pairs": (*pair(8, 5), 0.1),
        "the paper's weight, 0.005": (*pair(12, 6), 0.005),
        "two pictures": (*pair(2, 3), 0.5),
        "features far from 0": (*(z + 20 for z in pair(9, 4)), 0.2),
        "features of very different size": (
            *(z * torch.tensor([0.5, 3.0, 40.0]) for z in pair(9, 3)),
            0.2,
        ),
        "features that hardly vary": (*(0.003 * z for z in pair(9, 4)), 0.2),
        "one feature constant": (z1 * held + 2, z2 * held + 2, 0.3),
        "no off-diagonal term": (*pair(7, 4), 0.0),
    }


def _barlow_loop(z1, z2, off_diagonal):
    n, total = len(z1), 0.0
    for i in range(z1.shape[1]):
        for j in range(z1.shape[1]):
            a, b = z1[:, i] - z1[:, i].sum() / n, z2[:, j] - z2[:, j].sum() / n
            c = (a * b).mean() / ((a.square().mean() + 1e-5) * (b.square().mean() + 1e-5)).sqrt()
            total = total + ((1 - c) ** 2 if i == j else off_diagonal * c**2)
    return total


def _barlow_batch_norm(z1, z2, off_diagonal):
    c = (
        F.batch_norm(z1, None, None, training=True).T
        @ F.batch_norm(z2, None, None, training=True)
        / len(z1)
    )
    target = torch.eye(len(c))
    return ((c - target) ** 2 * (target + off_diagonal * (1 - target))).sum()


def _wrong_barlow(
    center=1,
    correction=0,
    n=len,
    on=lambda c: (1 - c).square(),
    twin=lambda z1, z2: (z1, z2),
    mask=True,
):
    def wrong(z1, z2, off_diagonal):
        z1, z2 = twin(z1, z2)
        z1, z2 = (
            (z - center * z.mean(0)) / (z.var(0, correction=correction) + 1e-5).sqrt()
            for z in (z1, z2)
        )
        c = z1.T @ z2 / n(z1)
        off = c.masked_fill(torch.eye(len(c), dtype=torch.bool), 0) if mask else c
        return on(c.diagonal()).sum() + off_diagonal * off.square().sum()

    return wrong


BARLOW = Exercise(
    solution=barlow_loss,
    cases=_barlow_cases,
    difficulty=2,
    minutes=15,
    gradient_of=(0, 1),
    tolerance=1e-3,
    hints=(
        "Standardize each column of each view over the batch: z.mean(0) and z.var(0, correction=0).",
        "C = z1.T @ z2 / N is (D, D): C_ij correlates feature i of view 1 with feature j of view 2.",
        "torch.diagonal(C) should be 1. Take C minus torch.diag of its diagonal for the rest, and square.",
    ),
    wrong={
        "not centered": _wrong_barlow(center=0),
        "unbiased variance with /N": _wrong_barlow(correction=1),
        "divided by D in place of N": _wrong_barlow(n=lambda z: z.shape[1]),
        "not divided by N": _wrong_barlow(n=lambda z: 1),
        "absolute value in place of square": _wrong_barlow(on=lambda c: (1 - c).abs()),
        "diagonal also in the second sum": _wrong_barlow(mask=False),
        "diagonal pushed to 0": _wrong_barlow(on=lambda c: c.square()),
        "second sum not weighted": lambda z1, z2, off_diagonal: barlow_loss(z1, z2, 1.0),
        "one view with itself": _wrong_barlow(twin=lambda z1, z2: (z1, z1)),
        "pictures in place of features": lambda z1, z2, off_diagonal: barlow_loss(
            z1.T, z2.T, off_diagonal
        ),
        "mean in place of sum": lambda z1, z2, off_diagonal: (
            barlow_loss(z1, z2, off_diagonal) / z1.shape[1]
        ),
        "second view without gradient": lambda z1, z2, off_diagonal: barlow_loss(
            z1, z2.detach(), off_diagonal
        ),
    },
    alternatives=(_barlow_loop, _barlow_batch_norm),
)


def simsiam_loss(p1, z1, p2, z2):
    """SimSiam's loss (Chen & He 2021, Eq. 2 and 4): the mean of -cos(p1, z2) and -cos(p2, z1), each over the batch.

    The targets z1 and z2 are constants: no gradient may reach them, and both p1 and p2 must get theirs.
    p1, p2: predictions (N, D); z1, z2: projections (N, D) of the two views. Returns one number in [-1, 1].
    """
    first = F.cosine_similarity(p1, z2.detach(), dim=1).mean()
    second = F.cosine_similarity(p2, z1.detach(), dim=1).mean()
    return -(first + second) / 2


def _simsiam_cases(generator):
    def four(n, d, noise=1.0):
        z1 = torch.randn(n, d, generator=generator)
        z2, p1, p2 = (z1 + noise * torch.randn(n, d, generator=generator) for _ in range(3))
        return p1, z1, p2, z2

    lengths = torch.linspace(0.5, 8, 6)[:, None]
    p1, z1, p2, z2 = four(6, 4)
    return {
        "random vectors": four(8, 5),
        "one picture": four(1, 3),
        "views that agree": four(6, 4, 0.1),
        "rows of different lengths": (p1 * lengths, z1 * lengths.flip(0), p2 * lengths.flip(0), z2),
    }


def _simsiam_no_grad(p1, z1, p2, z2):
    with torch.no_grad():
        targets = [z / z.norm(dim=1, keepdim=True) for z in (z2, z1)]
    cosines = [
        (p / p.norm(dim=1, keepdim=True) * t).sum(1) for p, t in zip((p1, p2), targets, strict=True)
    ]
    return -torch.cat(cosines).mean()


def _simsiam_distance(p1, z1, p2, z2):
    p, z = F.normalize(torch.cat([p1, p2])), F.normalize(torch.cat([z2, z1])).data
    return (p - z).square().sum(1).mean() / 2 - 1  # |p - z|^2 = 2 - 2 cos


def _wrong_simsiam(
    p=lambda x: x, z=lambda x: x.detach(), swap=False, scale=0.5, cosine=F.cosine_similarity
):
    def wrong(p1, z1, p2, z2):
        z1, z2 = (z2, z1) if swap else (z1, z2)
        return -scale * (cosine(p(p1), z(z2)).mean() + cosine(p(p2), z(z1)).mean())

    return wrong


SIMSIAM = Exercise(
    solution=simsiam_loss,
    cases=_simsiam_cases,
    difficulty=1,
    minutes=10,
    gradient_of=(0, 1, 2, 3),
    hints=(
        "Each prediction is compared with the projection of the other view: p1 with z2, p2 with z1.",
        "z.detach() is z without its history: the loss cannot send a gradient through it.",
        "-(cos(p1, z2.detach()).mean() + cos(p2, z1.detach()).mean()) / 2, with F.cosine_similarity.",
    ),
    wrong={
        "no stop-gradient": _wrong_simsiam(z=lambda x: x),
        "stop-gradient on the prediction": _wrong_simsiam(p=lambda x: x.detach(), z=lambda x: x),
        "stop-gradient on both": _wrong_simsiam(p=lambda x: x.detach()),
        "stopped on one side only": lambda p1, z1, p2, z2: (
            -(F.cosine_similarity(p1, z2.detach()).mean() + F.cosine_similarity(p2, z1).mean()) / 2
        ),
        "each with its own view": _wrong_simsiam(swap=True),
        "one direction": lambda p1, z1, p2, z2: -F.cosine_similarity(p1, z2.detach()).mean(),
        "sum of both": _wrong_simsiam(scale=1.0),
        "positive sign": _wrong_simsiam(scale=-0.5),
        "dot product, lengths kept": _wrong_simsiam(cosine=lambda a, b: (a * b).sum(1)),
        "projections compared, predictor unused": lambda p1, z1, p2, z2: simsiam_loss(
            z1, z1, z2, z2
        ),
    },
    alternatives=(_simsiam_no_grad, _simsiam_distance),
)


def diagnose(log):
    """Name what happened in a run: "healthy", "complete collapse" or "dimensional collapse".

    log: a dict with the lists "loss", "std_ratio" (std of the normalized z times sqrt(D)) and "effective_rank", one
    entry a record, and the number "dimension" (D). Use the mean of the last five records: complete collapse if the
    std ratio is below 0.1; otherwise dimensional collapse if the effective rank is below D / 8; otherwise healthy.
    """
    std_ratio = sum(log["std_ratio"][-5:]) / 5
    rank = sum(log["effective_rank"][-5:]) / 5
    if std_ratio < 0.1:
        return "complete collapse"
    return "dimensional collapse" if rank < log["dimension"] / 8 else "healthy"


def _diagnose_cases(generator):
    def log(std, rank, dimension, loss=(5.0, 1.0), n=20):
        def path(start, end, noise):
            curve = end + (start - end) * torch.exp(-torch.linspace(0, 8, n))
            return (curve * (1 + noise * (2 * torch.rand(n, generator=generator) - 1))).tolist()

        return dict(
            loss=path(*loss, 0.05),
            std_ratio=path(*std, 0.1),
            effective_rank=path(*rank, 0.1),
            dimension=dimension,
        )

    def ending(std, rank):  # the means of the last five records
        whole = log((0.9, 0.9), (40, 40), 64)
        for name, value in (("std_ratio", std), ("effective_rank", rank)):
            whole[name][-5:] = [value * factor for factor in (0.8, 1.2, 1.0, 0.9, 1.1)]
        return whole

    spike = log((0.8, 0.9), (30, 40), 64)
    spike["std_ratio"][-1] = 0.02  # one bad record does not make a collapse
    recovered = log((0.02, 0.9), (1.2, 30), 64)
    return {
        "a first log": (log((0.8, 0.9), (20, 40), 64),),
        "a second log": (log((0.8, 0.01), (20, 1.2), 64, (-0.3, -1.0)),),
        "a third log": (log((0.8, 0.85), (30, 4), 64),),
        "a loss that hardly falls": (log((0.8, 0.9), (30, 35), 64, (4.9, 4.7)),),
        "a narrow head": (log((0.9, 0.9), (5, 6), 8),),
        "a wide head": (log((0.8, 0.8), (60, 16), 512),),
        "a cloud of rounding noise": (log((0.5, 0.001), (20, 40), 64),),
        "one bad record": (spike,),
        "a run that broke near its end": (ending(0.01, 1.1),),
        "a std ratio just above 0.1": (ending(0.11, 40.0),),
        "a std ratio just below 0.1": (ending(0.09, 40.0),),
        "an effective rank just above D / 8": (ending(0.9, 8.4),),
        "an effective rank just below D / 8": (ending(0.9, 7.6),),
        "a run that recovered": (recovered,),
    }


def _diagnose_tensor(log):
    tail = {
        name: torch.tensor(log[name][-5:]).mean().item() for name in ("std_ratio", "effective_rank")
    }
    names = ("healthy", "dimensional collapse", "complete collapse")
    low = 2 * (tail["std_ratio"] < 0.1) or tail["effective_rank"] / log["dimension"] < 1 / 8
    return names[int(low)]


def _diagnose_sums(log):
    std, rank = (sum(list(reversed(log[name]))[:5]) for name in ("std_ratio", "effective_rank"))
    full = rank >= 5 * log["dimension"] / 8
    return "complete collapse" if std < 0.5 else ("healthy" if full else "dimensional collapse")


def _wrong_diagnosis(
    tail=lambda x: x[-5:], rank=lambda log: log["dimension"] / 8, rank_first=False
):
    def wrong(log):
        std, found = (
            sum(tail(log[name])) / len(tail(log[name])) for name in ("std_ratio", "effective_rank")
        )
        complete, dimensional = std < 0.1, found < rank(log)
        if rank_first and dimensional:
            return "dimensional collapse"
        return (
            "complete collapse"
            if complete
            else "dimensional collapse"
            if dimensional
            else "healthy"
        )

    return wrong


DIAGNOSE = Exercise(
    solution=diagnose,
    cases=_diagnose_cases,
    difficulty=1,
    minutes=10,
    hints=(
        "The loss is not needed: a collapsed run can have the best loss of all.",
        "log['std_ratio'][-5:] holds the last five records; take their mean, and that of the effective rank.",
        "First ask for complete collapse (std ratio below 0.1), then compare the rank with dimension / 8.",
    ),
    wrong={
        "judged by the loss": lambda log: (
            "healthy" if log["loss"][-1] < log["loss"][0] - 0.5 else "complete collapse"
        ),
        "the last record only": _wrong_diagnosis(tail=lambda x: x[-1:]),
        "the whole log": _wrong_diagnosis(tail=lambda x: x),
        "the first records": _wrong_diagnosis(tail=lambda x: x[:5]),
        "the same rank for every width": _wrong_diagnosis(rank=lambda log: 10),
        "rank before std": _wrong_diagnosis(rank_first=True),
        "std only": _wrong_diagnosis(rank=lambda log: 0),
        "always healthy": lambda log: "healthy",
    },
    alternatives=(_diagnose_tensor, _diagnose_sums),
)

EXERCISES = [BARLOW, SIMSIAM, DIAGNOSE]
