"""Exercises of lesson 11: an invariance score, reading an audit card, object against background."""

import torch
import torch.nn.functional as F

from replearn.lesson.exercises import Exercise


def invariance(z, z_changed):
    """How little a change of the pictures moves their features.

    One minus the mean squared distance between a picture's features before and after the change, divided by the mean
    squared distance between the features of two *different* pictures (all pairs i != j of z).
    z, z_changed: (N, d), row i of both from picture i. Returns one number: 1 if nothing moved.
    """
    moved = (z_changed - z).pow(2).sum(dim=1).mean()
    distances = torch.cdist(z, z).pow(2)  # (N, N), 0 on the diagonal
    apart = distances.sum() / (len(z) * (len(z) - 1))
    return 1 - moved / apart


def _invariance_cases(generator):
    def pair(n, d, noise):
        z = torch.randn(n, d, generator=generator)
        return z, z + noise * torch.randn(n, d, generator=generator)

    z, changed = pair(9, 4, 0.3)
    far = torch.randn(8, 3, generator=generator)
    return {
        "a small change": (z, changed),
        "two pictures": pair(2, 3, 0.2),
        "features far from the origin": (z + 20, changed + 20),
        "nothing moved": (far, far.clone()),
        "a change as large as another picture": (far, far.roll(1, 0)),
        "features of large scale": tuple(50 * v for v in pair(7, 5, 0.5)),
    }


def missing_augmentation(card, reference, trained_by):
    """Name the augmentation that was missing when an encoder was trained.

    card, reference: {change: invariance score} of the encoder and of one trained with all augmentations.
    trained_by: {augmentation: the change it trains against}. Returns the augmentation whose change lost most.
    """
    return max(
        trained_by,
        key=lambda augmentation: (
            reference[trained_by[augmentation]] - card[trained_by[augmentation]]
        ),
    )


_TRAINED_BY = {
    "color jitter": "other hue",
    "crop": "middle half",
    "flip": "mirrored",
    "blur": "blurred",
}


def _card_cases(generator):
    def scores():
        values = (0.6 + 0.4 * torch.rand(6, generator=generator)).tolist()
        return dict(zip([*_TRAINED_BY.values(), "noise", "moved 3 pixels"], values, strict=True))

    cases = {}
    for augmentation, change in _TRAINED_BY.items():
        reference = scores()
        card = {name: score - 0.05 for name, score in reference.items()}
        card[change] = reference[change] - 0.3
        card["noise"] = reference["noise"] - 0.6  # no augmentation of the list trains against it
        cases[f"an encoder trained without {augmentation}"] = (card, reference, _TRAINED_BY)
    reference = dict.fromkeys(scores(), 0.9) | {"blurred": 0.3}
    card = dict(reference) | {"blurred": 0.25, "mirrored": 0.5}
    cases["a card whose lowest score is low in the reference too"] = (card, reference, _TRAINED_BY)
    return cases


def object_share(z, z_other_background, z_other_object):
    """How often an encoder goes by the object and not by the background.

    Row i of z is a picture; row i of z_other_background is the same object on another background; row i of
    z_other_object is another object on the same background. All (N, d). Returns the share of rows in which the cosine
    of z with z_other_background is larger than with z_other_object.
    """
    same_object = F.cosine_similarity(z, z_other_background, dim=1)
    same_background = F.cosine_similarity(z, z_other_object, dim=1)
    return (same_object > same_background).float().mean()


def _object_cases(generator):
    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    z, other = normal(10, 4), normal(10, 4)
    return {
        "an encoder that mixes both": (z, z + normal(10, 4), z + normal(10, 4)),
        "an encoder that goes by the object": (z, z + 0.1 * normal(10, 4), z + 2 * normal(10, 4)),
        "features of different lengths": (z, 9 * z + normal(10, 4), 0.1 * z + 0.1 * normal(10, 4)),
        "one picture": (normal(1, 3), normal(1, 3), normal(1, 3)),
        "cosines that are equal (none is larger)": (z, other, other.clone()),
        "more pictures": (normal(40, 6), normal(40, 6), normal(40, 6)),
    }


def _without_pairs(z, z_changed):
    return 1 - (z_changed - z).pow(2).sum(1).mean() / z.pow(2).sum(1).mean()


def _with_self_pairs(z, z_changed):
    return 1 - (z_changed - z).pow(2).sum(1).mean() / torch.cdist(z, z).pow(2).mean()


def _not_squared(z, z_changed):
    return 1 - (z_changed - z).norm(dim=1).mean() / (
        torch.cdist(z, z).sum() / (len(z) * (len(z) - 1))
    )


def _sensitivity(z, z_changed):
    return 1 - invariance(z, z_changed)


def _by_variance(z, z_changed):
    return 1 - (z - z_changed).square().sum(1).mean() / (2 * z.var(dim=0).sum())


def _by_loop(z, z_changed):
    n = len(z)
    moved = sum(((z_changed[i] - z[i]) ** 2).sum() for i in range(n)) / n
    apart = sum(((z[i] - z[j]) ** 2).sum() for i in range(n) for j in range(n) if i != j) / (
        n * (n - 1)
    )
    return 1 - moved / apart


def _lowest_score(card, reference, trained_by):
    return min(trained_by, key=lambda a: card[trained_by[a]])


def _largest_drop_of_any(card, reference, trained_by):
    change = max(card, key=lambda name: reference[name] - card[name])
    return next((a for a, c in trained_by.items() if c == change), change)


def _names_the_change(card, reference, trained_by):
    return trained_by[missing_augmentation(card, reference, trained_by)]


def _drops_loop(card, reference, trained_by):
    best, most = None, float("-inf")
    for augmentation, change in trained_by.items():
        if reference[change] - card[change] > most:
            best, most = augmentation, reference[change] - card[change]
    return best


def _drops_sorted(card, reference, trained_by):
    return sorted(trained_by, key=lambda a: card[trained_by[a]] - reference[trained_by[a]])[0]


def _distance_share(z, z_other_background, z_other_object):
    closer = (z - z_other_background).norm(dim=1) < (z - z_other_object).norm(dim=1)
    return closer.float().mean()


def _dot_share(z, z_other_background, z_other_object):
    return ((z * z_other_background).sum(1) > (z * z_other_object).sum(1)).float().mean()


def _background_share(z, z_other_background, z_other_object):
    return 1 - object_share(z, z_other_background, z_other_object)


def _mean_difference(z, z_other_background, z_other_object):
    return (
        F.cosine_similarity(z, z_other_background) - F.cosine_similarity(z, z_other_object)
    ).mean()


def _normalized_share(z, z_other_background, z_other_object):
    z, a, b = (F.normalize(v, dim=1) for v in (z, z_other_background, z_other_object))
    return ((z * a).sum(1) > (z * b).sum(1)).double().mean()


def _loop_share(z, z_other_background, z_other_object):
    wins = 0
    for x, a, b in zip(z, z_other_background, z_other_object, strict=True):
        wins += bool(x @ a / (x.norm() * a.norm()) > x @ b / (x.norm() * b.norm()))
    return torch.tensor(wins / len(z))


EXERCISES = [
    Exercise(
        solution=invariance,
        cases=_invariance_cases,
        hints=(
            "Two means of squared distances: picture to its changed self, and picture to other pictures.",
            "torch.cdist(z, z) gives all distances at once; its diagonal is 0 and does not belong to the mean.",
            "Divide the sum of the squared distances by N (N - 1), not by N^2.",
        ),
        wrong={
            "divides by the squared length of z": _without_pairs,
            "counts each picture as its own neighbor": _with_self_pairs,
            "distances not squared": _not_squared,
            "the sensitivity, not the invariance": _sensitivity,
        },
        alternatives=(_by_variance, _by_loop),
        difficulty=2,
        minutes=10,
    ),
    Exercise(
        solution=missing_augmentation,
        cases=_card_cases,
        hints=(
            "A low score alone says little: some changes are hard for every encoder. Compare with the reference.",
            "Only changes that an augmentation of the list trains against can give it away.",
            "max(trained_by, key=...) with the drop from reference to card as the key.",
        ),
        wrong={
            "the lowest score": _lowest_score,
            "the largest drop of any change": _largest_drop_of_any,
            "names the change, not the augmentation": _names_the_change,
        },
        alternatives=(_drops_loop, _drops_sorted),
        difficulty=1,
        minutes=5,
    ),
    Exercise(
        solution=object_share,
        cases=_object_cases,
        hints=(
            "Two cosines for each row, then a comparison, then a mean.",
            "F.cosine_similarity(a, b, dim=1) gives one cosine a row.",
            "A mean of True and False needs .float() first.",
        ),
        wrong={
            "distances instead of cosines": _distance_share,
            "dot products, lengths not divided out": _dot_share,
            "the background's share": _background_share,
            "the mean difference of the cosines": _mean_difference,
        },
        alternatives=(_normalized_share, _loop_share),
        difficulty=1,
        minutes=5,
    ),
]
