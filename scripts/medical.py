"""How far do features reach? Encoders of photographs, of shapes or of nothing, on chest X-rays.

    REPLEARN_DATA=folder-with-cifar10-and-pneumoniamnist.npz python -m scripts.medical

Two minutes on a CPU. PneumoniaMNIST (Yang et al. 2023): is there pneumonia? The classes are
unbalanced, so the scores are the area under the ROC curve (AUC) and the balanced accuracy, over 5
draws of the labels. Writes benchmarks/results/medical.json and medical.png.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torch import nn

from benchmarks.shared import RESULTS, command
from replearn import __version__, data, models, plot, probe, train
from replearn.files import write_json

COUNTS = (3, 10, 30, 100, 300)  # labeled X-rays of each class
DRAWS = 5
PHOTOGRAPHS = 10_000
STEPS = 300

# From the number of a draw, for an encoder may be another one in each.
EncoderOf = Callable[[int], nn.Module]
Scores = dict[str, list[list[float]]]  # "auc" and "balanced_accuracy": one list a count, of draws


def photograph_encoder() -> tuple[nn.Module, float]:
    """Return a small_cnn(32) trained on CIFAR-10 with its labels, and its accuracy there."""
    torch.manual_seed(0)
    encoder = models.small_cnn(32)
    head = nn.Linear(512, 10)
    photographs = data.load("cifar10", size=PHOTOGRAPHS)
    test = data.load("cifar10", split="test", size=2000)

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(head(encoder(x)), y)

    train.fit(
        loss,
        [encoder, head],
        photographs.images,
        photographs.labels,
        steps=STEPS,
        batch_size=128,
        lr=2e-3,
    )
    predicted = head(probe.extract_features(encoder, test.images)).argmax(1)
    return encoder, (predicted == test.labels).float().mean().item()


def draw_labeled(labels: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    """Return the indexes of n images of each class, drawn at random."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return torch.cat([order[labels[order] == c][:n] for c in labels.unique()])


def random_encoder(draw: int) -> nn.Module:
    """Return a network that has learned nothing, another one in each draw."""
    torch.manual_seed(100 + draw)
    return models.small_cnn(32)


def same_in_each_draw(encoder: nn.Module) -> EncoderOf:
    """Return a function that gives this encoder whatever the draw."""

    def encoder_of(draw: int) -> nn.Module:
        return encoder

    return encoder_of


def encoders(photographs: nn.Module) -> dict[str, EncoderOf]:
    """Return what is compared."""
    shapes = models.load("shapes_supervised")
    pixels = nn.Sequential(nn.AvgPool2d(2), nn.Flatten())
    return {
        "trained on photographs": same_in_each_draw(photographs),
        "trained on shapes": same_in_each_draw(shapes),
        "random encoder": random_encoder,
        "pixels": same_in_each_draw(pixels),
    }


def score(encoder: nn.Module, labeled: data.ImageSet, test: data.ImageSet) -> tuple[float, float]:
    """Return AUC and balanced accuracy of a linear probe on frozen features."""
    features = probe.extract_features(encoder, labeled.images)
    test_features = probe.extract_features(encoder, test.images)
    model = probe.LinearProbe(l2=1e-2).fit(features, labeled.labels)
    pneumonia = model.predict_proba(test_features)[:, 1]
    auc = roc_auc_score(test.labels, pneumonia)
    return auc, balanced_accuracy_score(test.labels, pneumonia > 0.5)


def measure(
    encoder_of: Mapping[str, EncoderOf], xrays: data.ImageSet, test: data.ImageSet
) -> dict[str, Scores]:
    """Score every encoder at every number of labels and in every draw."""
    scores: dict[str, Scores] = {name: {"auc": [], "balanced_accuracy": []} for name in encoder_of}
    for n in COUNTS:
        for name, make_encoder in encoder_of.items():
            aucs = []
            balanced_accuracies = []
            for draw in range(DRAWS):
                labeled = xrays.subset(draw_labeled(xrays.labels, n, draw))
                auc, balanced_accuracy = score(make_encoder(draw), labeled, test)
                aucs.append(auc)
                balanced_accuracies.append(balanced_accuracy)
            scores[name]["auc"].append(aucs)
            scores[name]["balanced_accuracy"].append(balanced_accuracies)
            means = f"AUC {sum(aucs) / DRAWS:.3f}, {sum(balanced_accuracies) / DRAWS:.3f}"
            print(f"{n:4d} a class  {name:24s} {means}", flush=True)
    return scores


def draw_figure(scores: Mapping[str, Scores]) -> None:
    """Write benchmarks/results/medical.png."""
    lines = {}
    for name, scores_of_one in scores.items():
        values = torch.tensor(scores_of_one["auc"])  # (counts, draws)
        lines[name] = (values.mean(1), values.std(1))
    ax = plot.curves(
        COUNTS,
        lines,
        log=True,
        title="Pneumonia on chest X-rays, frozen features",
        xlabel="labeled X-rays per class",
        ylabel=f"AUC, mean ± std of {DRAWS} draws",
    )
    ax.figure.savefig(RESULTS / "medical.png")


def main() -> None:
    """Measure, write the result and draw it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    if not (data.available("cifar10") and data.available("pneumonia")):
        sys.exit("set REPLEARN_DATA to a folder that holds CIFAR-10 and pneumoniamnist.npz")
    started = time.perf_counter()
    xrays = data.load("pneumonia")
    test = data.load("pneumonia", split="test")
    photographs, source_accuracy = photograph_encoder()
    scores = measure(encoders(photographs), xrays, test)
    draw_figure(scores)
    result = {
        "command": command(),
        "encoder": {
            "source": "CIFAR-10",
            "pictures": PHOTOGRAPHS,
            "steps": STEPS,
            "encoder": "small_cnn(32)",
            "accuracy": source_accuracy,
        },
        "target": {
            "source": "PneumoniaMNIST",
            "train": xrays.labels.bincount().tolist(),
            "test": test.labels.bincount().tolist(),
        },
        "label_counts_per_class": COUNTS,
        "draws": DRAWS,
        "scores": scores,
        "seconds": round(time.perf_counter() - started),
        "cpu_count": os.cpu_count(),
        "versions": {"replearn": __version__, "torch": torch.__version__},
    }
    write_json(RESULTS / "medical.json", result)


if __name__ == "__main__":
    main()
