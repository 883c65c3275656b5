"""Exercises of lesson F2: mutual nearest neighbors, the best pair of layers calibrated.

Shapes: N pictures; P and Q numbers in the features of two networks; S shuffles; L and M layers.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from replearn.lesson.exercises import Exercise

# --- mutual_knn -------------------------------------------------------------------------------


def mutual_knn(x, y, k):
    """The share of the k nearest neighbors that two sets of features have in common.

    Near is what has a large cosine, and no picture is its own neighbor. x: (N, P) and y: (N, Q),
    float32: features of the same N pictures, row by row; k: whole number, 1 to N - 1. Returns one
    number in [0, 1]: the mean over the pictures of (neighbors in common) / k.
    """
    x = F.normalize(x, dim=1)
    y = F.normalize(y, dim=1)
    near_x = (x @ x.T).fill_diagonal_(-2).topk(k).indices  # (N, k)
    near_y = (y @ y.T).fill_diagonal_(-2).topk(k).indices
    shared = near_x[:, :, None] == near_y[:, None, :]  # (N, k, k)
    return shared.sum() / (len(x) * k)


def _knn_cases(generator: torch.Generator) -> dict[str, tuple]:
    def random(*shape):
        return torch.randn(*shape, generator=generator)

    x = random(14, 4)
    lengths = torch.logspace(-1, 1, 16)[:, None]
    return {
        "features that share something": (x, x @ random(4, 6) + 0.5 * random(14, 6), 4),
        "unrelated features": (random(20, 5), random(20, 3), 5),
        "features of very different lengths": (lengths * random(16, 4), random(16, 4), 5),
        "features that are far from 0": (random(12, 3) + 1.5, random(12, 3) - 1.5, 3),
        "one neighbor": (random(12, 2), random(12, 2), 1),
        "the same features, turned": (x, x @ torch.linalg.qr(random(4, 4))[0], 3),
    }


def _cosines(x):
    x = x / x.norm(dim=1, keepdim=True)
    return x @ x.T


def _near(similarity, k):
    """The k largest of each row, without the diagonal, as a table of True and False."""
    similarity = similarity.clone().fill_diagonal_(-math.inf)
    table = torch.zeros_like(similarity, dtype=torch.bool)
    return table.scatter(1, similarity.topk(k).indices, True)


def _knn_by_tables(x, y, k):
    both = _near(_cosines(x), k) & _near(_cosines(y), k)
    return both.sum(1).double().mean() / k


def _knn_by_sets(x, y, k):
    total = 0
    for i in range(len(x)):
        neighbors = []
        for z in (x.double(), y.double()):
            cosine = torch.cosine_similarity(z[i : i + 1], z, dim=1)
            order = [j for j in cosine.argsort(descending=True).tolist() if j != i]
            neighbors.append(set(order[:k]))
        total += len(neighbors[0] & neighbors[1])
    return total / (len(x) * k)


def _knn_by_numpy(x, y, k):
    shares = []
    order = []
    for z in (x.numpy().astype(np.float64), y.numpy().astype(np.float64)):
        z = z / np.linalg.norm(z, axis=1, keepdims=True)
        similarity = z @ z.T
        np.fill_diagonal(similarity, -np.inf)
        order.append(np.argsort(-similarity, axis=1)[:, :k])
    for a, b in zip(*order, strict=True):
        shares.append(len(np.intersect1d(a, b)) / k)
    return float(np.mean(shares))


def _knn_by_distances(x, y, k):
    """Of unit vectors the nearest have the largest cosine."""
    near = []
    for z in (x, y):
        z = F.normalize(z.double(), dim=1)
        distance = torch.cdist(z, z).fill_diagonal_(math.inf)
        near.append(distance.argsort(dim=1)[:, :k])
    shared = torch.isin(
        near[0] + 1000 * torch.arange(len(x))[:, None],
        near[1] + 1000 * torch.arange(len(x))[:, None],
    )
    return shared.double().mean().item()


def _knn_by_the_first_left_out(x, y, k):
    """Every picture is nearest to itself, so the first of k + 1 is left out."""
    x = F.normalize(x.double(), dim=1)
    y = F.normalize(y.double(), dim=1)
    near_x = (x @ x.T).topk(k + 1).indices[:, 1:]
    near_y = (y @ y.T).topk(k + 1).indices[:, 1:]
    counts = [len(set(a) & set(b)) for a, b in zip(near_x.tolist(), near_y.tolist(), strict=True)]
    return torch.tensor(counts).float().mean() / k


def _knn_itself_counted(x, y, k):
    """Every picture counts as its own nearest neighbor, and so do all agree on one."""
    near_x = _cosines(x).topk(k).indices
    near_y = _cosines(y).topk(k).indices
    return (near_x[:, :, None] == near_y[:, None, :]).sum() / (len(x) * k)


def _knn_inner_products(x, y, k):
    """Inner products in place of cosines: long features are near to everything."""
    return (_near(x @ x.T, k) & _near(y @ y.T, k)).sum() / (len(x) * k)


def _knn_euclidean(x, y, k):
    """Euclidean distances of features that were not scaled to length 1."""
    return (_near(-torch.cdist(x, x), k) & _near(-torch.cdist(y, y), k)).sum() / (len(x) * k)


def _knn_centered(x, y, k):
    """The mean of all pictures is subtracted before the cosines are taken."""
    return mutual_knn(x - x.mean(0), y - y.mean(0), k)


def _knn_same_rank(x, y, k):
    """A neighbor counts only if it has the same rank in both lists."""
    near_x = _cosines(x).fill_diagonal_(-2).topk(k).indices
    near_y = _cosines(y).fill_diagonal_(-2).topk(k).indices
    return (near_x == near_y).float().mean()


def _knn_jaccard(x, y, k):
    """The number in common is divided by the size of the union, not by k."""
    a = _near(_cosines(x), k)
    b = _near(_cosines(y), k)
    return ((a & b).sum(1) / (a | b).sum(1)).mean()


def _knn_farthest(x, y, k):
    """The k smallest cosines: the pictures farthest away."""
    return (_near(-_cosines(x), k) & _near(-_cosines(y), k)).sum() / (len(x) * k)


def _knn_not_divided_by_k(x, y, k):
    """The mean number of neighbors in common, not divided by k."""
    return mutual_knn(x, y, k) * k


def _knn_divided_by_n(x, y, k):
    """The number in common is divided by the number of pictures in place of k."""
    return mutual_knn(x, y, k) * k / len(x)


def _knn_any(x, y, k):
    """The share of pictures with at least one neighbor in common."""
    return (_near(_cosines(x), k) & _near(_cosines(y), k)).any(1).float().mean()


def _knn_across(x, y, k):
    """A neighbor counts only if each of the two pictures is a neighbor of the other."""
    a = _near(_cosines(x), k)
    b = _near(_cosines(y), k)
    return (a & b.T).sum() / (len(x) * k)


def _knn_one_minus(x, y, k):
    """One minus the share, a distance."""
    return 1 - mutual_knn(x, y, k)


MUTUAL_KNN = Exercise(
    solution=mutual_knn,
    cases=_knn_cases,
    difficulty=1,
    minutes=5,
    hints=(
        "Scale every row to length 1; then x @ x.T holds all cosines.",
        "Set the diagonal to something small before topk(k), or every picture finds itself.",
        "Position i, a of topk's indices is a picture. Compare each of the k in one list with each "
        "of the k in the other: a[:, :, None] == b[:, None, :].",
    ),
    wrong={
        "itself counted": _knn_itself_counted,
        "inner products": _knn_inner_products,
        "Euclidean distances": _knn_euclidean,
        "centered": _knn_centered,
        "same rank": _knn_same_rank,
        "divided by the union": _knn_jaccard,
        "farthest": _knn_farthest,
        "not divided by k": _knn_not_divided_by_k,
        "divided by N": _knn_divided_by_n,
        "one in common is enough": _knn_any,
        "each other's neighbors": _knn_across,
        "one minus": _knn_one_minus,
    },
    alternatives=(
        _knn_by_tables,
        _knn_by_sets,
        _knn_by_numpy,
        _knn_by_distances,
        _knn_by_the_first_left_out,
    ),
)


# --- calibrated_best --------------------------------------------------------------------------


def calibrated_best(scores, shuffled, alpha):
    """The best score over all pairs of layers, set against the best of each shuffle.

    scores: (L, M) float32, layer by layer, each at most 1; shuffled: (S, L, M), the same after
    each of S shuffles of one network's pictures; alpha: a share such as 0.05. Let s be the best
    score, and put it in order with the best score of each shuffle: S + 1 numbers. The threshold t
    is the ceil((1 - alpha) (S + 1))-th smallest of them. Returns (s - t) / (1 - t), and 0 where s
    is below t.
    """
    best = scores.max()
    best_of_shuffles = shuffled.flatten(1).amax(dim=1)  # (S,)
    order = torch.cat([best_of_shuffles, best[None]]).sort().values
    rank = math.ceil((1 - alpha) * len(order) - 1e-9)  # 0.82 * 150 comes out above 123
    threshold = order[rank - 1]
    return ((best - threshold) / (1 - threshold)).clamp(min=0)


def _best_cases(generator: torch.Generator) -> dict[str, tuple]:
    def table(shuffles, layers, others, *, lift, base=0.1):
        scores = base + 0.05 * torch.randn(layers, others, generator=generator)
        scores[torch.randint(layers, (), generator=generator), 0] += lift
        noise = 0.05 * torch.randn(shuffles, layers, others, generator=generator)
        return scores, base + noise

    return {
        "a pair that agrees": (*table(99, 4, 3, lift=0.5), 0.05),
        "few shuffles": (*table(20, 2, 5, lift=0.4), 0.05),
        "another alpha": (*table(24, 3, 3, lift=0.3), 0.2),
        "no pair that agrees": (*table(99, 4, 4, lift=-0.1, base=0.3), 0.5),
        "scores around 0, as debiased CKA has them": (*table(49, 3, 2, lift=0.3, base=0.0), 0.1),
        "one layer each": (*table(99, 1, 1, lift=0.3), 0.05),
        "far below the shuffles": (torch.full((2, 3), 0.05), table(39, 2, 3, lift=0.0)[1], 0.05),
    }


def _best_rank(alpha, count):
    return math.ceil(round((1 - alpha) * count, 6))


def _rescaled(best, threshold):
    return max(0.0, float((best - threshold) / (1 - threshold)))


def _best_by_lists(scores, shuffled, alpha):
    best = max(max(row) for row in scores.tolist())
    values = [best]
    for table in shuffled.tolist():
        values.append(max(max(row) for row in table))
    values.sort()
    threshold = values[_best_rank(alpha, len(values)) - 1]
    return 0.0 if best < threshold else (best - threshold) / (1 - threshold)


def _best_by_numpy(scores, shuffled, alpha):
    best = scores.numpy().max()
    values = np.append(shuffled.numpy().max(axis=(1, 2)), best)
    threshold = np.sort(values)[_best_rank(alpha, len(values)) - 1]
    return float(np.maximum((best - threshold) / (1 - threshold), 0))


def _best_by_kthvalue(scores, shuffled, alpha):
    best = scores.double().amax()
    values = torch.cat([best.view(1), shuffled.double().amax((1, 2))])
    threshold = values.kthvalue(_best_rank(alpha, len(values))).values
    return torch.relu(best - threshold) / (1 - threshold)


def _best_by_all_tables_at_once(scores, shuffled, alpha):
    tables = torch.cat([scores[None], shuffled])
    values = tables.reshape(len(tables), -1).max(dim=1)[0]
    threshold = values.sort(descending=True)[0][len(values) - _best_rank(alpha, len(values))]
    return torch.where(values[0] > threshold, (values[0] - threshold) / (1 - threshold), 0.0)


def _best_by_counting(scores, shuffled, alpha):
    """The threshold is the smallest value with so many values that are not larger."""
    best = scores.max().item()
    values = [best, *(table.max().item() for table in shuffled)]
    needed = _best_rank(alpha, len(values))
    enough = [v for v in values if sum(other <= v for other in values) >= needed]
    return _rescaled(best, min(enough))


def _threshold_of(values, alpha):
    return values.sort().values[_best_rank(alpha, len(values)) - 1]


def _best_layer_by_layer(scores, shuffled, alpha):
    """Every pair has a threshold of its own, and the best pair is taken after the test."""
    values = torch.cat([shuffled, scores[None]]).sort(dim=0).values
    threshold = values[_best_rank(alpha, len(values)) - 1]
    return ((scores - threshold) / (1 - threshold)).clamp(min=0).max()


def _best_pair_alone(scores, shuffled, alpha):
    """The best pair is compared with the shuffles of that pair only, as if no other was tried."""
    where = scores.flatten().argmax()
    values = torch.cat([shuffled.flatten(1)[:, where], scores.max()[None]])
    return _rescaled(scores.max(), _threshold_of(values, alpha))


def _best_mean_of_layers(scores, shuffled, alpha):
    """The mean over the pairs in place of the best."""
    values = torch.cat([shuffled.mean((1, 2)), scores.mean()[None]])
    return _rescaled(scores.mean(), _threshold_of(values, alpha))


def _best_mean_shuffle(scores, shuffled, alpha):
    """The threshold is the mean of the shuffles, which half of all chance results exceed."""
    return _rescaled(scores.max(), shuffled.amax((1, 2)).mean())


def _best_of_all_shuffles(scores, shuffled, alpha):
    """The threshold is the largest of all shuffled scores, whatever alpha is."""
    return _rescaled(scores.max(), shuffled.max())


def _best_without_itself(scores, shuffled, alpha):
    """The score is not among the numbers that are put in order."""
    return _rescaled(scores.max(), _threshold_of(shuffled.amax((1, 2)), alpha))


def _best_interpolated(scores, shuffled, alpha):
    """The threshold is interpolated between two of the numbers in order."""
    values = torch.cat([shuffled.amax((1, 2)), scores.max()[None]])
    return _rescaled(scores.max(), values.quantile(1 - alpha))


def _best_alpha_smallest(scores, shuffled, alpha):
    """The threshold is taken at alpha, from the low end, in place of 1 - alpha."""
    return _rescaled(
        scores.max(),
        _threshold_of(torch.cat([shuffled.amax((1, 2)), scores.max()[None]]), 1 - alpha),
    )


def _best_not_rescaled(scores, shuffled, alpha):
    """The threshold is subtracted, and the rest is not divided by 1 - t."""
    values = torch.cat([shuffled.amax((1, 2)), scores.max()[None]])
    return (scores.max() - _threshold_of(values, alpha)).clamp(min=0)


def _best_not_clipped(scores, shuffled, alpha):
    """A score below the threshold gives a number below 0."""
    values = torch.cat([shuffled.amax((1, 2)), scores.max()[None]])
    threshold = _threshold_of(values, alpha)
    return (scores.max() - threshold) / (1 - threshold)


def _best_raw(scores, shuffled, alpha):
    """The score as it is where it is above the threshold, and 0 elsewhere."""
    values = torch.cat([shuffled.amax((1, 2)), scores.max()[None]])
    return scores.max() * (scores.max() > _threshold_of(values, alpha))


def _best_p_value(scores, shuffled, alpha):
    """The share of shuffles that are as good, a p-value, in place of the score."""
    reached = (shuffled.amax((1, 2)) >= scores.max()).sum()
    return (1 + reached) / (1 + len(shuffled))


CALIBRATED_BEST = Exercise(
    solution=calibrated_best,
    cases=_best_cases,
    difficulty=2,
    minutes=6,
    hints=(
        "What was done to the scores has to be done to every shuffle: the best of each of the S "
        "tables is one number.",
        "Sort the S + 1 numbers. The r-th smallest stands at position r - 1.",
        "With t found, 1 becomes 1 and t becomes 0: (s - t) / (1 - t). Below t the answer is 0.",
    ),
    wrong={
        "a threshold for each pair": _best_layer_by_layer,
        "the best pair alone": _best_pair_alone,
        "mean over the pairs": _best_mean_of_layers,
        "mean of the shuffles": _best_mean_shuffle,
        "the largest shuffle": _best_of_all_shuffles,
        "score left out": _best_without_itself,
        "interpolated": _best_interpolated,
        "alpha from the low end": _best_alpha_smallest,
        "not rescaled": _best_not_rescaled,
        "not clipped": _best_not_clipped,
        "raw score": _best_raw,
        "p-value": _best_p_value,
    },
    alternatives=(
        _best_by_lists,
        _best_by_numpy,
        _best_by_kthvalue,
        _best_by_all_tables_at_once,
        _best_by_counting,
    ),
)

EXERCISES = [MUTUAL_KNN, CALIBRATED_BEST]
