"""Exercises of lesson 01: precision@k, the cosine similarity matrix, the transformation that breaks a descriptor."""

import torch
import torch.nn.functional as F

from replearn.lesson.exercises import Exercise


def precision_at_k(features, labels, k):
    """Mean share of same-class items among the k nearest neighbors (Euclidean) of each item.

    An item is never its own neighbor; an exact copy of it is.
    features: (N, d). labels: (N,) integers. 1 <= k < N. Returns one number in [0, 1].
    """
    distances = torch.cdist(features, features)  # (N, N)
    distances.fill_diagonal_(float("inf"))  # no item is its own neighbor
    nearest = distances.topk(k, largest=False).indices  # (N, k)
    return (labels[nearest] == labels[:, None]).float().mean()


def _precision_cases(generator):
    def groups(n, classes, d, spread):
        labels = torch.randint(classes, (n,), generator=generator)
        centers = torch.randn(classes, d, generator=generator)
        return centers[labels] + spread * torch.randn(n, d, generator=generator), labels

    # Two copies of one picture with different labels: the nearest neighbor of each is the other, whatever the order.
    copies = torch.randn(12, 3, generator=generator)
    copies[:2] = 100.0
    lengths = torch.randn(40, 5, generator=generator) * torch.linspace(0.1, 10, 40)[:, None]
    return {
        "three groups": (*groups(30, 3, 4, 0.8), 5),
        "the single nearest neighbor": (*groups(24, 4, 6, 1.0), 1),
        "vectors of very different lengths": (
            lengths,
            torch.randint(2, (40,), generator=generator),
            7,
        ),
        "all other items as neighbors": (*groups(9, 2, 3, 1.0), 8),
        "two identical pictures with different labels": (
            copies,
            torch.tensor([0, 1] + 5 * [0] + 5 * [1]),
            1,
        ),
    }


def _precision_loop(features, labels, k):
    hits = 0
    for i in range(len(features)):
        distances = ((features - features[i]) ** 2).sum(dim=1).tolist()
        others = sorted((distance, j) for j, distance in enumerate(distances) if j != i)
        hits += sum(labels[j].item() == labels[i].item() for _, j in others[:k])
    return hits / (k * len(features))


def _precision_sort(features, labels, k):
    far = (features[:, None] - features).norm(dim=-1) + torch.diag(
        torch.full((len(features),), torch.inf)
    )
    return (labels[far.argsort(dim=1)[:, :k]] == labels.view(-1, 1)).double().mean(dim=1).mean()


def _wrong_precision(choose):
    return lambda features, labels, k: (
        (labels[choose(features, k)] == labels[:, None]).float().mean()
    )


PRECISION = Exercise(
    solution=precision_at_k,
    cases=_precision_cases,
    difficulty=1,
    minutes=10,
    hints=(
        "torch.cdist(features, features) gives all N x N distances at once.",
        "Every item is at distance 0 from itself. Put infinity on the diagonal, so that it cannot be chosen.",
        "distances.topk(k, largest=False).indices is (N, k). Compare labels[those] with labels[:, None]; average.",
    ),
    wrong={
        "counts itself": _wrong_precision(
            lambda x, k: torch.cdist(x, x).topk(k, largest=False).indices
        ),
        "drops the first": _wrong_precision(
            lambda x, k: torch.cdist(x, x).argsort(dim=1, stable=True)[:, 1 : k + 1]
        ),
        "takes the farthest": _wrong_precision(lambda x, k: torch.cdist(x, x).topk(k).indices),
        "cosine": _wrong_precision(
            lambda x, k: (F.normalize(x) @ F.normalize(x).T - 2 * torch.eye(len(x))).topk(k).indices
        ),
        "majority vote": lambda x, y, k: (
            (
                y[torch.cdist(x, x).fill_diagonal_(torch.inf).topk(k, largest=False)[1]].mode(1)[0]
                == y
            )
            .float()
            .mean()
        ),
    },
    alternatives=(_precision_loop, _precision_sort),
)


def cosine_similarity_matrix(x):
    """Cosine of the angle between every two rows: S_ij = <x_i, x_j> / (|x_i| |x_j|); 0 where a row is zero.

    x: (N, d). Returns (N, N), entries in [-1, 1].
    """
    lengths = x.norm(dim=1, keepdim=True)  # (N, 1)
    directions = x / lengths.clamp(min=1e-12)  # a zero row stays zero, not NaN
    return directions @ directions.T


def _cosine_cases(generator):
    zero = torch.randn(5, 3, generator=generator)
    zero[torch.randint(5, (1,), generator=generator)] = 0.0
    return {
        "random rows": (torch.randn(5, 5, generator=generator),),
        "rows of different lengths": (
            torch.randn(7, 3, generator=generator) * torch.logspace(-2, 2, 7)[:, None],
        ),
        "more columns than rows": (torch.rand(3, 50, generator=generator) + 0.1,),
        "a zero row": (zero,),
    }


def _cosine_gram(x):
    gram = x @ x.T
    lengths = x.square().sum(1).sqrt()
    return gram / (lengths[:, None] * lengths[None, :] + 1e-10)


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
        "x.norm(dim=1, keepdim=True) has shape (N, 1) and divides row by row; without keepdim it does not.",
        "A zero row gives 0/0 = NaN. Keep the length above a tiny number with .clamp(min=1e-12).",
    ),
    wrong={
        "no keepdim": lambda x: (x / x.norm(dim=1)) @ (x / x.norm(dim=1)).T,
        "0/0": lambda x: (x / x.norm(dim=1, keepdim=True)) @ (x / x.norm(dim=1, keepdim=True)).T,
        "columns": lambda x: F.normalize(x, dim=0) @ F.normalize(x, dim=0).T,
        "squared lengths": lambda x: (
            x @ x.T / (x.square().sum(1)[:, None] * x.square().sum(1) + 1e-12)
        ),
        "one length for all": lambda x: x @ x.T / x.square().sum().clamp(min=1e-12),
        "cut gradient": lambda x: cosine_similarity_matrix(x.detach()),
    },
    alternatives=(
        _cosine_gram,
        lambda x: F.normalize(x, dim=1) @ F.normalize(x, dim=1).T,
        lambda x: F.cosine_similarity(x[:, None], x[None], dim=-1),
    ),
)


def breaks_hog(describe, images, others, transformations):
    """Name of the transformation T that moves a descriptor D most, measured against the distance to another class.

    For each picture x and its x' of another class: r = |D(T(x)) - D(x)| / |D(x') - D(x)|. The largest mean r wins.
    describe: pictures (N,3,H,W) -> (N,d). images, others: (N,3,H,W), others[i] is of another class than images[i].
    transformations: {name: function of pictures}. Returns a name.
    """
    before = describe(images)  # (N, d)
    to_other_class = (describe(others) - before).norm(dim=1)  # (N,)
    ratios = {}
    for name, transform in transformations.items():
        moved = (describe(transform(images)) - before).norm(dim=1)  # (N,)
        ratios[name] = (moved / to_other_class).mean().item()
    return max(ratios, key=ratios.get)


def _edges(images):
    """A descriptor like HOG in that it sees differences between neighboring pixels, not brightness."""
    return (images[..., 1:] - images[..., :-1]).flatten(1)


def _hog_cases(generator):
    def pictures(contrast):
        return 0.5 + contrast.view(-1, 1, 1, 1) * (
            torch.rand(8, 3, 8, 8, generator=generator) - 0.5
        )

    stripes = torch.zeros(8)
    stripes[::2] = 0.02
    plain, mixed = torch.full((8,), 0.5), torch.tensor([0.02] * 4 + [1.0] * 4)
    moves = {
        "shift": lambda x: x.roll(3, dims=-1),
        "mirror": lambda x: x.flip(-1),
        "darker": lambda x: 0.9 * x,
        "fade": lambda x: 0.5 + 0.7 * (x - 0.5),
        "nothing": lambda x: x,
    }
    # Stripes are large for faint pictures only: they win by the ratio, fading wins by the absolute distance.
    faint = {"stripes": lambda x: x + stripes, "fade": moves["fade"], "nothing": moves["nothing"]}
    light = {"nothing": moves["nothing"], "brighter": lambda x: x + 0.5, "fade": moves["fade"]}
    alike = pictures(mixed)
    return {
        "faint pictures beside strong ones": (_edges, pictures(mixed), pictures(mixed), faint),
        "pictures that resemble those of the other class": (
            _edges,
            alike,
            alike + pictures(0.1 * plain) - 0.5,
            faint,
        ),
        "a change of light, which edges do not see": (
            _edges,
            pictures(plain),
            pictures(plain),
            light,
        ),
        "five transformations": (_edges, pictures(plain), pictures(plain), moves),
    }


def _hog_lists(describe, images, others, transformations):
    def ratio(name):
        pairs, moved = zip(images.split(1), others.split(1), strict=True), transformations[name]
        return sum(
            (describe(moved(x)) - describe(x)).norm() / (describe(y) - describe(x)).norm()
            for x, y in pairs
        )

    return sorted(transformations, key=ratio)[-1]


def _hog_tensor(describe, images, others, transformations):
    moved = torch.stack([describe(f(images)) for f in transformations.values()]) - describe(images)
    ratio = moved.square().sum(-1).sqrt() / torch.linalg.vector_norm(
        describe(others) - describe(images), dim=-1
    )
    return list(transformations)[int(ratio.mean(1).argmax())]


def _wrong_hog(score, pick=max, pixels=False):
    def wrong(describe, images, others, transformations):
        see = (lambda x: x.flatten(1)) if pixels else describe
        between = (see(others) - see(images)).norm(dim=1)
        moved = {
            name: (see(f(images)) - see(images)).norm(dim=1) for name, f in transformations.items()
        }
        return pick(moved, key=lambda name: score(moved[name], between))

    return wrong


HOG = Exercise(
    solution=breaks_hog,
    cases=_hog_cases,
    difficulty=2,
    minutes=10,
    hints=(
        "Describe the pictures, the others and the transformed pictures; subtract; .norm(dim=1) gives N lengths.",
        "Divide picture by picture before you average: mean(moved / between), not mean(moved) / mean(between).",
        "Collect {name: mean ratio} in a dict; max(ratios, key=ratios.get) is the name of the largest.",
    ),
    wrong={
        "absolute distance": _wrong_hog(lambda moved, between: moved.mean().item()),
        "ratio of the means": _wrong_hog(
            lambda moved, between: (moved.mean() / between.mean()).item()
        ),
        "the smallest": _wrong_hog(
            lambda moved, between: (moved / between).mean().item(), pick=min
        ),
        "pixels": _wrong_hog(lambda moved, between: (moved / between).mean().item(), pixels=True),
        "the first name": lambda describe, images, others, transformations: next(
            iter(transformations)
        ),
    },
    alternatives=(_hog_lists, _hog_tensor),
)

EXERCISES = [PRECISION, COSINE, HOG]
