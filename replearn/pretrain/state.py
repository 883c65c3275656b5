"""What of a run is saved, and how a run comes back from it."""

from dataclasses import asdict, replace
from pathlib import Path

import torch

from replearn import _check
from replearn.pretrain import checkpoint, distributed
from replearn.pretrain.recipe import Recipe, differences
from replearn.pretrain.step import Run

LENGTH = ("epochs", "minutes")  # the fields that may be raised once a run is finished


def tensors_of(run: Run) -> dict[str, torch.Tensor]:
    """Return every tensor of a run by name; they are the run's own, not copies.

    Args:
        run: Any run.

    Returns:
        Weights and buffers of all networks, MoCo's queue, the optimizer's moments, the probe.
    """
    tensors = {}
    for prefix, network in _networks(run).items():
        for name, x in network.state_dict().items():
            tensors[f"{prefix}.{name}"] = x
    if run.queue is not None:
        tensors["queue"] = run.queue
    for index, values in run.optimizer.state_dict()["state"].items():
        for name, x in values.items():
            if x is not None:
                tensors[f"optimizer.{index}.{name}"] = x
    if run.probe is not None:
        for name, x in run.probe.tensors().items():
            tensors[f"probe.{name}"] = x
    return tensors


def position_of(run: Run) -> dict:
    """Return where a run is, as far as tensors do not say it.

    Args:
        run: Any run.

    Returns:
        step, steps, seconds, the state of the scaler, and what was finished before, if anything
        was; JSON can hold it.
    """
    position = dict(step=run.step, steps=run.steps, seconds=run.seconds)
    position["scaler"] = run.scaler.state_dict()
    if run.earlier:
        position["earlier"] = run.earlier
    return position


def restore(run: Run, tensors: dict[str, torch.Tensor], position: dict) -> None:
    """Put a run back to where `tensors_of` and `position_of` were taken.

    Args:
        run: A run of the same recipe; changed in place.
        tensors: What `tensors_of` returned.
        position: What `position_of` returned.
    """
    for prefix, network in _networks(run).items():
        network.load_state_dict(_part(tensors, prefix))
    if run.queue is not None:
        run.queue = tensors["queue"].to(run.queue.device)
    _restore_optimizer(run, _part(tensors, "optimizer"))
    if run.probe is not None:
        run.probe.restore(_part(tensors, "probe"))
    if run.scaler.is_enabled() and position.get("scaler"):
        run.scaler.load_state_dict(position["scaler"])
    run.recorded = None  # it knows the tensors from before
    run.step = position["step"]
    run.steps = position["steps"]
    run.seconds = position["seconds"]
    run.earlier = position.get("earlier", [])


def save(run: Run) -> None:
    """Write a checkpoint of a run into its folder.

    Args:
        run: A run with a folder.

    Raises:
        OSError: The disk is full or does not let us write; the checkpoint before is kept.
    """
    checkpoint.save(run.folder, tensors_of(run), _identity(run) | position_of(run))


def resume(run: Run) -> bool:
    """Go on from the checkpoint in a run's folder, if there is one.

    A finished run whose recipe now has more epochs or minutes, and is the same otherwise, goes on
    longer: `run.earlier` says what was finished, and the steps to come are not planned yet.

    Args:
        run: A run at step 0; changed in place.

    Returns:
        Whether there was a checkpoint.

    Raises:
        ValueError: The checkpoint is of another recipe or other images, foreign, damaged, or holds
            something else than this run's state.
    """
    saved = distributed.first(lambda: checkpoint.load(run.folder), "to read the checkpoint")
    if saved is None:
        return False
    tensors, about = saved
    _check_position(about, run.folder)
    finished = _check_same(about, run)
    if run.probe is None:
        tensors = {name: x for name, x in tensors.items() if not name.startswith("probe.")}
    _check_tensors(run, tensors, about)
    restore(run, tensors, about)
    if finished is not None:
        length = {name: getattr(finished, name) for name in LENGTH}
        length = {name: value for name, value in length.items() if value is not None}
        run.earlier = [*run.earlier, {**length, "steps": run.step}]
    return True


def _check_position(about: dict, folder: Path) -> None:
    """Raise unless a checkpoint, whose entries have the right form, has all that a run needs."""
    names = ("steps", "seconds", "recipe", "images")
    missing = [name for name in names if name not in about]
    if missing:
        raise ValueError(
            f"{folder}: its checkpoint: expected the entry {missing[0]!r}, found none; "
            f"{checkpoint.REMEDY}"
        )
    if about["step"] > about["steps"]:
        raise ValueError(
            f"{folder}: its checkpoint: expected a step up to {about['steps']:,}, the steps of the "
            f"run, found {about['step']:,}; {checkpoint.REMEDY}"
        )
    ends = [0, *(finished["steps"] for finished in about.get("earlier", [])), about["steps"]]
    if ends != sorted(set(ends)) or about["step"] < ends[-2]:
        raise ValueError(
            f"{folder}: its checkpoint: earlier: expected rising steps up to {about['step']:,}, "
            f"found {ends[1:-1]}; {checkpoint.REMEDY}"
        )


def _check_tensors(run: Run, found: dict[str, torch.Tensor], about: dict) -> None:
    """Raise unless the tensors of a checkpoint are those of a run in which this can be restored."""
    expected = tensors_of(run)
    expected = {name: x for name, x in expected.items() if not name.startswith("probe.")}
    if any(name.startswith("probe.") for name in found):  # else it begins anew
        expected |= {f"probe.{name}": x for name, x in run.probe.expected().items()}
    expected |= _expected_moments(run, found, about)
    source = f"{run.folder}: its checkpoint, step {about['step']}"
    _check.tensors(source, found, expected, remedy=checkpoint.REMEDY, same_dtype=True)
    for name, x in found.items():
        if name.startswith("optimizer.") and name.endswith(".step"):
            if not 1 <= x.item() <= about["step"]:
                raise ValueError(
                    f"{source}: {name}: expected a number from 1 to {about['step']:,}, found "
                    f"{x.item():g}; {checkpoint.REMEDY}"
                )


def _expected_moments(
    run: Run, found: dict[str, torch.Tensor], about: dict
) -> dict[str, torch.Tensor]:
    """Return tensors like those that the optimizer has after its first step.

    A weight that never got a gradient has none: a network of timm may have such weights, and with
    float16 there may have been no good gradient yet. All others have all of theirs.
    """
    may_be_absent = run.recipe.network.startswith("timm:") or run.scaler.is_enabled()
    is_new = about["step"] == 0
    moments = {}
    for index, weight in enumerate(run.trained):
        prefix = f"optimizer.{index}."
        is_there = any(name.startswith(prefix) for name in found)
        if not is_there and (may_be_absent or is_new):
            continue
        if run.recipe.optimizer == "sgd":
            moments[f"{prefix}momentum_buffer"] = weight
        else:
            moments[f"{prefix}step"] = torch.zeros(())
            moments[f"{prefix}exp_avg"] = weight
            moments[f"{prefix}exp_avg_sq"] = weight
    return moments


def _networks(run: Run) -> dict[str, torch.nn.Module]:
    networks = {"online": run.online}
    if run.predictor is not None:
        networks["predictor"] = run.predictor
    if run.average is not None:
        networks["average"] = run.average
    if run.target is not None:
        networks["target"] = run.target
    return networks


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin with the prefix and a dot, without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): x for name, x in tensors.items() if name.startswith(start)}


def _restore_optimizer(run: Run, tensors: dict[str, torch.Tensor]) -> None:
    state = {}
    for key, x in tensors.items():
        index, name = key.split(".", 1)
        weight = run.trained[int(index)]
        if x.shape == weight.shape:
            # The quick kernels ask for moments in their weight's memory format.
            value = torch.empty_like(weight).copy_(x)
        else:
            value = x.clone()
        state.setdefault(int(index), {})[name] = value
    groups = run.optimizer.state_dict()["param_groups"]
    run.optimizer.load_state_dict({"state": state, "param_groups": groups})


def _identity(run: Run) -> dict:
    """Return what must be the same when a run is resumed: the recipe, and which images."""
    return dict(recipe=asdict(run.recipe), images=run.batches.fingerprint)


def _check_same(about: dict, run: Run) -> Recipe | None:
    """Raise unless a checkpoint is of this run's recipe and images.

    Returns:
        The recipe that was finished, if this run's is the same with more epochs or minutes.
    """
    now = _identity(run)
    try:
        then = Recipe(**about["recipe"])
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{run.folder}: its checkpoint is of another version ({error}); choose another folder"
        ) from error
    changed = differences(then, run.recipe)
    if not changed and about["images"] != now["images"]:
        changed = "the pictures are others"
    if not changed:
        return None
    longer = replace(then, **{name: getattr(run.recipe, name) for name in LENGTH})
    differs_in_length = longer == run.recipe and about["images"] == now["images"]
    is_finished = about["step"] == about["steps"]
    if differs_in_length and is_finished and _has_more(run, then, about):
        return then
    ways = "Go back to that recipe"
    if differs_in_length and is_finished:
        ways = (
            "The run is finished, and this is no longer one: ask for more, go back to that recipe"
        )
    elif differs_in_length:
        ways = "Finish it with that recipe first (then it can go on longer)"
    raise ValueError(
        f"{run.folder}: its checkpoint, step {about['step']}, is of another recipe: {changed}. "
        f"{ways}, choose another folder, or pass resume=False (--no-resume) to start over"
    )


def _has_more(run: Run, then: Recipe, about: dict) -> bool:
    """Whether the recipe of a run asks for more steps than a finished one has made."""
    minutes = run.recipe.minutes
    if minutes is None:
        return round(run.recipe.epochs * run.batches.per_epoch) > about["step"]
    return minutes > (then.minutes or 0) and 60 * minutes > about["seconds"]
