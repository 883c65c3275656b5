"""How far do features reach? Encoders trained on photographs, on shapes or not at all, probed on chest X-rays.

    REPLEARN_DATA=folder-with-cifar10-and-pneumoniamnist.npz python -m scripts.medical     (two minutes on a CPU)

PneumoniaMNIST (Yang et al. 2023): is there pneumonia? The classes are unbalanced, so the scores are the area under the
ROC curve (AUC) and the balanced accuracy, over 5 draws of the labels. Writes benchmarks/results/medical.json, .png.
"""

import argparse
import json
import os
import sys
import time

import torch
import torch.nn.functional as F
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torch import nn

from replearn import __version__, data, models, plot, probe, train
from tools import notebooks as build

COUNTS, DRAWS, PICTURES, STEPS = (3, 10, 30, 100, 300), 5, 10_000, 300


def photograph_encoder():
    """A small_cnn(32) trained on CIFAR-10 with its labels, and its accuracy there."""
    torch.manual_seed(0)
    encoder, head = models.small_cnn(32), nn.Linear(512, 10)
    photos, test = (
        data.load("cifar10", size=PICTURES),
        data.load("cifar10", split="test", size=2000),
    )
    train.fit(
        lambda x, y: F.cross_entropy(head(encoder(x)), y),
        [encoder, head],
        photos.images,
        photos.labels,
        steps=STEPS,
        batch_size=128,
        lr=2e-3,
    )
    right = head(probe.extract_features(encoder, test.images)).argmax(1) == test.labels
    return encoder, right.float().mean().item()


def few(labels, n, seed):
    """The indexes of n pictures of each class, drawn at random."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return torch.cat([order[labels[order] == c][:n] for c in labels.unique()])


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    if not (data.available("cifar10") and data.available("pneumonia")):
        sys.exit("set REPLEARN_DATA to a folder that holds CIFAR-10 and pneumoniamnist.npz")
    started = time.perf_counter()
    xrays, test = data.load("pneumonia"), data.load("pneumonia", split="test")
    photographs, source_accuracy = photograph_encoder()
    shapes = models.load("shapes_supervised")
    pixels = nn.Sequential(nn.AvgPool2d(2), nn.Flatten())

    def random(draw):
        torch.manual_seed(100 + draw)
        return models.small_cnn(32)

    encoders = {
        "trained on photographs": lambda draw: photographs,
        "trained on shapes": lambda draw: shapes,
        "random encoder": random,
        "pixels": lambda draw: pixels,
    }
    scores = {name: {"auc": [], "balanced_accuracy": []} for name in encoders}
    for n in COUNTS:
        for name, encoder in encoders.items():
            auc, balanced = [], []
            for draw in range(DRAWS):
                index = few(xrays.labels, n, draw)
                z, z_test = (
                    probe.extract_features(encoder(draw), x)
                    for x in (xrays.images[index], test.images)
                )
                p = (
                    probe.LinearProbe(l2=1e-2)
                    .fit(z, xrays.labels[index])
                    .predict_proba(z_test)[:, 1]
                )
                auc.append(roc_auc_score(test.labels, p))
                balanced.append(balanced_accuracy_score(test.labels, p > 0.5))
            scores[name]["auc"].append(auc)
            scores[name]["balanced_accuracy"].append(balanced)
            print(
                f"{n:4d} a class  {name:24s} AUC {sum(auc) / DRAWS:.3f}, {sum(balanced) / DRAWS:.3f}",
                flush=True,
            )
    lines = {}
    for name, both in scores.items():
        values = torch.tensor(both["auc"])  # (counts, draws)
        lines[name] = (values.mean(1), values.std(1))
    ax = plot.curves(
        COUNTS,
        lines,
        log=True,
        title="Pneumonia on chest X-rays, frozen features",
        xlabel="labeled X-rays per class",
        ylabel=f"AUC, mean ± std of {DRAWS} draws",
    )
    ax.figure.savefig(build.RESULTS / "medical.png")
    about = dict(
        source="CIFAR-10",
        pictures=PICTURES,
        steps=STEPS,
        encoder="small_cnn(32)",
        accuracy=source_accuracy,
    )
    target = dict(
        source="PneumoniaMNIST",
        train=xrays.labels.bincount().tolist(),
        test=test.labels.bincount().tolist(),
    )
    record = dict(
        command="python -m scripts.medical",
        encoder=about,
        target=target,
        label_counts_per_class=COUNTS,
        draws=DRAWS,
        scores=scores,
        seconds=round(time.perf_counter() - started),
        cpu_count=os.cpu_count(),
        versions=dict(replearn=__version__, torch=torch.__version__),
    )
    (build.RESULTS / "medical.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
