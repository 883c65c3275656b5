"""Progress a person can watch: a bar, plain lines or silence; a JSONL log; a picture of it."""

import json
import os
import sys
import time
from pathlib import Path

from replearn.pretrain import checkpoint


def duration(seconds):
    """Return seconds in words: "40 s", "12 min", "1.5 h"."""
    minutes = seconds / 60
    return (
        f"{seconds:.0f} s"
        if minutes < 1.5
        else f"{minutes:.0f} min"
        if minutes < 90
        else f"{minutes / 60:.1f} h"
    )


def line(record):
    """Return a log record in words."""
    parts = [f"loss {record['loss']:.3f}", f"{record['images_per_second']:,.0f} pictures/s"]
    shown = dict(knn="kNN {:.1%}", effective_rank="rank {:.1f}", std="std {:.3f}")
    return " · ".join(
        parts + [text.format(record[name]) for name, text in shown.items() if name in record]
    )


def say(text, bar=None):
    """Print a line of its own, above the bar; nothing where REPLEARN_STATIC is set."""
    if bar is not None and not bar.disable:
        bar.write(text, file=sys.stderr)
    elif "REPLEARN_STATIC" not in os.environ:
        print(text, file=sys.stderr, flush=True)


class Watch:
    """Shows how a run goes on: a tqdm bar in a terminal or notebook, else a line every `every` seconds.

    Silent where REPLEARN_STATIC is set, and in every process but the first (`silent`)."""

    def __init__(self, start, steps, *, silent=False, every=30.0):
        from tqdm.auto import tqdm

        shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
        seen = sys.stderr.isatty() or hasattr(shell, "kernel")  # a terminal, or a notebook
        self.silent = self.announced = silent or "REPLEARN_STATIC" in os.environ
        self.every, self.said, self.steps = every, time.monotonic(), steps
        self.bar = tqdm(
            total=steps,
            initial=start,
            desc="pretraining",
            unit="step",
            disable=self.silent or not seen,
        )

    def record(self, record, seconds_per_step, steps_done):
        """Show a log record; the first time also how long the run will take."""
        left = duration((self.steps - record["step"]) * seconds_per_step)
        self.bar.update(steps_done)
        self.bar.set_postfix_str(line(record))
        if not self.announced:
            say(f"{self.steps:,} steps, about {left} to go", self.bar)
            self.announced = True
        due = time.monotonic() - self.said >= self.every or "effective_rank" in record
        if self.bar.disable and due and not self.silent:
            say(f"step {record['step']:,}/{self.steps:,} · {line(record)} · {left} left")
            self.said = time.monotonic()

    def close(self):
        """Leave the bar as it is."""
        self.bar.close()


def read_log(path):
    """Return the records of a JSONL log, or of the one in a run's folder; a torn last line is left out."""
    path = Path(path)
    path, records = path / "log.jsonl" if path.is_dir() else path, []
    for text in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            records.append(json.loads(text))
        except json.JSONDecodeError:  # the process was killed while it wrote this line
            break
    return records


def restart_log(folder, step):
    """Drop what the log says of steps beyond `step`, which will be done again; return the records kept."""
    path = folder / "log.jsonl"
    kept = [record for record in read_log(path) if record["step"] <= step]
    with checkpoint.writing(folder, "write the log"):
        checkpoint.replace(path, "".join(json.dumps(record) + "\n" for record in kept).encode())
    return kept


def append_log(folder, record):
    """Append one record to the log."""
    with (
        checkpoint.writing(folder, "write the log"),
        open(folder / "log.jsonl", "a", encoding="utf-8") as file,
    ):
        file.write(json.dumps(record) + "\n")


def plot_log(history, *, axes=None):
    """Draw loss, and kNN accuracy where it was measured, over epochs; `history`: a log's path, a folder or records."""
    from replearn import plot

    records = read_log(history) if isinstance(history, str | os.PathLike) else history
    if not records:
        raise ValueError("history: expected one record or more, found none")
    knn = [record for record in records if "knn" in record]
    if axes is None:
        axes = plot.style().subplots(1, 1 + bool(knn), figsize=(7.2, 2.8), squeeze=False)[1][0]
    epochs = [record["epoch"] for record in records]
    plot.curves(
        epochs,
        {"loss": [record["loss"] for record in records]},
        title="Contrastive loss",
        xlabel="epoch",
        ylabel="nats",
        ax=axes[0],
    )
    if knn:
        plot.curves(
            [record["epoch"] for record in knn],
            {"kNN": [100 * record["knn"] for record in knn]},
            title="Nearest neighbors' vote",
            xlabel="epoch",
            ylabel="accuracy (%)",
            ax=axes[1],
        )
    return axes


def live(record, history):
    """A callback for notebooks: after each kNN measurement, redraw `plot_log` in place."""
    if "effective_rank" not in record or "REPLEARN_STATIC" in os.environ:
        return
    import matplotlib.pyplot as plt
    from IPython.display import clear_output, display

    figure = plot_log(history)[0].figure
    clear_output(wait=True)
    display(figure)
    plt.close(figure)
