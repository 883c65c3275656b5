"""Fine-tuning: labels teach a head, and then, if wanted, the whole encoder.

N images to train on, M to test on, D features, C classes.
"""

import os
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from replearn import models
from replearn.augment import random_resized_crop
from replearn.data import ImageSet
from replearn.files import explained, writable_folder
from replearn.pretrain import checkpoint
from replearn.probe import LinearProbe, extract_features
from replearn.train import fit

MOST_CLASSES_SHOWN = 20


class Finetuned(NamedTuple):
    """What fine-tuning gives.

    Args:
        encoder: Images to h (N, D), in eval mode; a new network.
        head: h to logits (N, C).
        class_names: Of the C classes.
        report: What JSON can hold: `head_only`, `pictures` {"train", "test"}, `before` and `after`
            (fractions of the test images: the linear probe of the encoder as it was, and the
            result), `classes` {name: [test images, before, after]}, and `worse`, the names of the
            classes in which fewer test images are right than before.
    """

    encoder: nn.Module
    head: nn.Linear
    class_names: tuple[str, ...]
    report: dict[str, Any]


def finetune(
    encoder: nn.Module,
    train: ImageSet,
    test: ImageSet,
    *,
    head_only: bool = False,
    epochs: float = 20,
    batch_size: int = 64,
    lr: float = 1e-3,
    backbone_lr: float = 1e-4,
    weight_decay: float = 1e-4,
    crop: tuple[float, float] = (0.8, 1.0),
    flip: float = 0.5,
    seed: int = 0,
) -> Finetuned:
    """Teach an encoder classes: first a head, by a linear probe, then all of it.

    The head begins as the probe's solution, so the encoder is not torn apart by the gradients of a
    random one. BatchNorm keeps the statistics of the pretraining: those of a few labeled images
    would be noise.

    Args:
        encoder: Images (N, 3, H, H) in [0, 1] to h (N, D); it stays as it is.
        train: Images of every class with labels, two classes or more.
        test: Images with labels of the same classes.
        head_only: Stop after the head; the encoder is a copy of the given one.
        epochs: Passes over the training images.
        batch_size: Images a step; all of them where there are fewer.
        lr: The highest learning rate of the head, by AdamW.
        backbone_lr: That of the encoder.
        weight_decay: Of both.
        crop: The range of areas that a training image shows.
        flip: The probability that a training image is mirrored.
        seed: Of the order and the crops.

    Returns:
        The new encoder, its head, and the report.

    Raises:
        ValueError: A set has no labels, a class has no training images, a number makes no sense,
            or the loss is not finite.

    References:
        Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform
        Out-of-Distribution": first a linear probe, then all.

    Example:
        >>> from replearn.data import shapes
        >>> train, test = shapes.render(60, seed=0), shapes.render(30, seed=1)
        >>> result = finetune(models.small_cnn(4), train, test, head_only=True)
        >>> result.head.weight.shape, result.report["before"] == result.report["after"]
        (torch.Size([10, 64]), True)
    """
    _check(train, test, epochs, batch_size, dict(lr=lr, backbone_lr=backbone_lr))
    _check_not_negative(weight_decay=weight_decay)
    h = extract_features(encoder, train.images)  # (N, D)
    probe = LinearProbe().fit(h, train.labels)
    encoder = deepcopy(encoder).requires_grad_(True)
    head = nn.Linear(h.shape[1], len(train.class_names)).to(h.device)
    with torch.no_grad():
        head.weight.copy_(probe.coef_)
        head.bias.copy_(probe.intercept_)
    before = _right(encoder, head, test)

    if not head_only:
        groups = [
            {"params": list(head.parameters()), "lr": lr},
            {"params": list(encoder.parameters()), "lr": backbone_lr},
        ]
        generator = torch.Generator().manual_seed(seed)
        batch_size = min(batch_size, len(train))

        def loss_fn(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            encoder.eval()  # BatchNorm; `fit` has put it in train mode
            x = random_resized_crop(x, scale=crop, flip=flip, generator=generator)
            return F.cross_entropy(head(encoder(x)).float(), y)

        with torch.random.fork_rng(_gpus(h.device)):
            torch.manual_seed(seed)
            fit(
                loss_fn,
                [encoder, head],
                train.images,
                train.labels,
                steps=max(1, round(epochs * len(train) / batch_size)),
                batch_size=batch_size,
                optimizer=torch.optim.AdamW(groups, weight_decay=weight_decay),
                generator=torch.Generator().manual_seed(seed),
                text="fine-tuning",
            )
    after = _right(encoder, head, test)
    report = _report(train, test, before, after) | {"head_only": head_only}
    encoder.eval().requires_grad_(False)
    head.requires_grad_(False)
    return Finetuned(encoder, head, train.class_names, report)


def _gpus(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _check(
    train: ImageSet, test: ImageSet, epochs: float, batch_size: int, rates: dict[str, float]
) -> None:
    present = set(train.require_labels("train").unique().tolist())
    test.require_labels("test")
    if len(train.class_names) < 2:
        raise ValueError(f"train: expected two classes or more, found {list(train.class_names)}")
    if train.class_names != test.class_names:
        raise ValueError(
            f"test: expected the classes {list(train.class_names)}, found {list(test.class_names)}"
        )
    for label, name in enumerate(train.class_names):
        if label not in present:
            raise ValueError(f"train: expected pictures of every class, found none of {name!r}")
    if batch_size < 2:
        raise ValueError(f"batch_size: expected 2 or more, found {batch_size}")
    for name, value in {"epochs": epochs, **rates}.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name}: expected a number above 0, found {value}")


def _check_not_negative(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name}: expected a number of 0 or more, found {value}")


@torch.no_grad()
def _right(encoder: nn.Module, head: nn.Linear, test: ImageSet) -> torch.Tensor:
    """Return for each test image whether it is classified rightly, (M,) on the CPU."""
    h = extract_features(encoder, test.images)
    return (head(h).argmax(1).cpu() == test.labels.cpu()).double()


def _report(
    train: ImageSet, test: ImageSet, before: torch.Tensor, after: torch.Tensor
) -> dict[str, Any]:
    classes = {}
    worse = []
    labels = test.labels.cpu()
    for label, name in enumerate(train.class_names):
        members = labels == label
        if not members.any():
            continue
        then = before[members].mean().item()
        now = after[members].mean().item()
        classes[name] = [int(members.sum()), then, now]
        if now < then:
            worse.append(name)
    return {
        "pictures": {"train": len(train), "test": len(test)},
        "before": before.mean().item(),
        "after": after.mean().item(),
        "classes": classes,
        "worse": worse,
    }


def table(report: dict[str, Any]) -> str:
    """Return a report as text: test accuracies in percent before and after, all and by class.

    Args:
        report: Of `finetune`.

    Returns:
        The table, with the word "worse" where an accuracy fell. With more than 20 classes only
        those that fell are in it.

    Example:
        >>> classes = {"cat": [4, 0.5, 1.0], "dog": [4, 0.75, 0.5]}
        >>> report = dict(before=0.625, after=0.75, classes=classes, worse=["dog"])
        >>> report |= dict(pictures=dict(train=8, test=8))
        >>> print(table(report))
        class  test pictures   before    after
        all                8     62.5     75.0
        cat                4     50.0    100.0
        dog                4     75.0     50.0  worse
    """
    classes = report["classes"]
    if len(classes) > MOST_CLASSES_SHOWN:
        classes = {name: classes[name] for name in report["worse"]}
    rows = {"all": [report["pictures"]["test"], report["before"], report["after"]], **classes}
    width = max(len("class"), *map(len, rows))
    lines = [f"{'class':{width}}{'test pictures':>15}{'before':>9}{'after':>9}"]
    for name, (count, before, after) in rows.items():
        line = f"{name:{width}}{count:15,}{100 * before:9.1f}{100 * after:9.1f}"
        lines.append(line + ("  worse" if after < before else ""))
    return "\n".join(lines)


def warning(report: dict[str, Any]) -> str | None:
    """Return a sentence about where it got worse, or None.

    Args:
        report: Of `finetune`.
    """
    names = report["worse"]
    if report["after"] < report["before"]:
        return (
            f"fine-tuning made it worse: {report['after']:.1%} of the test pictures are right, "
            f"{report['before']:.1%} before; try --head-only, a lower --backbone-lr, fewer --epochs"
        )
    if names:
        few = ", ".join(names[:5])
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        return f"fewer test pictures than before are right in {few}{more}"
    return None


def writable(folder: str | os.PathLike) -> Path:
    """Return a folder for a fine-tuned encoder, made if it is missing; before the work.

    Args:
        folder: A new folder, or that of an earlier fine-tuning, which will be replaced.

    Raises:
        ValueError: It is the folder of a pretraining, or has another encoder in it.
        OSError: It cannot be written to.
    """
    folder = Path(folder).expanduser()
    has_encoder = (folder / "encoder.json").exists()
    if (folder / checkpoint.LAST).exists() or (
        has_encoder and "finetuned" not in models.card(folder)
    ):
        raise ValueError(
            f"{folder}: expected a new folder or that of a fine-tuning, found another encoder or "
            "run in it; choose another one with --folder"
        )
    return writable_folder(folder)


def save(
    folder: Path,
    result: Finetuned,
    *,
    card: dict[str, Any],
    data: str,
    settings: dict[str, Any],
) -> None:
    """Write a fine-tuned encoder in the usual form, with its head beside it.

    Args:
        folder: From `writable`.
        result: From `finetune`.
        card: That of the encoder before, which gives architecture and side.
        data: What the labels came from, as `replearn.data.load` takes it.
        settings: How it was trained, for the card.

    Raises:
        OSError: The disk is full or does not let us write.
    """
    about = {name: card[name] for name in ("architecture", "side", "recipe") if name in card}
    report = result.report
    with explained(folder, "save the encoder"):
        head = models.save_head(
            folder / "encoder", result.head.weight, result.head.bias, result.class_names
        )
        models.save(
            result.encoder,
            folder / "encoder",
            **about,
            data=data,
            head=head,
            scores={"accuracy": report["after"]},
            finetuned={**settings, **report, "from": {"sha256": card["sha256"]}},
        )
