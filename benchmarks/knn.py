"""knn_accuracy against scikit-learn's KNeighborsClassifier over the size of the bank.

Run: python benchmarks/knn.py      (a minute; writes benchmarks/results/knn.json)
Features of the shipped SimCLR encoder (512 columns, 10 classes of shapes), 2,000 queries. Both
search all of the bank by cosine, vote with k = 20 neighbors weighted by exp(cosine / 0.1), take
turns in one process, and run on one thread unless told otherwise. Exits with an error unless the
two accuracies agree within 1e-3 at every size.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from probe import encoder_features
from shared import against, exit_if_missed, goal, options, peak_mb, record, take_turns
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

from replearn.probe import knn_accuracy

OURS = "replearn"
PEER = "scikit-learn"
K = 20
TEMPERATURE = 0.1
SIZES = (1000, 3000, 10_000, 20_000, 50_000)

Features = tuple[torch.Tensor, torch.Tensor]  # (N, 512), labels (N,)


def peer_weights(distances: np.ndarray) -> np.ndarray:
    """The weights of Wu et al. 2018 by cosine distance."""
    return np.exp((1 - distances) / TEMPERATURE)


def ours(bank: Features, queries: Features) -> float:
    """The package's accuracy."""
    return float(knn_accuracy(*bank, *queries, k=K, temperature=TEMPERATURE))


def theirs(bank: Features, queries: Features) -> float:
    """scikit-learn's accuracy."""
    features, labels = bank
    query_features, query_labels = queries
    model = KNeighborsClassifier(K, metric="cosine", weights=peer_weights)
    model.fit(features.numpy(), labels.numpy())
    return float(model.score(query_features.numpy(), query_labels.numpy()))


def measure(bank: Features, queries: Features, turns: int) -> dict[str, dict[str, Any]]:
    """Return `{contestant: its row of the curve, and its accuracy}`."""
    calls = {OURS: partial(ours, bank, queries), PEER: partial(theirs, bank, queries)}
    accuracy = {name: call() for name, call in calls.items()}
    times = against(take_turns(calls, turns), OURS)
    size = len(bank[0])
    return {
        name: {
            "at": size,
            **times[name],
            "memory_mb": peak_mb(call),
            "accuracy": accuracy[name],
        }
        for name, call in calls.items()
    }


def main() -> None:
    """Run the benchmark and write the result."""
    parser = options(__doc__, turns=3, sizes=SIZES)
    parser.add_argument("--queries", type=int, default=2000)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    features, labels = encoder_features(max(args.sizes))
    queries = encoder_features(args.queries, "test")
    with threadpool_limits(args.threads):
        measured = [measure((features[:n], labels[:n]), queries, args.turns) for n in args.sizes]
    curves = {name: [rows[name] for rows in measured] for name in (OURS, PEER)}
    gap = max(abs(rows[OURS]["accuracy"] - rows[PEER]["accuracy"]) for rows in measured)
    sentence = "kNN: 1 - difference from scikit-learn's accuracy, at every size"
    goals = [goal(sentence, 1 - 1e-3, 1 - gap)]
    panel = {
        "title": f"kNN accuracy of {args.queries:,} queries, bank N x {features.shape[1]}",
        "size": "bank N",
        "unit": "seconds a call",
        "ours": OURS,
        "curves": curves,
    }
    record(
        "knn",
        "How long does a kNN probe take, and does its accuracy agree?",
        [panel],
        goals,
        ["numpy", "scikit-learn"],
        args.out,
        turns=args.turns,
        k=K,
        temperature=TEMPERATURE,
    )
    exit_if_missed(goals)


if __name__ == "__main__":
    main()
