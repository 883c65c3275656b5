"""How a run is doing: scores on the way, and what is said when its loss is not finite any more."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from replearn.data import ImageSet
from replearn.metrics import collapse_meter
from replearn.pretrain.step import Run
from replearn.probe import extract_features, knn_accuracy

MOST_IMAGES = 1000  # for the collapse meter, whose effective rank wants all of z at once


def measure(run: Run, knn: tuple[ImageSet, ImageSet] | None) -> dict[str, float]:
    """Return the collapse meter of z and, if there are labels, the kNN accuracy of h.

    Args:
        run: Any run; nothing of it changes.
        knn: A training and a test set on the run's device, or None.

    Returns:
        std, std_uniform, mean_cosine and effective_rank of z; and knn, a fraction of the test set.
    """
    encoder, projector = run.kept
    with run.autocast():
        if knn:
            train, test = knn
            h = extract_features(encoder, test.images)
            h_train = extract_features(encoder, train.images)
        else:
            h = extract_features(encoder, run.batches.images[:MOST_IMAGES])
        scores = collapse_meter(extract_features(projector, h[:MOST_IMAGES]))
    if knn:
        k = min(20, len(train))
        scores["knn"] = knn_accuracy(h_train, train.labels, h, test.labels, k=k)
    return scores


def mean_loss(losses: list[torch.Tensor]) -> float:
    """Return the mean of some steps' losses; waits for the device.

    Args:
        losses: Tensors () on one device.

    Returns:
        The mean (nats).

    Raises:
        ValueError: It is not finite.

    Example:
        >>> mean_loss([torch.tensor(1.0), torch.tensor(2.0)])
        1.5
    """
    loss = torch.stack(losses).mean().item()
    if not math.isfinite(loss):
        raise ValueError("loss: NaN or infinity")
    return loss


def check_weights(run: Run) -> None:
    """Raise if a weight is not finite: such a network must never be saved.

    Args:
        run: Any run.

    Raises:
        ValueError: A weight is NaN or infinite.
    """
    are_finite = [torch.isfinite(weight).all() for weight in run.trained]
    if not torch.stack(are_finite).all():  # waits for a GPU once, not once a weight
        raise ValueError("weights: NaN or infinity")


@contextmanager
def diagnosed(run: Run) -> Iterator[None]:
    """Turn an error about NaN or infinity inside the block into a diagnosis of the run.

    Args:
        run: The run that the block trains or measures.

    Raises:
        ValueError: With the step, the settings that matter, and what to try.
    """
    try:
        yield
    except ValueError as error:
        if "NaN or infinity" not in str(error):
            raise
        raise ValueError(_diagnosis(run)) from error


def _diagnosis(run: Run) -> str:
    dtype = run.dtype or torch.float32
    last_loss = "none yet"
    if run.history:
        last = run.history[-1]
        last_loss = f"{last['loss']:.3f} at step {last['step']}"
    kept = f"; the last checkpoint in {run.folder} is kept" if run.folder else ""
    return (
        f"step {run.step}: the loss is not finite any more (lr {run.lr:.3g}, temperature "
        f"{run.recipe.temperature:g}, {dtype}; last finite loss: {last_loss}). Try a third of the "
        f"lr, a longer warmup or a higher temperature{kept}"
    )
