"""Exercises of lesson 11: an invariance score, reading an audit card, object against background.

Shapes: N pictures, d numbers in a feature vector.
"""

import torch
import torch.nn.functional as F

from replearn.lesson.exercises import Exercise

# --- invariance -------------------------------------------------------------------------------


def invariance(z, z_changed):
    """How little a change of the pictures moves their features.

    One minus the mean squared distance between a picture's features before and after the change,
    divided by the mean squared distance between the features of two *different* pictures (all pairs
    i != j of z).
    z, z_changed: (N, d), row i of both from picture i. Returns one number: 1 if nothing moved.
    """
    moved = (z_changed - z).pow(2).sum(dim=1).mean()
    distances = torch.cdist(z, z).pow(2)  # (N, N), 0 on the diagonal
    apart = distances.sum() / (len(z) * (len(z) - 1))
    return 1 - moved / apart


def _invariance_cases(generator: torch.Generator) -> dict[str, tuple]:
    def pair(n, d, noise):
        z = torch.randn(n, d, generator=generator)
        return z, z + noise * torch.randn(n, d, generator=generator)

    z, changed = pair(9, 4, 0.3)
    other = torch.randn(8, 3, generator=generator)
    return {
        "a small change": (z, changed),
        "two pictures": pair(2, 3, 0.2),
        "features far from the origin": (z + 20, changed + 20),
        "nothing moved": (other, other.clone()),
        "a change as large as another picture": (other, other.roll(1, 0)),
        "features of large scale": tuple(50 * features for features in pair(7, 5, 0.5)),
    }


def _invariance_by_variance(z, z_changed):
    return 1 - (z - z_changed).square().sum(1).mean() / (2 * z.var(dim=0).sum())


def _invariance_by_loop(z, z_changed):
    n = len(z)
    moved = 0.0
    apart = 0.0
    for i in range(n):
        moved = moved + ((z_changed[i] - z[i]) ** 2).sum() / n
        for j in range(n):
            if i != j:
                apart = apart + ((z[i] - z[j]) ** 2).sum() / (n * (n - 1))
    return 1 - moved / apart


def _by_length_of_z(z, z_changed):
    """Divided by the mean squared length of z, which depends on the origin."""
    return 1 - (z_changed - z).pow(2).sum(1).mean() / z.pow(2).sum(1).mean()


def _with_self_pairs(z, z_changed):
    """The zeros on the diagonal are counted: each picture is its own neighbor."""
    return 1 - (z_changed - z).pow(2).sum(1).mean() / torch.cdist(z, z).pow(2).mean()


def _not_squared(z, z_changed):
    """Distances in place of squared distances."""
    apart = torch.cdist(z, z).sum() / (len(z) * (len(z) - 1))
    return 1 - (z_changed - z).norm(dim=1).mean() / apart


def _sensitivity(z, z_changed):
    """How much the change moves the features: the one minus is forgotten."""
    return 1 - invariance(z, z_changed)


INVARIANCE = Exercise(
    solution=invariance,
    cases=_invariance_cases,
    difficulty=2,
    minutes=10,
    hints=(
        "Two means of squared distances: picture to its changed self, and picture to other "
        "pictures.",
        "torch.cdist(z, z) gives all distances at once; its diagonal is 0 and does not belong to "
        "the mean.",
        "Divide the sum of the squared distances by N (N - 1), not by N^2.",
    ),
    wrong={
        "divides by the squared length of z": _by_length_of_z,
        "counts each picture as its own neighbor": _with_self_pairs,
        "distances not squared": _not_squared,
        "the sensitivity, not the invariance": _sensitivity,
    },
    alternatives=(_invariance_by_variance, _invariance_by_loop),
)


# --- missing_augmentation ---------------------------------------------------------------------


def missing_augmentation(card, reference, trained_by):
    """Name the augmentation that was missing when an encoder was trained.

    card, reference: {change: invariance score} of the encoder and of one trained with all
    augmentations. trained_by: {augmentation: the change it trains against}. Returns the
    augmentation whose change lost most.
    """
    lost = {}
    for augmentation, change in trained_by.items():
        lost[augmentation] = reference[change] - card[change]
    return max(lost, key=lost.get)


_TRAINED_BY = {
    "color jitter": "other hue",
    "crop": "middle half",
    "flip": "mirrored",
    "blur": "blurred",
}


def _card_cases(generator: torch.Generator) -> dict[str, tuple]:
    changes = [*_TRAINED_BY.values(), "noise", "moved 3 pixels"]

    def random_scores():
        values = 0.6 + 0.4 * torch.rand(len(changes), generator=generator)
        return dict(zip(changes, values.tolist(), strict=True))

    cases = {}
    for augmentation, change in _TRAINED_BY.items():
        reference = random_scores()
        card = {name: score - 0.05 for name, score in reference.items()}
        card[change] = reference[change] - 0.3
        card["noise"] = reference["noise"] - 0.6  # no augmentation of the list trains against it
        cases[f"an encoder trained without {augmentation}"] = (card, reference, _TRAINED_BY)

    reference = dict.fromkeys(changes, 0.9)
    reference["blurred"] = 0.3
    card = dict(reference)
    card["blurred"] = 0.25
    card["mirrored"] = 0.5
    cases["a card whose lowest score is low in the reference too"] = (card, reference, _TRAINED_BY)
    return cases


def _missing_by_loop(card, reference, trained_by):
    missing = None
    most = float("-inf")
    for augmentation, change in trained_by.items():
        drop = reference[change] - card[change]
        if drop > most:
            missing = augmentation
            most = drop
    return missing


def _missing_by_sorting(card, reference, trained_by):
    def gain(augmentation):
        change = trained_by[augmentation]
        return card[change] - reference[change]

    return sorted(trained_by, key=gain)[0]


def _lowest_score(card, reference, trained_by):
    """Some changes are hard for every encoder: a low score alone says little."""
    return min(trained_by, key=lambda augmentation: card[trained_by[augmentation]])


def _largest_drop_of_any(card, reference, trained_by):
    """Changes are looked at that no augmentation of the list trains against."""
    largest = max(card, key=lambda change: reference[change] - card[change])
    for augmentation, change in trained_by.items():
        if change == largest:
            return augmentation
    return largest


def _names_the_change(card, reference, trained_by):
    """The change that lost most, not the augmentation that trains against it."""
    return trained_by[missing_augmentation(card, reference, trained_by)]


MISSING_AUGMENTATION = Exercise(
    solution=missing_augmentation,
    cases=_card_cases,
    difficulty=1,
    minutes=5,
    hints=(
        "A low score alone says little: some changes are hard for every encoder. Compare with the "
        "reference.",
        "Only changes that an augmentation of the list trains against can give it away.",
        "max(trained_by, key=...) with the drop from reference to card as the key.",
    ),
    wrong={
        "the lowest score": _lowest_score,
        "the largest drop of any change": _largest_drop_of_any,
        "names the change, not the augmentation": _names_the_change,
    },
    alternatives=(_missing_by_loop, _missing_by_sorting),
)


# --- object_share -----------------------------------------------------------------------------


def object_share(z, z_other_background, z_other_object):
    """How often an encoder goes by the object and not by the background.

    Row i of z is a picture; row i of z_other_background is the same object on another background;
    row i of z_other_object is another object on the same background. All (N, d). Returns the share
    of rows in which the cosine of z with z_other_background is larger than with z_other_object.
    """
    same_object = F.cosine_similarity(z, z_other_background, dim=1)
    same_background = F.cosine_similarity(z, z_other_object, dim=1)
    return (same_object > same_background).float().mean()


def _object_cases(generator: torch.Generator) -> dict[str, tuple]:
    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    z = normal(10, 4)
    other = normal(10, 4)
    return {
        "an encoder that mixes both": (z, z + normal(10, 4), z + normal(10, 4)),
        "an encoder that goes by the object": (z, z + 0.1 * normal(10, 4), z + 2 * normal(10, 4)),
        "features of different lengths": (z, 9 * z + normal(10, 4), 0.1 * z + 0.1 * normal(10, 4)),
        "one picture": (normal(1, 3), normal(1, 3), normal(1, 3)),
        "cosines that are equal (none is larger)": (z, other, other.clone()),
        "more pictures": (normal(40, 6), normal(40, 6), normal(40, 6)),
    }


def _share_by_normalizing(z, z_other_background, z_other_object):
    z = F.normalize(z, dim=1)
    same_object = (z * F.normalize(z_other_background, dim=1)).sum(1)
    same_background = (z * F.normalize(z_other_object, dim=1)).sum(1)
    return (same_object > same_background).double().mean()


def _share_by_loop(z, z_other_background, z_other_object):
    def cosine(a, b):
        return a @ b / (a.norm() * b.norm())

    wins = 0
    for i in range(len(z)):
        same_object = cosine(z[i], z_other_background[i])
        same_background = cosine(z[i], z_other_object[i])
        wins += bool(same_object > same_background)
    return torch.tensor(wins / len(z))


def _share_by_distance(z, z_other_background, z_other_object):
    """Distances depend on the lengths of the features, cosines do not."""
    closer = (z - z_other_background).norm(dim=1) < (z - z_other_object).norm(dim=1)
    return closer.float().mean()


def _share_by_dot_product(z, z_other_background, z_other_object):
    """The lengths are not divided out."""
    return ((z * z_other_background).sum(1) > (z * z_other_object).sum(1)).float().mean()


def _background_share(z, z_other_background, z_other_object):
    """How often the encoder goes by the background."""
    return 1 - object_share(z, z_other_background, z_other_object)


def _mean_difference(z, z_other_background, z_other_object):
    """By how much the object wins, not how often."""
    same_object = F.cosine_similarity(z, z_other_background)
    same_background = F.cosine_similarity(z, z_other_object)
    return (same_object - same_background).mean()


OBJECT_SHARE = Exercise(
    solution=object_share,
    cases=_object_cases,
    difficulty=1,
    minutes=5,
    hints=(
        "Two cosines for each row, then a comparison, then a mean.",
        "F.cosine_similarity(a, b, dim=1) gives one cosine a row.",
        "A mean of True and False needs .float() first.",
    ),
    wrong={
        "distances instead of cosines": _share_by_distance,
        "dot products, lengths not divided out": _share_by_dot_product,
        "the background's share": _background_share,
        "the mean difference of the cosines": _mean_difference,
    },
    alternatives=(_share_by_normalizing, _share_by_loop),
)

EXERCISES = [INVARIANCE, MISSING_AUGMENTATION, OBJECT_SHARE]
