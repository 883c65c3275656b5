"""Exercises of lesson 01: precision@k, the cosine similarity matrix, what breaks a descriptor.

Shapes: N pictures or items, d numbers in a feature vector.
"""

import numpy as np
import torch
import torch.nn.functional as F

from replearn.lesson.exercises import Exercise

# --- precision_at_k ---------------------------------------------------------------------------


def precision_at_k(features, labels, k):
    """Mean share of same-class items among the k nearest neighbors (Euclidean) of each item.

    An item is never its own neighbor; an exact copy of it is.
    features: (N, d) float32. labels: (N,) int64. k: int, 1 <= k < N. Returns one number in [0, 1].
    """
    distances = torch.cdist(features, features)  # (N, N)
    distances.fill_diagonal_(float("inf"))  # no item is its own neighbor
    nearest = distances.topk(k, largest=False).indices  # (N, k)
    return (labels[nearest] == labels[:, None]).float().mean()


def _precision_cases(generator: torch.Generator) -> dict[str, tuple]:
    def groups(n, classes, d, spread):
        labels = torch.randint(classes, (n,), generator=generator)
        centers = torch.randn(classes, d, generator=generator)
        return centers[labels] + spread * torch.randn(n, d, generator=generator), labels

    # Two copies of one picture with different labels: each one's nearest neighbor is the other.
    copies = torch.randn(12, 3, generator=generator)
    copies[:2] = 100.0
    labels_of_copies = torch.tensor([0, 1] + 5 * [0] + 5 * [1])
    lengths = torch.linspace(0.1, 10, 40)[:, None]
    vectors = torch.randn(40, 5, generator=generator) * lengths
    three_groups = groups(30, 3, 4, 0.8)
    four_groups = groups(24, 4, 6, 1.0)
    labels_of_vectors = torch.randint(2, (40,), generator=generator)
    two_groups = groups(9, 2, 3, 1.0)
    far_apart = groups(10, 3, 4, 1.0)
    return {
        "three groups": (*three_groups, 5),
        "the single nearest neighbor": (*four_groups, 1),
        "vectors of very different lengths": (vectors, labels_of_vectors, 7),
        "all other items as neighbors": (*two_groups, 8),
        "two identical pictures with different labels": (copies, labels_of_copies, 1),
        "features of large numbers": (1e6 * far_apart[0], far_apart[1], 3),
    }


def _precision_by_loop(features, labels, k):
    hits = 0
    for i in range(len(features)):
        distances = ((features - features[i]) ** 2).sum(dim=1).tolist()
        others = [j for j in range(len(features)) if j != i]
        others.sort(key=distances.__getitem__)
        for j in others[:k]:
            hits += labels[j].item() == labels[i].item()
    return hits / (k * len(features))


def _precision_by_sorting(features, labels, k):
    distances = (features[:, None] - features).norm(dim=-1)
    to_itself = torch.diag(torch.full((len(features),), torch.inf))
    nearest = (distances + to_itself).argsort(dim=1)[:, :k]
    return (labels[nearest] == labels.view(-1, 1)).double().mean(dim=1).mean()


def _precision_in_numpy(features, labels, k):
    features = features.numpy().astype(np.float64)
    labels = labels.numpy()
    squared = ((features[:, None] - features[None]) ** 2).sum(2)
    np.fill_diagonal(squared, np.inf)
    nearest = np.argsort(squared, axis=1, kind="stable")[:, :k]
    return (labels[nearest] == labels[:, None]).mean()


def _precision_by_scikit_learn(features, labels, k):
    from sklearn.neighbors import NearestNeighbors

    # Without an argument, kneighbors leaves each item out of its own neighbors.
    nearest = NearestNeighbors(n_neighbors=k).fit(features.double().numpy()).kneighbors()[1]
    return (labels[torch.as_tensor(nearest)] == labels[:, None]).double().mean().item()


def _precision_by_similarity(features, labels, k):
    """The negative squared distance by dot products, in double precision."""
    z = features.double()
    lengths = z.square().sum(1)
    closeness = 2 * z @ z.T - lengths[:, None] - lengths
    closeness.diagonal().fill_(-torch.inf)
    return (labels[closeness.topk(k).indices].T == labels).double().mean()


def _precision_by_deleting(features, labels, k):
    shares = []
    for i in range(len(features)):
        rest = torch.cat([features[:i], features[i + 1 :]])
        rest_labels = torch.cat([labels[:i], labels[i + 1 :]])
        order = (rest - features[i]).norm(dim=1).argsort()
        shares.append((rest_labels[order[:k]] == labels[i]).float().mean())
    return sum(shares) / len(shares)


def _precision_by_finding_itself(features, labels, k):
    """One more neighbor than asked, and the item itself is taken out wherever it stands."""
    order = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist").argsort(1)
    total = 0
    for i, row in enumerate(order.tolist()):
        row.remove(i)
        total += sum(int(labels[j] == labels[i]) for j in row[:k])
    return np.float32(total / (k * len(features)))


def _share_of_hits(labels, neighbors):
    return (labels[neighbors] == labels[:, None]).float().mean()


def _counts_itself(features, labels, k):
    """The diagonal of the distances stays 0, so that an item is its own nearest neighbor."""
    nearest = torch.cdist(features, features).topk(k, largest=False).indices
    return _share_of_hits(labels, nearest)


def _drops_the_first(features, labels, k):
    """The first of the sorted neighbors is taken for the item itself and left out."""
    order = torch.cdist(features, features).argsort(dim=1, stable=True)
    return _share_of_hits(labels, order[:, 1 : k + 1])


def _takes_the_farthest(features, labels, k):
    """The k farthest items, in place of the nearest."""
    return _share_of_hits(labels, torch.cdist(features, features).topk(k).indices)


def _by_cosine(features, labels, k):
    """Neighbors by the angle, not by the Euclidean distance."""
    directions = F.normalize(features)
    similarity = directions @ directions.T - 2 * torch.eye(len(features))
    return _share_of_hits(labels, similarity.topk(k).indices)


def _by_majority_vote(features, labels, k):
    """The accuracy of a kNN classifier: the neighbors vote, and the winner is right or wrong."""
    distances = torch.cdist(features, features).fill_diagonal_(torch.inf)
    nearest = distances.topk(k, largest=False).indices
    votes = labels[nearest].mode(dim=1).values
    return (votes == labels).float().mean()


def _diagonal_of_100(features, labels, k):
    """The diagonal is set to 100, which is not larger than every distance."""
    distances = torch.cdist(features, features).fill_diagonal_(100.0)
    return _share_of_hits(labels, distances.topk(k, largest=False).indices)


def _diagonal_of_the_largest(features, labels, k):
    """The diagonal is set to half of the largest distance, not beyond it."""
    distances = torch.cdist(features, features)
    distances.fill_diagonal_(distances.max().item() / 2)
    return _share_of_hits(labels, distances.topk(k, largest=False).indices)


def _any_of_them(features, labels, k):
    """Whether at least one of the k neighbors has the class, in place of their share."""
    distances = torch.cdist(features, features).fill_diagonal_(torch.inf)
    nearest = distances.topk(k, largest=False).indices
    return (labels[nearest] == labels[:, None]).any(1).float().mean()


def _recall_at_k(features, labels, k):
    """Divided by the number of items of the class (recall), not by k."""
    distances = torch.cdist(features, features).fill_diagonal_(torch.inf)
    nearest = distances.topk(k, largest=False).indices
    hits = (labels[nearest] == labels[:, None]).sum(1)
    of_the_class = (labels[:, None] == labels).sum(1) - 1
    return (hits / of_the_class.clamp(min=1)).mean()


def _manhattan(features, labels, k):
    """Distances are sums of absolute differences, not Euclidean."""
    distances = torch.cdist(features, features, p=1).fill_diagonal_(torch.inf)
    return _share_of_hits(labels, distances.topk(k, largest=False).indices)


PRECISION = Exercise(
    solution=precision_at_k,
    cases=_precision_cases,
    difficulty=1,
    minutes=10,
    hints=(
        "torch.cdist(features, features) gives all N x N distances at once.",
        "Every item is at distance 0 from itself. Put infinity on the diagonal, so that it cannot "
        "be chosen.",
        "distances.topk(k, largest=False).indices is (N, k). Compare labels[those] with "
        "labels[:, None]; average.",
    ),
    wrong={
        "counts itself": _counts_itself,
        "drops the first": _drops_the_first,
        "takes the farthest": _takes_the_farthest,
        "cosine": _by_cosine,
        "majority vote": _by_majority_vote,
        "a diagonal of 100": _diagonal_of_100,
        "a diagonal of half the largest distance": _diagonal_of_the_largest,
        "any of the neighbors": _any_of_them,
        "recall": _recall_at_k,
        "sums of absolute differences": _manhattan,
    },
    alternatives=(
        _precision_by_loop,
        _precision_by_sorting,
        _precision_in_numpy,
        _precision_by_scikit_learn,
        _precision_by_similarity,
        _precision_by_deleting,
        _precision_by_finding_itself,
    ),
)


# --- cosine_similarity_matrix -----------------------------------------------------------------


def cosine_similarity_matrix(x):
    """Cosine of the angle between every two rows: S_ij = <x_i, x_j> / (|x_i| |x_j|).

    It is 0 where a row is zero. x: (N, d) float32. Returns (N, N) float32, entries in [-1, 1], that
    carry gradients to x.
    """
    lengths = x.norm(dim=1, keepdim=True)  # (N, 1)
    directions = x / lengths.clamp(min=1e-12)  # a zero row stays zero, not NaN
    return directions @ directions.T


def _cosine_cases(generator: torch.Generator) -> dict[str, tuple]:
    one_zero_row = torch.randn(5, 3, generator=generator)
    one_zero_row[torch.randint(5, (1,), generator=generator)] = 0.0
    lengths = torch.logspace(-2, 2, 7)[:, None]
    return {
        "random rows": (torch.randn(5, 5, generator=generator),),
        "rows of different lengths": (torch.randn(7, 3, generator=generator) * lengths,),
        "more columns than rows": (torch.rand(3, 50, generator=generator) + 0.1,),
        "a zero row": (one_zero_row,),
    }


def _cosine_from_gram(x):
    gram = x @ x.T
    lengths = x.square().sum(1).sqrt()
    return gram / (lengths[:, None] * lengths[None, :] + 1e-10)


def _cosine_by_normalizing(x):
    return F.normalize(x, dim=1) @ F.normalize(x, dim=1).T


def _cosine_by_torch(x):
    return F.cosine_similarity(x[:, None], x[None], dim=-1)


def _cosine_by_loop(x):
    rows = []
    for i in range(len(x)):
        row = []
        for j in range(len(x)):
            product = x[i].norm() * x[j].norm()
            row.append(x[i] @ x[j] / product if product > 0 else x[i] @ x[j])
        rows.append(torch.stack(row))
    return torch.stack(rows)


def _cosine_in_double(x):
    z = x.double()
    lengths = torch.linalg.vector_norm(z, dim=1)
    lengths = torch.where(lengths > 0, lengths, torch.ones_like(lengths))
    return torch.einsum("id,jd->ij", z, z) / torch.outer(lengths, lengths)


def _cosine_by_distance(x):
    """1 - |u - v|^2 / 2 for vectors of length 1; a zero row gets its 0 at the end."""
    directions = F.normalize(x, dim=1)
    squared = (directions[:, None] - directions[None]).square().sum(2)
    is_zero = x.abs().sum(1) == 0
    return (1 - squared / 2).masked_fill(is_zero[:, None] | is_zero, 0.0)


def _cosine_in_place(x):
    gram = x @ x.mT
    squares = x.square().sum(1)
    product = (squares[:, None] * squares).clamp(min=1e-20).sqrt()
    gram /= product
    return gram


def _cosine_row_by_row(x):
    lengths = torch.stack([row.norm() for row in x]).clamp(min=1e-12)
    return (x / lengths[:, None]) @ (x.T / lengths)


def _no_keepdim(x):
    """Column j is divided by the length of row j: lengths of shape (N,) meet the columns."""
    directions = x / x.norm(dim=1)
    return directions @ directions.T


def _zero_by_zero(x):
    """A zero row is divided by its length 0 and becomes NaN."""
    directions = x / x.norm(dim=1, keepdim=True)
    return directions @ directions.T


def _columns_normalized(x):
    """Each column gets length 1, not each row."""
    return F.normalize(x, dim=0) @ F.normalize(x, dim=0).T


def _squared_lengths(x):
    """Divided by |x_i|^2 |x_j|^2: the square root is missing."""
    squares = x.square().sum(1)
    return x @ x.T / (squares[:, None] * squares + 1e-12)


def _one_length_for_all(x):
    """Divided by the squared length of the whole matrix."""
    return x @ x.T / x.square().sum().clamp(min=1e-12)


def _cosine_without_gradient(x):
    """The right value, cut off from its input."""
    return cosine_similarity_matrix(x.detach())


def _dot_products(x):
    """Plain dot products, not divided by the lengths."""
    return x @ x.T


def _one_length_only(x):
    """Divided by the length of row i only, not by that of row j too."""
    return x @ x.T / x.norm(dim=1, keepdim=True).clamp(min=1e-12)


def _centered(x):
    """The mean of each row is taken off first: that is the correlation."""
    return cosine_similarity_matrix(x - x.mean(1, keepdim=True))


def _one_minus(x):
    """The cosine distance, one minus the similarity."""
    return 1 - cosine_similarity_matrix(x)


def _absolute_lengths(x):
    """The length of a row is taken for the sum of its absolute values."""
    directions = x / x.abs().sum(1, keepdim=True).clamp(min=1e-12)
    return directions @ directions.T


COSINE = Exercise(
    solution=cosine_similarity_matrix,
    cases=_cosine_cases,
    difficulty=1,
    minutes=5,
    gradient_of=(0,),
    no_gradient=("a zero row",),
    tolerance=1e-3,
    hints=(
        "Divide every row by its length first; then the cosine is only a dot product.",
        "x.norm(dim=1, keepdim=True) has shape (N, 1) and divides row by row; without keepdim it "
        "does not.",
        "A zero row gives 0/0 = NaN. Keep the length above a tiny number with .clamp(min=1e-12).",
    ),
    wrong={
        "no keepdim": _no_keepdim,
        "0/0": _zero_by_zero,
        "columns": _columns_normalized,
        "squared lengths": _squared_lengths,
        "one length for all": _one_length_for_all,
        "cut gradient": _cosine_without_gradient,
        "dot products": _dot_products,
        "one length only": _one_length_only,
        "correlation": _centered,
        "cosine distance": _one_minus,
        "lengths by absolute values": _absolute_lengths,
    },
    alternatives=(
        _cosine_from_gram,
        _cosine_by_normalizing,
        _cosine_by_torch,
        _cosine_by_loop,
        _cosine_in_double,
        _cosine_by_distance,
        _cosine_in_place,
        _cosine_row_by_row,
    ),
)


# --- breaks_hog -------------------------------------------------------------------------------


def breaks_hog(describe, images, others, transformations):
    """Name of the transformation T that moves a descriptor D most.

    The measure is the distance to another class: for each picture x and its x' of another class,
    r = |D(T(x)) - D(x)| / |D(x') - D(x)|. The transformation with the largest mean r over the
    pictures wins. describe: function, pictures (N, 3, H, W) -> (N, d). images, others:
    (N, 3, H, W) float32, others[i] of another class than images[i]. transformations: dict
    {name: function, pictures -> pictures of the same shape}. Returns a str, one of the names.
    """
    before = describe(images)  # (N, d)
    to_other_class = (describe(others) - before).norm(dim=1)  # (N,)
    ratios = {}
    for name, transform in transformations.items():
        moved = (describe(transform(images)) - before).norm(dim=1)  # (N,)
        ratios[name] = (moved / to_other_class).mean().item()
    return max(ratios, key=ratios.get)


def _edges(images):
    """A descriptor like HOG in that it sees differences of neighboring pixels, not brightness."""
    return (images[..., 1:] - images[..., :-1]).flatten(1)


def _shift(images):
    return images.roll(3, dims=-1)


def _mirror(images):
    return images.flip(-1)


def _darker(images):
    return 0.9 * images


def _brighter(images):
    return images + 0.5


def _fade(images):
    return 0.5 + 0.7 * (images - 0.5)


def _nothing(images):
    return images


def _stripes(images):
    pattern = torch.zeros(images.shape[-1])
    pattern[::2] = 0.02
    return images + pattern


def _hog_cases(generator: torch.Generator) -> dict[str, tuple]:
    def pictures(contrast):
        noise = torch.rand(8, 3, 8, 8, generator=generator) - 0.5
        return 0.5 + contrast.view(-1, 1, 1, 1) * noise

    plain = torch.full((8,), 0.5)
    mixed = torch.tensor([0.02] * 4 + [1.0] * 4)
    # Stripes are large for faint pictures only: they win by the ratio, fading by the distance.
    faint = {"stripes": _stripes, "fade": _fade, "nothing": _nothing}
    light = {"nothing": _nothing, "brighter": _brighter, "fade": _fade}
    five = {
        "shift": _shift,
        "mirror": _mirror,
        "darker": _darker,
        "fade": _fade,
        "nothing": _nothing,
    }
    one_faint = torch.tensor([0.05] + [1.0] * 7)
    others = pictures(one_faint)
    # In the second case another class is close by, at a tenth of the contrast.
    alike = pictures(mixed)
    faint_pictures = (pictures(mixed), pictures(mixed))
    alike_pictures = (alike, alike + pictures(0.1 * plain) - 0.5)
    return {
        "faint pictures beside strong ones": (_edges, *faint_pictures, faint),
        "pictures that resemble those of the other class": (_edges, *alike_pictures, faint),
        "a change of light, which edges do not see": (
            _edges,
            pictures(plain),
            pictures(plain),
            light,
        ),
        "five transformations": (_edges, pictures(plain), pictures(plain), five),
        # Stripes move this one picture most, fading the mean of the pictures.
        "one faint picture among strong ones": (_edges, pictures(one_faint), others, faint),
    }


def _hog_by_lists(describe, images, others, transformations):
    ratios = {}
    for name, transform in transformations.items():
        ratios[name] = 0.0
        for x, other in zip(images.split(1), others.split(1), strict=True):
            moved = (describe(transform(x)) - describe(x)).norm()
            ratios[name] += moved / (describe(other) - describe(x)).norm()
    return sorted(transformations, key=ratios.get)[-1]


def _hog_by_stacking(describe, images, others, transformations):
    before = describe(images)
    after = torch.stack([describe(transform(images)) for transform in transformations.values()])
    moved = (after - before).square().sum(-1).sqrt()
    ratio = moved / torch.linalg.vector_norm(describe(others) - before, dim=-1)
    return list(transformations)[int(ratio.mean(1).argmax())]


def _hog_in_numpy(describe, images, others, transformations):
    def described(pictures):
        return np.asarray(describe(pictures), dtype=np.float64)

    before = described(images)
    between = np.linalg.norm(described(others) - before, axis=1)
    names = list(transformations)
    scores = []
    for name in names:
        after = described(transformations[name](images))
        scores.append((np.linalg.norm(after - before, axis=1) / between).mean())
    return names[int(np.argmax(scores))]


def _hog_in_double(describe, images, others, transformations):
    before = describe(images.double())
    between = (describe(others.double()) - before).pow(2).sum(1).sqrt()
    best = None
    largest = -1.0
    for name, transform in transformations.items():
        moved = (describe(transform(images.double())) - before).pow(2).sum(1).sqrt()
        if (moved / between).mean() > largest:
            largest = (moved / between).mean()
            best = name
    return best


def _hog_by_sum(describe, images, others, transformations):
    """The sum over the pictures ranks as their mean does."""
    weights = 1 / (describe(others) - describe(images)).norm(dim=1)

    def score(name):
        return float(
            weights @ (describe(transformations[name](images)) - describe(images)).norm(dim=1)
        )

    return max(transformations, key=score)


def _hog_by_pairs(describe, images, others, transformations):
    before, theirs = describe(torch.cat([images, others])).chunk(2)
    pairs = []
    for name, transform in transformations.items():
        after = describe(transform(images.clone()))
        ratio = F.pairwise_distance(after, before, eps=0) / F.pairwise_distance(
            theirs, before, eps=0
        )
        pairs.append((ratio.mean().item(), name))
    return sorted(pairs)[-1][1]


def _hog_backward(describe, images, others, transformations):
    """The names in the opposite order, and the pictures in another one."""
    order = torch.arange(len(images) - 1, -1, -1)
    images, others = images[order], others[order]
    before = describe(images)
    scores = {}
    for name in reversed(list(transformations)):
        steps = (describe(transformations[name](images)) - before).norm(dim=-1)
        scores[name] = torch.mean(steps / (describe(others) - before).norm(dim=-1)).numpy()
    return max(scores.items(), key=lambda pair: pair[1])[0]


def _distances(describe, images, others, transformations):
    """How far each transformation moves the pictures, {name: (N,)}, and how far the others are."""
    before = describe(images)
    between = (describe(others) - before).norm(dim=1)
    moved = {}
    for name, transform in transformations.items():
        moved[name] = (describe(transform(images)) - before).norm(dim=1)
    return moved, between


def _by_absolute_distance(describe, images, others, transformations):
    """The distance moved, not measured against anything."""
    moved, _ = _distances(describe, images, others, transformations)
    return max(moved, key=lambda name: moved[name].mean().item())


def _by_ratio_of_means(describe, images, others, transformations):
    """mean(moved) / mean(between) in place of mean(moved / between)."""
    moved, between = _distances(describe, images, others, transformations)
    return max(moved, key=lambda name: (moved[name].mean() / between.mean()).item())


def _by_smallest_ratio(describe, images, others, transformations):
    """The transformation that moves the descriptor least."""
    moved, between = _distances(describe, images, others, transformations)
    return min(moved, key=lambda name: (moved[name] / between).mean().item())


def _by_pixels(describe, images, others, transformations):
    """The pictures are compared, and the descriptor is not used."""
    moved, between = _distances(torch.nn.Flatten(), images, others, transformations)
    return max(moved, key=lambda name: (moved[name] / between).mean().item())


def _by_largest_ratio(describe, images, others, transformations):
    """The largest ratio of any single picture, in place of the mean over the pictures."""
    moved, between = _distances(describe, images, others, transformations)
    return max(moved, key=lambda name: (moved[name] / between).max().item())


def _by_median_ratio(describe, images, others, transformations):
    """The median over the pictures, in place of the mean."""
    moved, between = _distances(describe, images, others, transformations)
    return max(moved, key=lambda name: (moved[name] / between).median().item())


def _by_first_picture(describe, images, others, transformations):
    """The ratio of the first picture only."""
    moved, between = _distances(describe, images, others, transformations)
    return max(moved, key=lambda name: (moved[name] / between)[0].item())


def _by_inverse_ratio(describe, images, others, transformations):
    """The ratio upside down: between / moved."""
    moved, between = _distances(describe, images, others, transformations)
    return max(moved, key=lambda name: (between / moved[name].clamp(min=1e-9)).mean().item())


def _by_mean_descriptor(describe, images, others, transformations):
    """The mean descriptors of all pictures are compared, not picture by picture."""
    before = describe(images).mean(0)
    between = (describe(others).mean(0) - before).norm()
    ratios = {}
    for name, transform in transformations.items():
        ratios[name] = ((describe(transform(images)).mean(0) - before).norm() / between).item()
    return max(ratios, key=ratios.get)


def _by_position(describe, images, others, transformations):
    """The first name, whatever it is."""
    return next(iter(transformations))


HOG = Exercise(
    solution=breaks_hog,
    cases=_hog_cases,
    difficulty=2,
    minutes=10,
    hints=(
        "Describe the pictures, the others and the transformed pictures; subtract; .norm(dim=1) "
        "gives N lengths.",
        "Divide picture by picture before you average: mean(moved / between), not "
        "mean(moved) / mean(between).",
        "Collect {name: mean ratio} in a dict; max(ratios, key=ratios.get) is the name of the "
        "largest.",
    ),
    wrong={
        "absolute distance": _by_absolute_distance,
        "ratio of the means": _by_ratio_of_means,
        "the smallest": _by_smallest_ratio,
        "pixels": _by_pixels,
        "the first name": _by_position,
        "the largest ratio of one picture": _by_largest_ratio,
        "the median": _by_median_ratio,
        "the first picture": _by_first_picture,
        "the ratio upside down": _by_inverse_ratio,
        "the mean descriptor": _by_mean_descriptor,
    },
    alternatives=(
        _hog_by_lists,
        _hog_by_stacking,
        _hog_in_numpy,
        _hog_in_double,
        _hog_by_sum,
        _hog_by_pairs,
        _hog_backward,
    ),
)

EXERCISES = [PRECISION, COSINE, HOG]
