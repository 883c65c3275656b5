"""How many steps a run has: those of its epochs, or as many as fit into its minutes."""

import time

from replearn._progress import counted, say
from replearn.data import ImageSet
from replearn.pretrain import distributed
from replearn.pretrain.monitoring import measure
from replearn.pretrain.state import position_of, restore, tensors_of
from replearn.pretrain.step import Run, train_step

MOST_TRIALS = 200
TRIAL_SECONDS = 3.0
FEWEST_STEPS = 100  # by judgment, not measured: lesson 06 learns from 150 steps on shapes


def too_short(steps: int) -> str | None:
    """Return a warning if so few steps hardly teach anything, or None.

    Args:
        steps: Of a run.

    Example:
        >>> too_short(26).split(";")[0]
        'warning: 26 steps are hardly enough to learn anything'
    """
    if steps >= FEWEST_STEPS:
        return None
    return (
        f"warning: {counted(steps, 'step')} are hardly enough to learn anything; {FEWEST_STEPS} "
        "are a beginning: more --epochs, more --minutes, or a smaller --batch-size"
    )


def plan_steps(
    run: Run, *, knn: tuple[ImageSet, ImageSet] | None, knn_every: float, began: float
) -> int:
    """Return the number of steps of a run; with `recipe.minutes` it tries some and undoes them.

    Args:
        run: A run at step 0, or a finished one that goes on; at the same step afterwards.
        knn: What is measured on the way, see `replearn.pretrain.pretrain`.
        knn_every: Epochs between two measurements; 0: none before the end.
        began: When the time began to count, by `time.monotonic`.

    Returns:
        The number of steps, 1 or more, the same in all processes.
    """
    per_epoch = run.batches.per_epoch
    minutes = run.recipe.minutes
    if minutes is None:
        return max(run.step + 1, round(run.recipe.epochs * per_epoch))

    tensors = {name: x.clone() for name, x in tensors_of(run).items()}
    position = position_of(run)
    step_seconds = _seconds_per_step(run)
    measure_seconds = _seconds_per_measurement(run, knn)
    restore(run, tensors, position)
    if knn_every:
        step_share = measure_seconds / (knn_every * per_epoch)
    else:
        step_share = 0.0

    seconds_left = minutes * 60 - run.seconds - (time.monotonic() - began)
    steps = run.step + max(1, int(seconds_left / (step_seconds + step_share)))
    steps = int(distributed.agree(steps, run.device))
    if distributed.rank() == 0:
        say(
            f"{minutes:g} minutes: {steps:,} steps, {steps / per_epoch:.1f} epochs, at "
            f"{run.recipe.batch_size / step_seconds:,.0f} pictures/s"
        )
        warning = too_short(steps)
        if warning is not None:
            say(warning)
    return steps


def _seconds_per_step(run: Run) -> float:
    """Train some steps and return the seconds that one takes."""
    run.steps = 10**9  # so that the learning rate stays at its start
    # The first ones are slow: kernels are chosen, memory is asked for.
    for _ in range(3 if run.device.type == "cuda" else 1):
        train_step(run).item()
    count = 0
    started = time.monotonic()
    go_on = True
    # A GPU is asked once in some steps: in training nothing waits for it either.
    steps_at_once = 16 if run.device.type == "cuda" else 1
    while go_on:
        for _ in range(steps_at_once):
            loss = train_step(run)
        loss.item()
        count += steps_at_once
        seconds = time.monotonic() - started
        enough = count >= MOST_TRIALS or seconds >= TRIAL_SECONDS
        go_on = count < 2 or distributed.agree(not enough, run.device)
    return seconds / count


def _seconds_per_measurement(run: Run, knn: tuple[ImageSet, ImageSet] | None) -> float:
    started = time.monotonic()
    measure(run, knn)
    return time.monotonic() - started
