"""What an encoder is worth: probes, few labels, CKA, transfer, audit in one report. N pictures, D features, C classes.

Accuracies are fractions of the test pictures. The encoder is frozen: its weights and buffers are the same afterwards.
"""

import hashlib
import json
import math
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from replearn import _check, metrics, models, probe
from replearn.audit import FEWEST, audit
from replearn.data import ImageSet, place
from replearn.pretrain import checkpoint
from replearn.pretrain.recipe import Recipe, networks
from replearn.pretrain.report import AUDITED, compare, gallery, probe_curve, write
from replearn.train import cosine

__all__ = [
    "compare",
    "encoder_path",
    "evaluate",
    "few_shot",
    "gallery",
    "load_encoder",
    "probe_curve",
    "random_like",
    "sgd_probe",
]


def sgd_probe(
    z_train,
    y_train,
    z_test,
    y_test,
    *,
    epochs=20,
    lr=0.1,
    weight_decay=1e-4,
    mixup=0.0,
    batch_size=256,
    seed=0,
):
    """Return (accuracy, history): softmax regression by SGD, momentum 0.9, a cosine to lr 0; accuracy of each epoch.

    z_train (N, D), z_test (M, D), standardized here; y: integers. mixup > 0: with lam from Beta(mixup, mixup), a batch
    is lam x + (1 - lam) x', x' the batch in another order, targets likewise (Zhang et al. 2018, Eq. 1, here on frozen
    features). A label never seen in training counts as wrong. Raises: ValueError, TypeError for bad input."""
    _check_probe(z_train, y_train, z_test, y_test)
    _at_least(1, epochs=epochs, batch_size=batch_size)
    _at_least(0, lr=lr, weight_decay=weight_decay, mixup=mixup)
    x, x_test = _standardized(z_train, z_test)
    classes, target = y_train.to(x.device).unique(return_inverse=True)
    target, draw, mix = (
        F.one_hot(target).to(x),
        torch.Generator().manual_seed(seed),
        np.random.default_rng(seed),
    )
    w = (
        (0.01 * torch.randn(len(classes), x.shape[1], generator=draw)).to(x).requires_grad_()
    )  # (C, D)
    b = torch.zeros(len(classes)).to(x).requires_grad_()
    steps, history = epochs * math.ceil(len(x) / batch_size), []
    optimizer = torch.optim.SGD([w, b], lr=lr, momentum=0.9, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine(step, steps))
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=draw).to(x.device).split(batch_size):
            inputs, wanted = _mixed(x[rows], target[rows], mixup, mix)
            optimizer.zero_grad()
            F.cross_entropy(inputs @ w.T + b, wanted).backward()
            optimizer.step()
            schedule.step()
        if not torch.isfinite(w.detach().sum()):
            raise ValueError(
                f"lr: expected a rate at which the probe converges, found {lr:g}: try a tenth of it"
            )
        said = classes[(x_test @ w.detach().T + b.detach()).argmax(1)]
        history.append((said == y_test.to(x.device)).double().mean().item())
    return history[-1], history


def _mixed(x, target, alpha, generator):
    if not alpha:
        return x, target
    share, other = (
        generator.beta(alpha, alpha),
        torch.from_numpy(generator.permutation(len(x))).to(x.device),
    )
    return share * x + (1 - share) * x[other], share * target + (1 - share) * target[other]


def _standardized(z_train, z_test):
    mean, std = z_train.float().mean(0), z_train.float().std(0, correction=0)
    scale = torch.where(
        std > 1e-6 * mean.abs(), 1 / std, 1.0
    )  # a dead unit must not become amplified noise
    return (z_train.float() - mean) * scale, (z_test.float() - mean) * scale


def _at_least(low, **values):
    for name, value in values.items():
        if not low <= value < math.inf:  # NaN fails every comparison
            raise ValueError(f"{name}: expected {low} or more, found {value}")


def _check_probe(z_train, y_train, z_test, y_test):
    _check.labels("y_train", y_train, len(_check.finite("z_train", z_train, min_rows=2)))
    _check.labels("y_test", y_test, len(_check.finite("z_test", z_test)))
    _check.same_shape("z_train[0]", z_train[0], "z_test[0]", z_test[0])
    if (y_train == y_train[0]).all():
        raise ValueError(f"y_train: expected two or more classes, found only {y_train[0].item()}")


def few_shot(z_train, y_train, z_test, y_test, *, shots=(1, 5, 20), draws=5, seed=0):
    """Return {shots: (mean, std)}: accuracy of a LinearProbe on so many labeled pictures a class, over random draws.

    z: (N, D) and (M, D); std: of single draws, 0.0 for one. Raises: ValueError if a class has too few, TypeError."""
    _check_probe(z_train, y_train, z_test, y_test)
    _at_least(1, shots=min(shots, default=0), draws=draws)
    target = y_train.cpu().unique(return_inverse=True)[1].numpy()
    if (most := np.bincount(target).min()) < max(shots):
        raise ValueError(
            f"shots: expected at most {most}, the pictures of the smallest class, found {max(shots)}"
        )
    places, results = [torch.from_numpy(place(target, [seed, draw])) for draw in range(draws)], {}
    for n in shots:
        some = [(place < n).nonzero()[:, 0] for place in places]  # (n * C,) each
        fits = [
            probe.LinearProbe().fit(z_train[i.to(z_train.device)], y_train[i.to(y_train.device)])
            for i in some
        ]
        scores = np.array([fit.score(z_test, y_test) for fit in fits])
        results[n] = scores.mean().item(), scores.std(ddof=1).item() if draws > 1 else 0.0
    return results


def random_like(encoder, *, seed=0):
    """Return an untrained encoder of the same architecture, in eval mode: the baseline that features have to beat."""
    twin = deepcopy(encoder)
    own = {
        id(p)
        for m in twin.modules()
        if hasattr(m, "reset_parameters")
        for p in m.parameters(recurse=False)
    }
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for module in twin.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
            if isinstance(module, nn.Conv2d):  # as in models.small_cnn and resnet18
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for p in (
            twin.parameters()
        ):  # tokens, positions: nothing says how to draw them, but their order is learned
            if id(p) not in own:
                p.copy_(p.flatten()[torch.randperm(p.numel()).to(p.device)].view_as(p))
    return twin.eval()


def encoder_path(name):
    """Return what models.card knows it by: a shipped name, a path of `models.save`, or a pretraining folder's."""
    path = Path(name).expanduser()
    inside = (path / "encoder.json").exists()
    return str(
        path / "encoder"
        if inside
        else path.with_suffix("")
        if path.suffix == ".safetensors"
        else path
    )


def load_encoder(name):
    """Return a shipped encoder, one that `models.save` wrote (its path), or that of a pretraining folder, in eval mode.

    Raises ValueError for an unknown, damaged or foreign file, OSError if it cannot be read."""
    name = encoder_path(name)
    about = models.card(name)
    try:
        if not about["architecture"][0].startswith("timm:"):
            return models.load(name)
        tensors, digest = (
            load_file(about["path"]),
            hashlib.sha256(Path(about["path"]).read_bytes()).hexdigest(),
        )
        encoder = networks(Recipe(**about["recipe"]))[0]
        encoder.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"{name}.json: expected the card and the weights of one encoder, as models.save writes them, "
            f"found {type(error).__name__}: {str(error)[:80]}"
        ) from error
    if digest != about["sha256"]:
        raise ValueError(
            f"{about['path']}: expected SHA-256 {about['sha256'][:12]}…: damaged, fetch it again"
        )
    return encoder.eval()


def evaluate(encoder, train, test, *, supervised=None, other=None, mixup=0.0, seed=0, path=None):
    """Return a report on an encoder, a dict good for JSON; `path`: also written there, whole or not at all.

    train, test: ImageSets; supervised: an encoder to compare with; other: (train, test) of another set. Keys:
    linear_sgd and probe_history (`sgd_probe`), linear (LinearProbe), knn (20 votes), few_shot {"1": [mean, std], "5",
    "20", as far as classes have so many}, cka_supervised (debiased, on test), transfer (linear accuracy on `other`),
    audit (of the first 2,000 test pictures), pictures {"train", "test"}, feature_dim, seconds (of this call).
    Raises: ValueError for bad input, TypeError for another type, OSError if the file cannot be written."""
    start, sets = time.monotonic(), (train, test, *(other or ()))
    _check_sets(encoder, sets)
    folder = path and checkpoint.prepare(
        Path(path).expanduser().parent
    )  # before the work, not after it
    h = [probe.extract_features(encoder, s.images) for s in sets]  # (N, D)
    features = h[0], train.labels, h[1], test.labels
    report = dict(
        zip(
            ("linear_sgd", "probe_history"),
            sgd_probe(*features, mixup=mixup, seed=seed),
            strict=True,
        )
    )
    report |= dict(
        linear=probe.linear_probe(*features),
        knn=probe.knn_accuracy(*features, k=min(20, len(train))),
    )
    smallest = train.labels.unique(return_counts=True)[1].min()
    few = few_shot(*features, shots=[n for n in (1, 5, 20) if n <= smallest], seed=seed)
    report["few_shot"] = {str(n): list(scores) for n, scores in few.items()}
    if supervised is not None:
        theirs = probe.extract_features(supervised, test.images).to(h[1].device)
        report["cka_supervised"] = metrics.linear_cka(h[1], theirs, debiased=True)
    if other:
        report["transfer"] = probe.linear_probe(h[2], other[0].labels, h[3], other[1].labels)
    report["audit"] = _audited(encoder, test)
    report |= dict(
        pictures=dict(train=len(train), test=len(test)),
        feature_dim=h[0].shape[1],
        seconds=round(time.monotonic() - start, 1),
    )
    if path:
        write(folder / Path(path).name, report)
    return report


def _audited(encoder, test):
    """The audit card's numbers; a constant encoder's -infinity becomes a number that JSON knows."""
    report = audit(encoder, test.images[:AUDITED], test.labels[:AUDITED])
    report["invariance"] = {name: max(-1e6, score) for name, score in report["invariance"].items()}
    return json.loads(json.dumps(report))  # pairs become lists, as they will be when read again


def _check_sets(encoder, sets):
    if not isinstance(encoder, nn.Module):
        raise TypeError(
            f"encoder: expected a network, found {type(encoder).__name__}; load_encoder(name) gives one"
        )
    if len(sets) not in (2, 4) or not all(isinstance(s, ImageSet) for s in sets):
        raise TypeError(
            "train, test, other: expected an ImageSet, another one, and a pair of them or None, found "
            f"{', '.join(type(s).__name__ for s in sets)}"
        )
    if len(sets[1]) <= FEWEST:
        raise ValueError(
            f"test: expected {FEWEST + 1} pictures or more, for the audit, found {len(sets[1])}"
        )
