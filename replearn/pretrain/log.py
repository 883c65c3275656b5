"""How a run is followed: its records in words, a log in JSON lines, a plot of it."""

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from replearn import _schema
from replearn._progress import is_static
from replearn.files import append, explained, write_atomically

LOG = "log.jsonl"
DAMAGED = "log.damaged.jsonl"
RECORD = _schema.Record(  # of the log, as far as it is read
    needed={
        "step": _schema.Whole(1, 10**12),
        "epoch": _schema.Number(low=0),
        "loss": _schema.Number(),
    },
    optional={
        "seconds": _schema.Number(low=0),
        "images_per_second": _schema.Number(low=0),
        "knn": _schema.Number(low=0),
        "online": _schema.Number(low=0),
        "effective_rank": _schema.Number(low=0),
        "std": _schema.Number(low=0),
    },
)
SHOWN = {
    "online": "probe {:.1%}",
    "knn": "kNN {:.1%}",
    "effective_rank": "rank {:.1f}",
    "std": "std {:.3f}",
}


def line(record: dict[str, Any]) -> str:
    """Return a log's record in words.

    Args:
        record: With loss and images_per_second; the online probe, kNN, rank and std if they were
            measured.

    Returns:
        A line for people.

    Example:
        >>> line({"loss": 1.5, "images_per_second": 2000, "knn": 0.5})
        'loss 1.500 · 2,000 pictures/s · kNN 50.0%'
    """
    parts = [f"loss {record['loss']:.3f}", f"{record['images_per_second']:,.0f} pictures/s"]
    for name, template in SHOWN.items():
        if name in record:
            parts.append(template.format(record[name]))
    return " · ".join(parts)


def read_log(path: str | os.PathLike) -> list[dict]:
    """Return the records of a log; whatever else is in it is left out.

    Args:
        path: The log, or the folder of its run.

    Returns:
        The records, in their order; none if there is no log.
    """
    return _read_log(path).records


class _Content(NamedTuple):
    """What a log holds: its records, and how many whole lines that are none."""

    records: list[dict]
    foreign: int


def _read_log(path: str | os.PathLike) -> _Content:
    path = Path(path)
    if path.is_dir():
        path = path / LOG
    if not path.exists():
        return _Content([], 0)
    *lines, unended = path.read_bytes().split(b"\n")
    records = []
    foreign = 0
    for content in lines:
        record = _record(content)
        if record is None:
            foreign += 1
        else:
            records.append(record)
    # Without an end: it may have been cut off, when the process was killed while it wrote this.
    record = _record(unended)
    if record is not None:
        records.append(record)
    return _Content(records, foreign)


def _record(content: bytes) -> dict | None:
    """Return the record that a line holds, or None."""
    try:
        record = _schema.parse(content)
    except ValueError:
        return None
    return record if RECORD.fault(record) is None else None


def restart_log(folder: Path, step: int) -> list[dict]:
    """Drop what the log says of later steps, which will be done again.

    A log in which there is something else than records never blocks a good checkpoint: the file
    is set aside, with a warning, and its records are kept.

    Args:
        folder: The run's folder.
        step: The last one that was saved.

    Returns:
        The records that are kept.

    Raises:
        OSError: The log cannot be written.
    """
    path = folder / LOG
    with explained(folder, "write the log"):
        content = _read_log(path)
        kept = [record for record in content.records if record["step"] <= step]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        set_aside = folder / DAMAGED if content.foreign else None
        write_atomically(path, text, previous=set_aside)
    if content.foreign:
        warnings.warn(
            f"{path}: {content.foreign:,} of its lines are no records of a run; kept as "
            f"{DAMAGED}, and the {len(kept):,} records up to step {step:,} are gone on with",
            stacklevel=2,
        )
    return kept


def append_log(folder: Path, record: dict) -> None:
    """Append one record to the log.

    Args:
        folder: The run's folder.
        record: What JSON can hold.

    Raises:
        OSError: The log cannot be written.
    """
    with explained(folder, "write the log"):
        append(folder / LOG, json.dumps(record) + "\n")


def plot_log(history: str | os.PathLike | list[dict], *, axes: Sequence | None = None) -> Sequence:
    """Draw the loss over the epochs, and the kNN accuracy where it was measured.

    Args:
        history: A log's path, its folder, or its records.
        axes: Where to draw, two if kNN was measured; None makes new ones.

    Returns:
        The axes.

    Raises:
        ValueError: There are no records.
    """
    from replearn import plot

    records = history
    if isinstance(history, str | os.PathLike):
        records = read_log(history)
    if not records:
        raise ValueError("history: expected one record or more, found none")
    measured = [record for record in records if "knn" in record]
    if axes is None:
        columns = 2 if measured else 1
        _, grid = plot.style().subplots(1, columns, figsize=(7.2, 2.8), squeeze=False)
        axes = grid[0]
    plot.curves(
        [record["epoch"] for record in records],
        {"loss": [record["loss"] for record in records]},
        title="Contrastive loss",
        xlabel="epoch",
        ylabel="nats",
        ax=axes[0],
    )
    if measured:
        plot.curves(
            [record["epoch"] for record in measured],
            {"kNN": [100 * record["knn"] for record in measured]},
            title="Nearest neighbors' vote",
            xlabel="epoch",
            ylabel="accuracy (%)",
            ax=axes[1],
        )
    return axes


def live(record: dict, history: list[dict]) -> None:
    """Redraw `plot_log` in place after each measurement: a callback for notebooks.

    Args:
        record: The newest record.
        history: All records so far.
    """
    was_measured = "effective_rank" in record
    if not was_measured or is_static():
        return
    import matplotlib.pyplot as plt
    from IPython.display import clear_output, display

    figure = plot_log(history)[0].figure
    clear_output(wait=True)
    display(figure)
    plt.close(figure)
