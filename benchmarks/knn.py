"""knn_accuracy against scikit-learn's KNeighborsClassifier over the size of the bank, with 2,000 queries.

Run: python benchmarks/knn.py      (a minute; writes benchmarks/results/knn.json)
Features of the shipped SimCLR encoder (512 columns, 10 classes of shapes). Both search all of the bank by cosine, vote
with k = 20 neighbors weighted by exp(cosine / 0.1), take turns in one process, and run on one thread unless told
otherwise. Exits with an error unless the two accuracies agree within 1e-3 at every size.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from probe import encoder_features
from shared import against, goal, peak_mb, record, take_turns
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

from replearn.probe import knn_accuracy

K, TEMPERATURE = 20, 0.1


def theirs(*of):
    """scikit-learn's accuracy, with the weights of Wu et al. 2018."""
    bank, y, queries, y_queries = (t.numpy() for t in of)
    model = KNeighborsClassifier(
        K, metric="cosine", weights=lambda distance: np.exp((1 - distance) / TEMPERATURE)
    )
    return model.fit(bank, y).score(queries, y_queries)


def measure(bank, y, queries, y_queries, turns):
    """{contestant: its row of the curve, and its accuracy}."""
    of = bank, y, queries, y_queries
    calls = {
        "replearn": lambda: knn_accuracy(*of, k=K, temperature=TEMPERATURE),
        "scikit-learn": lambda: theirs(*of),
    }
    accuracy = {name: float(call()) for name, call in calls.items()}
    times = against(take_turns(calls, turns), "replearn")
    return {
        name: dict(at=len(bank), **times[name], memory_mb=peak_mb(call), accuracy=accuracy[name])
        for name, call in calls.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[1000, 3000, 10_000, 20_000, 50_000]
    )
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()

    torch.set_num_threads(a.threads)
    bank, y = encoder_features(max(a.sizes))
    queries = encoder_features(a.queries, "test")
    with threadpool_limits(a.threads):
        measured = [measure(bank[:n], y[:n], *queries, a.turns) for n in a.sizes]
    curves = {name: [rows[name] for rows in measured] for name in measured[0]}
    gap = max(
        abs(rows["replearn"]["accuracy"] - rows["scikit-learn"]["accuracy"]) for rows in measured
    )
    goals = [
        goal("kNN: 1 - difference from scikit-learn's accuracy, at every size", 1 - 1e-3, 1 - gap)
    ]
    panel = dict(
        title=f"kNN accuracy of {a.queries:,} queries, bank N x {bank.shape[1]}",
        size="bank N",
        unit="seconds a call",
        ours="replearn",
        curves=curves,
    )
    record(
        "knn",
        "How long does a kNN probe take, and does its accuracy agree?",
        [panel],
        goals,
        ["numpy", "scikit-learn"],
        a.out,
        turns=a.turns,
        k=K,
        temperature=TEMPERATURE,
    )
    if not all(g["reached"] for g in goals):
        sys.exit(1)


if __name__ == "__main__":
    main()
