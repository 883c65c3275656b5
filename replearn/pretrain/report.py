"""Reports of `evaluate` to look at: a table, a file, figures."""

import json

import torch
import torch.nn.functional as F

from replearn import plot, probe
from replearn.pretrain import checkpoint
from replearn.pretrain import log as progress

AUDITED = 2000  # test pictures: the audit looks at each of them a dozen times
COLUMNS = {"linear_sgd": "SGD", "linear": "linear", "knn": "kNN", "transfer": "transfer"}


def compare(reports):
    """Return {name: report of evaluate} as a text table, one row an encoder: accuracies in %, then CKA and rank.

    SGD: the source's probe; linear: the converged one. The spread over draws of the few labels is in the reports: with
    it a row would not fit on a page."""
    if not reports:
        raise ValueError("reports: expected one or more, as {name: report}, found none")
    shots = sorted({int(n) for report in reports.values() for n in report["few_shot"]})
    rows = [["encoder", *COLUMNS.values(), *(f"{n}-shot" for n in shots), "CKA", "rank"]]
    for name, report in reports.items():
        few = [report["few_shot"].get(str(n)) for n in shots]
        rows.append(
            [
                name,
                *(f"{100 * report[key]:.1f}" if key in report else "–" for key in COLUMNS),
                *(f"{100 * pair[0]:.1f}" if pair else "–" for pair in few),
                f"{report['cka_supervised']:.2f}" if "cka_supervised" in report else "–",
                f"{report['audit']['collapse']['effective_rank']:.0f}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def write(path, report):
    """Write a report as JSON, whole or not at all; OSError with a sentence if the disk does not let us."""
    with checkpoint.writing(path.parent, f"write {path.name}"):
        checkpoint.replace(path, (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())


def gallery(encoder, queries, pool, *, k=6):
    """Draw each of a few queries with its k nearest pictures of the pool, by the cosine of their features.

    queries, pool: ImageSets of the same classes; the query itself, should the pool have it, is left out. A solid frame:
    the query's class, a dashed one: another. Returns the figure. Raises ValueError if the pool is smaller than k."""
    query, bank = (
        F.normalize(probe.extract_features(encoder, s.images), dim=1) for s in (queries, pool)
    )
    cosine = query @ bank.T  # (queries, pool)
    for i, image in enumerate(queries.images):
        cosine[i, (pool.images == image).flatten(1).all(1).to(cosine.device)] = -2
    if not 1 <= k <= (cosine > -2).sum(1).min():
        raise ValueError(
            f"k: expected 1 to {(cosine > -2).sum(1).min()}, the pictures of the pool, found {k}"
        )
    nearest = cosine.topk(k).indices.to(pool.labels.device)  # (queries, k)
    labels = torch.cat([queries.labels[:, None].to(nearest.device), pool.labels[nearest]], 1)
    found, names = pool.images[nearest.to(pool.images.device)], queries.class_names
    axes = plot.neighbors(queries.images.cpu(), found.cpu(), correct=labels[:, 1:] == labels[:, :1])
    for ax, label in zip(axes.flat, labels.flatten().tolist(), strict=True):
        ax.set_title(names[label], fontsize=9, loc="center", pad=2)
    figure = axes[0, 0].figure
    width, height = figure.get_size_inches()
    figure.set_size_inches(
        width * max(1, max(map(len, names)) / 9), height + 0.2 * len(queries)
    )  # room for the names
    return figure


def probe_curve(reports, *, ax=None):
    """Draw the test accuracy of the SGD probe over its epochs, a line for each of {name: report}; return the axes."""
    lines = {
        name: [100 * accuracy for accuracy in report["probe_history"]]
        for name, report in reports.items()
    }
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


def figures(folder, encoder, reports, train, test, log):
    """Write gallery.png, audit.png, probe.png and, if a run's folder has a log, log.png."""
    from replearn.audit import card

    folder, plt = checkpoint.prepare(folder), plot.style()
    name, report = next(iter(reports.items()))
    first = [int((test.labels == label).nonzero()[0]) for label in test.labels.unique()[:6]]
    figures = {
        "gallery": gallery(encoder, test.subset(first), train, k=min(6, len(train))),
        "audit": card(report["audit"], test.images[:AUDITED], title=f"Audit card: {name}"),
        "probe": probe_curve(reports).figure,
    }
    if log:
        figures["log"] = progress.plot_log(log)[0].figure
    for name, figure in figures.items():
        with checkpoint.writing(folder, f"write {name}.png"):
            figure.savefig(folder / f"{name}.png")
        plt.close(figure)
