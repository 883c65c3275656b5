"""Reports of `evaluate` to look at: a table, a file, figures."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from replearn import plot, probe
from replearn._progress import counted, duration
from replearn.audit import card
from replearn.data import ImageSet
from replearn.files import explained, writable_folder, write_json
from replearn.pretrain.log import plot_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AUDITED = 2000  # test images: the audit looks at each of them a dozen times
ACCURACIES = {"linear_sgd": "SGD", "linear": "linear", "knn": "kNN", "transfer": "transfer"}
NOT_MEASURED = "–"


def compare(reports: dict[str, dict]) -> str:
    """Return reports as a table in text: accuracies in percent, then CKA and effective rank.

    SGD is the source's probe, linear the converged one. The spread over draws of the few labels is
    in the reports: with it a row would not fit on a page.

    Args:
        reports: {name of an encoder: what `evaluate` returned}.

    Returns:
        The table, one row an encoder.

    Raises:
        ValueError: There are no reports.
    """
    if not reports:
        raise ValueError("reports: expected one or more, as {name: report}, found none")
    shots = sorted({int(n) for report in reports.values() for n in report["few_shot"]})
    header = ["encoder", *ACCURACIES.values(), *(f"{n}-shot" for n in shots), "CKA", "rank"]
    rows = [header]
    for name, report in reports.items():
        rows.append(_row(name, report, shots))
    return _aligned(rows)


def _row(name: str, report: dict, shots: list[int]) -> list[str]:
    cells = [name]
    for key in ACCURACIES:
        cells.append(_percent(report.get(key)))
    for n in shots:
        mean, _ = report["few_shot"].get(str(n), (None, None))
        cells.append(_percent(mean))
    cka = report.get("cka_supervised")
    cells.append(NOT_MEASURED if cka is None else f"{cka:.2f}")
    cells.append(f"{report['audit']['collapse']['effective_rank']:.0f}")
    return cells


def _percent(fraction: float | None) -> str:
    return NOT_MEASURED if fraction is None else f"{100 * fraction:.1f}"


def _aligned(rows: list[list[str]]) -> str:
    """Return rows as text: names to the left, numbers to the right, a line below the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *cells in rows:
        padded = [name.ljust(widths[0])]
        for cell, width in zip(cells, widths[1:], strict=True):
            padded.append(cell.rjust(width))
        lines.append("  ".join(padded))
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)


def result(
    record: dict[str, Any],
    *,
    folder: str | os.PathLike | None = None,
    loss_unit: str = "nats",
) -> str:
    """Return what came of a pretraining: a sentence, a table, warnings, and what to type next.

    Args:
        record: The last record of a log, with what `evaluation.knn_beside` adds if there are
            labels.
        folder: Of the run, or None.
        loss_unit: Of the loss: nats, or what a loss that is not contrastive measures.

    Returns:
        Lines for people.

    Example:
        >>> record = dict(step=400, epoch=10, seconds=55.2, loss=4.25, effective_rank=21.3)
        >>> record |= dict(knn=0.45, knn_untrained=0.31, knn_chance=0.1, knn_pictures=2000)
        >>> print(result(record))
        400 steps (10 epochs) in 55 s
        measure                   trained  untrained  chance
        ----------------------------------------------------
        kNN, % of 2,000 pictures     45.0       31.0    10.0
        loss, nats                   4.25          –       –
        effective rank of z          21.3          –       –
    """
    steps = counted(record["step"], "step")
    epochs = counted(record["epoch"], "epoch")
    lines = [f"{steps} ({epochs}) in {duration(record['seconds'])}"]
    rows = [["measure", "trained", "untrained", "chance"]]
    none = [NOT_MEASURED, NOT_MEASURED]
    if "knn_untrained" in record:
        others = [_percent(record["knn_untrained"]), _percent(record["knn_chance"])]
        rows.append(
            [f"kNN, % of {record['knn_pictures']:,} pictures", _percent(record["knn"]), *others]
        )
    if "online" in record:
        rows.append(["linear probe on the way, %", _percent(record["online"]), *none])
    rows.append([f"loss, {loss_unit}", f"{record['loss']:.2f}", *none])
    if "effective_rank" in record:
        rows.append(["effective rank of z", f"{record['effective_rank']:.1f}", *none])
    lines.append(_aligned(rows))
    if record.get("knn", 1.0) < record.get("knn_untrained", 0.0):
        lines.append(
            "warning: untrained weights have the better neighbors: nothing was learned that shows "
            "here; train longer, or look at the loss and the pictures"
        )
    if folder is not None:
        lines.append(f"encoder, log and checkpoints: {folder}")
        lines.append(f"next: python -m replearn evaluate {folder}")
    return "\n".join(lines)


def below_untrained(name: str, report: dict[str, Any], untrained: dict[str, Any]) -> str | None:
    """Return a warning where an encoder is worse than untrained weights, or None.

    Args:
        name: The encoder's row.
        report: What `evaluate` returned for it.
        untrained: What it returned for untrained weights of the same architecture.
    """
    worse = []
    for key, words in {"linear": "linear probe", "knn": "kNN"}.items():
        if report[key] < untrained[key]:
            worse.append(f"{words} {_percent(report[key])} % below {_percent(untrained[key])} %")
    if not worse:
        return None
    return (
        f"warning: {name} is below untrained weights ({', '.join(worse)}): it was trained too "
        "short, on other pictures, or has collapsed"
    )


def write(path: str | os.PathLike, report: dict[str, Any]) -> None:
    """Write a report as JSON, whole or not at all.

    Args:
        path: The file.
        report: What JSON can hold.

    Raises:
        OSError: The disk does not let us; the sentence says what to do.
    """
    path = Path(path)
    with explained(path.parent, f"write {path.name}"):
        write_json(path, report)


def gallery(encoder: nn.Module, queries: ImageSet, pool: ImageSet, *, k: int = 6) -> "Figure":
    """Draw a few images, each with its nearest neighbors by the cosine of their features.

    A solid frame means the query's class, a dashed one another class. The query itself, should the
    pool have it, is left out.

    Args:
        encoder: Images in [0, 1] to features.
        queries: The images to look for, a row each.
        pool: Where to look; of the same classes.
        k: Neighbors of a query.

    Returns:
        The figure.

    Raises:
        ValueError: The pool has fewer than k images.
    """
    queries.require_labels("queries")
    pool.require_labels("pool")
    cosine = _cosines(encoder, queries, pool)
    most = (cosine > -torch.inf).sum(1).min()
    if not 1 <= k <= most:
        raise ValueError(f"k: expected 1 to {most}, the pictures of the pool, found {k}")
    nearest = cosine.topk(k).indices.to(pool.labels.device)  # (queries, k)
    query_labels = queries.labels[:, None].to(nearest.device)  # (queries, 1)
    labels = pool.labels[nearest]  # (queries, k)
    neighbors = pool.images[nearest.to(pool.images.device)]

    axes = plot.neighbors(
        queries.images.cpu(), neighbors.cpu(), correct=labels == query_labels
    )  # (queries, 1 + k)
    all_labels = torch.cat([query_labels, labels], 1)
    names = queries.class_names
    for ax, label in zip(axes.flat, all_labels.flatten().tolist(), strict=True):
        ax.set_title(names[label], fontsize=9, loc="center", pad=2)
    figure = axes[0, 0].figure
    # Room for the names: long ones make the columns wider.
    width, height = figure.get_size_inches()
    longest_name = max(map(len, names))
    figure.set_size_inches(width * max(1, longest_name / 9), height + 0.2 * len(queries))
    return figure


def _cosines(encoder: nn.Module, queries: ImageSet, pool: ImageSet) -> torch.Tensor:
    """Return the cosines (queries, pool), -infinity where the pool has the query itself."""
    query = F.normalize(probe.extract_features(encoder, queries.images), dim=1)
    bank = F.normalize(probe.extract_features(encoder, pool.images), dim=1)
    cosine = query @ bank.T
    for row, image in enumerate(queries.images):
        is_query = (pool.images == image).flatten(1).all(1)  # (pool,)
        cosine[row, is_query.to(cosine.device)] = -torch.inf
    return cosine


def probe_curve(reports: dict[str, dict], *, ax: "Axes | None" = None) -> "Axes":
    """Draw the test accuracy of the SGD probe over its epochs, a line for each encoder.

    Args:
        reports: {name of an encoder: what `evaluate` returned}.
        ax: Where to draw; None makes new axes.

    Returns:
        The axes.
    """
    lines = {}
    for name, report in reports.items():
        lines[name] = [100 * accuracy for accuracy in report["probe_history"]]
    epochs = range(1, 1 + max(map(len, lines.values())))
    ax = plot.curves(
        epochs,
        lines,
        title="Linear probe by SGD",
        xlabel="epoch of the probe",
        ylabel="accuracy (%)",
        ax=ax,
    )
    ax.xaxis.get_major_locator().set_params(integer=True)
    return ax


def figures(
    folder: str | os.PathLike,
    encoder: nn.Module,
    reports: dict[str, dict],
    train: ImageSet,
    test: ImageSet,
    log: str | os.PathLike | None,
) -> None:
    """Write gallery.png, audit.png, probe.png and, if there is a log, log.png.

    Args:
        folder: Where to; it is made if it is missing.
        encoder: The one that `reports` begins with.
        reports: {name of an encoder: what `evaluate` returned}.
        train: The gallery's pool.
        test: The images of which the first of each class, six at most, are looked for.
        log: The log of the encoder's run, or None.

    Raises:
        OSError: The folder cannot be written to.
    """
    folder = writable_folder(folder)
    plt = plot.style()
    name, report = next(iter(reports.items()))
    audit_figure = card(report["audit"], test.images[:AUDITED], title=f"Audit card: {name}")
    drawn = {
        "gallery": gallery(encoder, _one_a_class(test, 6), train, k=min(6, len(train))),
        "audit": audit_figure,
        "probe": probe_curve(reports).figure,
    }
    if log:
        drawn["log"] = plot_log(log)[0].figure
    for name, figure in drawn.items():
        with explained(folder, f"write {name}.png"):
            figure.savefig(folder / f"{name}.png")
        plt.close(figure)


def _one_a_class(images: ImageSet, most: int) -> ImageSet:
    """Return the first image of each class, of at most so many classes."""
    rows = []
    for label in images.labels.unique()[:most]:
        members = (images.labels == label).nonzero()[:, 0]
        rows.append(int(members[0]))
    return images.subset(rows)
