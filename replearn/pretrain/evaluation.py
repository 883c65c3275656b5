"""What an encoder is worth: probes, few labels, CKA, transfer and audit in one report.

N images to fit on, M to test on, D features, C classes. Accuracies are fractions of the test
images. The encoder is frozen: its weights and buffers are the same afterwards.
"""

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from replearn import _check, metrics, probe
from replearn.audit import FEWEST, audit
from replearn.data import ImageSet, rank_in_class
from replearn.files import writable_folder
from replearn.pretrain.report import AUDITED, write
from replearn.train import cosine

SHOTS = (1, 5, 20)  # labels a class in a report, as far as the classes have so many
VOTES = 20  # of nearest neighbors
TRIED = 128  # images by which the time of a report is estimated
SAME_FIT = 1000  # images up to which a linear probe takes about the same time
AUDIT_PASSES = 14  # as many images as the audit looks at for each of its own


def evaluate(
    encoder: nn.Module,
    train: ImageSet,
    test: ImageSet,
    *,
    supervised: nn.Module | None = None,
    other: tuple[ImageSet, ImageSet] | None = None,
    mixup: float = 0.0,
    seed: int = 0,
    path: str | os.PathLike | None = None,
    callback: Callable[[str], Any] | None = None,
) -> dict[str, Any]:
    """Measure an encoder in all the ways of the course, and return one report.

    Args:
        encoder: Images (N, 3, H, W) in [0, 1] to features (N, D).
        train: What the probes are fitted to.
        test: What they are tested on; the audit needs 21 images or more.
        supervised: An encoder to compare with by CKA.
        other: A training and a test set of something else, to transfer to.
        mixup: Of the SGD probe, see `sgd_probe`.
        seed: Of the SGD probe and of the few labels' draws.
        path: Where to write the report as JSON, whole or not at all.
        callback: Called with the name of each part that is done, see `seconds_of_parts`.

    Returns:
        A dict that JSON can hold: `linear_sgd` and `probe_history` (`sgd_probe`), `linear`
        (`LinearProbe`), `knn` (20 votes), `few_shot` {"1": [mean, std], "5": ..., "20": ...},
        `cka_supervised` (debiased, on test), `transfer` (linear accuracy on `other`), `audit` (of
        the first 2,000 test images), `pictures` {"train", "test"}, `feature_dim`, and `seconds`
        of this call.

    Raises:
        ValueError: The sets are too small, or have too few classes.
        TypeError: An encoder or a set is something else.
        OSError: The report cannot be written; that is found out before the work.

    Example:
        >>> from replearn.data import shapes
        >>> train, test = shapes.render(60, seed=0), shapes.render(30, seed=1)
        >>> encoder = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten())
        >>> report = evaluate(encoder, train, test)
        >>> report["feature_dim"], report["pictures"]
        (48, {'train': 60, 'test': 30})
    """
    began = time.monotonic()
    _check_sets(encoder, train, test, other)
    if path is not None:
        path = Path(path).expanduser()
        writable_folder(path.parent)
    tell = callback or _tell_nobody
    h = probe.extract_features(encoder, train.images)  # (N, D)
    h_test = probe.extract_features(encoder, test.images)  # (M, D)
    features = (h, train.labels, h_test, test.labels)
    tell("features")

    report = {}
    report["linear_sgd"], report["probe_history"] = sgd_probe(*features, mixup=mixup, seed=seed)
    tell("SGD probe")
    report["linear"] = probe.linear_probe(*features)
    tell("linear probe")
    report["knn"] = probe.knn_accuracy(*features, k=min(VOTES, len(train)))
    tell("kNN")
    report["few_shot"] = _few_shot_of_report(*features, seed=seed)
    tell("few labels")
    if supervised is not None:
        theirs = probe.extract_features(supervised, test.images).to(h_test.device)
        report["cka_supervised"] = metrics.linear_cka(h_test, theirs, debiased=True)
    if other:
        report["transfer"] = _transfer(encoder, *other)
        tell("transfer")
    report["audit"] = _audit(encoder, test)
    tell("audit")
    report["pictures"] = {"train": len(train), "test": len(test)}
    report["feature_dim"] = h.shape[1]
    report["seconds"] = round(time.monotonic() - began, 1)
    if path is not None:
        write(path, report)
    return report


def _tell_nobody(part: str) -> None:
    """Stand for a callback where there is none."""


def seconds_of_parts(
    encoder: nn.Module,
    train: ImageSet,
    test: ImageSet,
    *,
    other: tuple[ImageSet, ImageSet] | None = None,
) -> dict[str, float]:
    """Estimate how long the parts of a report take, from a few images and one epoch of a probe.

    Args:
        encoder: As `evaluate` gets it.
        train: N images.
        test: M images.
        other: What is transferred to, or None.

    Returns:
        {name of the part: seconds}, in the order in which `evaluate` tells of them.
    """
    _check_sets(encoder, train, test, other)
    tried = test.images[:TRIED]
    probe.extract_features(encoder, tried[:2])  # kernels are chosen, memory is asked for
    began = time.monotonic()
    h = probe.extract_features(encoder, tried)
    image_seconds = (time.monotonic() - began) / len(tried)
    rows = h[torch.arange(len(train)) % len(h)]  # (N, D): as many as the probes will have
    labels = torch.arange(len(train)) % max(2, len(train.class_names))
    for _ in range(2):  # the first use of an optimizer imports half of PyTorch
        began = time.monotonic()
        sgd_probe(rows, labels, rows[:2], labels[:2], epochs=1)
        epoch_seconds = time.monotonic() - began
        began = time.monotonic()
        probe.LinearProbe().fit(rows[:TRIED], labels[:TRIED])
        fit_seconds = time.monotonic() - began

    audited = min(len(test), AUDITED)
    seconds = {
        "features": (len(train) + len(test)) * image_seconds,
        "SGD probe": 20 * epoch_seconds,
        "linear probe": fit_seconds * max(1.0, len(train) / SAME_FIT),
        "kNN": epoch_seconds,
        "few labels": len(SHOTS) * 5 * fit_seconds,
        "transfer": 0.0,
        "audit": AUDIT_PASSES * audited * image_seconds,
    }
    if other:
        count = len(other[0]) + len(other[1])
        seconds["transfer"] = count * image_seconds + seconds["linear probe"]
    return seconds


def knn_beside(
    encoder: nn.Module, train: ImageSet, test: ImageSet, *, seed: int = 0
) -> dict[str, float]:
    """Return what nearest neighbors reach without any training: the floor of a kNN accuracy.

    Args:
        encoder: The architecture; its weights do not count.
        train: Images with labels, whose neighbors vote.
        test: Images with labels.
        seed: Of the untrained weights.

    Returns:
        `knn_untrained`, a fraction of the test images; `knn_chance`, the share of the most frequent
        class among them; and `knn_pictures`, how many they are.
    """
    untrained = random_like(encoder, seed=seed)
    device = next(untrained.parameters()).device
    train = train.to(device)
    test = test.to(device)
    h = probe.extract_features(untrained, train.images)
    h_test = probe.extract_features(untrained, test.images)
    k = min(VOTES, len(train))
    return {
        "knn_untrained": probe.knn_accuracy(h, train.labels, h_test, test.labels, k=k),
        "knn_chance": test.chance,
        "knn_pictures": len(test),
    }


def _check_sets(
    encoder: nn.Module, train: ImageSet, test: ImageSet, other: tuple[ImageSet, ImageSet] | None
) -> None:
    if not isinstance(encoder, nn.Module):
        raise TypeError(
            f"encoder: expected a network, found {type(encoder).__name__}; models.load(name) "
            "gives one"
        )
    sets = [train, test, *(other or ())]
    if len(sets) not in (2, 4) or not all(isinstance(images, ImageSet) for images in sets):
        kinds = ", ".join(type(images).__name__ for images in sets)
        raise TypeError(
            "train, test, other: expected an ImageSet, another one, and a pair of them or None, "
            f"found {kinds}"
        )
    for name, images in zip(("train", "test", "other[0]", "other[1]"), sets, strict=False):
        images.require_labels(name)
    if len(test) <= FEWEST:
        raise ValueError(
            f"test: expected {FEWEST + 1} pictures or more, for the audit, found {len(test)}"
        )


def _few_shot_of_report(
    z_train: torch.Tensor,
    y_train: torch.Tensor,
    z_test: torch.Tensor,
    y_test: torch.Tensor,
    *,
    seed: int,
) -> dict[str, list[float]]:
    """Return the accuracies with few labels as JSON has them: names and lists."""
    smallest = y_train.unique(return_counts=True)[1].min()
    shots = [n for n in SHOTS if n <= smallest]
    scores = few_shot(z_train, y_train, z_test, y_test, shots=shots, seed=seed)
    return {str(n): list(mean_and_std) for n, mean_and_std in scores.items()}


def _transfer(encoder: nn.Module, train: ImageSet, test: ImageSet) -> float:
    h = probe.extract_features(encoder, train.images)
    h_test = probe.extract_features(encoder, test.images)
    return probe.linear_probe(h, train.labels, h_test, test.labels)


def _audit(encoder: nn.Module, test: ImageSet) -> dict[str, Any]:
    """Return the numbers of the audit card, as they will be when the report is read again."""
    report = audit(encoder, test.images[:AUDITED], test.labels[:AUDITED])
    # A constant encoder has -infinity there, which JSON does not know.
    report["invariance"] = {name: max(-1e6, score) for name, score in report["invariance"].items()}
    return json.loads(json.dumps(report))  # pairs become lists


def sgd_probe(
    z_train: torch.Tensor,
    y_train: torch.Tensor,
    z_test: torch.Tensor,
    y_test: torch.Tensor,
    *,
    epochs: int = 20,
    lr: float = 0.1,
    weight_decay: float = 1e-4,
    mixup: float = 0.0,
    batch_size: int = 256,
    seed: int = 0,
) -> tuple[float, list[float]]:
    r"""Fit a softmax regression by SGD with momentum 0.9 and a cosine to rate 0, and test it.

    With mixup a batch is replaced by mixtures of its images' features and targets,

    .. math:: \tilde z_i = \lambda z_i + (1 - \lambda) z_{\pi(i)}, \quad
              \tilde t_i = \lambda t_i + (1 - \lambda) t_{\pi(i)}, \quad
              \lambda \sim \mathrm{Beta}(\alpha, \alpha),

    with one :math:`\lambda` and one permutation :math:`\pi` a batch.

    Args:
        z_train: Features (N, D); they are standardized here.
        y_train: Integer labels (N,) of two or more classes.
        z_test: Features (M, D).
        y_test: Integer labels (M,); one that was never seen in training counts as wrong.
        epochs: Passes over the training set.
        lr: The highest learning rate.
        weight_decay: Of weights and biases.
        mixup: :math:`\alpha`; 0: no mixup.
        batch_size: Rows a step; an incomplete last batch counts.
        seed: Of first weights, order and mixtures.

    Returns:
        The accuracy at the end (a fraction), and that after each epoch.

    Raises:
        ValueError: Shapes that do not fit, NaN, a single class, or a rate that is too high.
        TypeError: Features or labels of another type.

    References:
        Zhang et al. 2018, Eq. 1 (mixup), here on frozen features.

    Example:
        >>> z = torch.tensor([[0.0, 1.0], [0.1, 0.9], [1.0, 0.0], [0.9, 0.1]])
        >>> y = torch.tensor([0, 0, 1, 1])
        >>> accuracy, history = sgd_probe(z, y, z, y)
        >>> accuracy, len(history)
        (1.0, 20)
    """
    _check_probe(z_train, y_train, z_test, y_test)
    _at_least("epochs", epochs, 1)
    _at_least("batch_size", batch_size, 1)
    _at_least("lr", lr, 0)
    _at_least("weight_decay", weight_decay, 0)
    _at_least("mixup", mixup, 0)
    mean, scale = probe.standardization(z_train.float())
    x = (z_train.float() - mean) * scale
    x_test = (z_test.float() - mean) * scale
    classes, index = y_train.to(x.device).unique(return_inverse=True)
    target = F.one_hot(index).to(x)  # (N, C)
    generator = torch.Generator().manual_seed(seed)
    mixup_generator = np.random.default_rng(seed)

    first_weights = 0.01 * torch.randn(len(classes), x.shape[1], generator=generator)
    w = first_weights.to(x).requires_grad_()  # (C, D)
    b = torch.zeros(len(classes)).to(x).requires_grad_()
    optimizer = torch.optim.SGD([w, b], lr=lr, momentum=0.9, weight_decay=weight_decay)
    steps = epochs * math.ceil(len(x) / batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine(step, steps))
    history = []
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator).to(x.device)
        for rows in order.split(batch_size):
            inputs, targets = _mixed(x[rows], target[rows], mixup, mixup_generator)
            optimizer.zero_grad()
            F.cross_entropy(inputs @ w.T + b, targets).backward()
            optimizer.step()
            schedule.step()
        if not torch.isfinite(w.detach().sum()):
            raise ValueError(
                f"lr: expected a rate at which the probe converges, found {lr:g}: try a tenth of it"
            )
        predicted = classes[(x_test @ w.detach().T + b.detach()).argmax(1)]
        correct = predicted == y_test.to(x.device)
        history.append(correct.sum().item() / len(correct))
    return history[-1], history


def _mixed(
    x: torch.Tensor, target: torch.Tensor, alpha: float, generator: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features and targets, each mixed with those of another row."""
    if not alpha:
        return x, target
    share = generator.beta(alpha, alpha)
    other = torch.from_numpy(generator.permutation(len(x))).to(x.device)
    mixed_x = share * x + (1 - share) * x[other]
    mixed_target = share * target + (1 - share) * target[other]
    return mixed_x, mixed_target


def few_shot(
    z_train: torch.Tensor,
    y_train: torch.Tensor,
    z_test: torch.Tensor,
    y_test: torch.Tensor,
    *,
    shots: Sequence[int] = (1, 5, 20),
    draws: int = 5,
    seed: int = 0,
) -> dict[int, tuple[float, float]]:
    """Return the accuracy of linear probes on a few labels a class, over random draws of them.

    Args:
        z_train: Features (N, D).
        y_train: Integer labels (N,).
        z_test: Features (M, D).
        y_test: Integer labels (M,).
        shots: Labels a class.
        draws: How often so many are drawn.
        seed: Of the draws.

    Returns:
        {shots: (mean, std)} of the accuracy (a fraction); std is that of single draws, 0.0 for one.

    Raises:
        ValueError: A class has too few images; shapes that do not fit, NaN, or a single class.
        TypeError: Features or labels of another type.

    Example:
        >>> z = torch.tensor([[0.0, 1.0], [0.1, 0.9], [1.0, 0.0], [0.9, 0.1]])
        >>> y = torch.tensor([0, 0, 1, 1])
        >>> few_shot(z, y, z, y, shots=[1], draws=3)
        {1: (1.0, 0.0)}
    """
    _check_probe(z_train, y_train, z_test, y_test)
    _at_least("shots", min(shots, default=0), 1)
    _at_least("draws", draws, 1)
    classes = y_train.cpu().unique(return_inverse=True)[1].numpy()
    smallest = np.bincount(classes).min()
    if smallest < max(shots):
        raise ValueError(
            f"shots: expected at most {smallest}, the pictures of the smallest class, found "
            f"{max(shots)}"
        )
    # The rank of each image in a random order of its class: the first n places are a draw of n.
    ranks = [torch.from_numpy(rank_in_class(classes, [seed, draw])) for draw in range(draws)]
    results = {}
    for n in shots:
        accuracies = []
        for rank in ranks:
            rows = (rank < n).nonzero()[:, 0]  # (n C,)
            z = z_train[rows.to(z_train.device)]
            y = y_train[rows.to(y_train.device)]
            accuracies.append(probe.LinearProbe().fit(z, y).score(z_test, y_test))
        spread = np.std(accuracies, ddof=1).item() if draws > 1 else 0.0
        results[n] = (np.mean(accuracies).item(), spread)
    return results


def _at_least(name: str, value: float, low: float) -> None:
    if not low <= value < math.inf:  # NaN fails every comparison
        raise ValueError(f"{name}: expected {low} or more, found {value}")


def _check_probe(
    z_train: torch.Tensor, y_train: torch.Tensor, z_test: torch.Tensor, y_test: torch.Tensor
) -> None:
    _check.finite("z_train", z_train, min_rows=2)
    _check.labels("y_train", y_train, len(z_train))
    _check.finite("z_test", z_test)
    _check.labels("y_test", y_test, len(z_test))
    _check.same_shape("z_train[0]", z_train[0], "z_test[0]", z_test[0])
    if (y_train == y_train[0]).all():
        raise ValueError(f"y_train: expected two or more classes, found only {y_train[0].item()}")


def random_like(encoder: nn.Module, *, seed: int = 0) -> nn.Module:
    """Return an untrained encoder of the same architecture: what trained features have to beat.

    Args:
        encoder: Any network; it stays as it is.
        seed: Of the new weights.

    Returns:
        A new encoder in eval mode, on the same device.

    Example:
        >>> encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
        >>> twin = random_like(encoder)
        >>> twin[1].weight.shape, torch.equal(twin[1].weight, encoder[1].weight)
        (torch.Size([2, 12]), False)
    """
    twin = deepcopy(encoder)
    drawn = set()  # parameters of which a module knows how to draw them
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for module in twin.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
                drawn.update(module.parameters(recurse=False))
            if isinstance(module, nn.Conv2d):  # as in models.small_cnn and resnet18
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        # Tokens and positions: nothing says how to draw them, but their order is learned.
        for parameter in twin.parameters():
            if parameter not in drawn:
                order = torch.randperm(parameter.numel()).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return twin.eval()
