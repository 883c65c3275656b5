"""Exercises of lesson 11: an invariance score, reading an audit card, object against background.

Shapes: N pictures, d numbers in a feature vector.
"""

import numpy as np
import torch
import torch.nn.functional as F

from replearn.lesson.exercises import Exercise

# --- invariance -------------------------------------------------------------------------------


def invariance(z, z_changed):
    """How little a change of the pictures moves their features.

    One minus the mean squared distance between a picture's features before and after the change,
    divided by the mean squared distance between the features of two *different* pictures (all pairs
    i != j of z). z, z_changed: (N, d) float32, row i of both from picture i; N >= 2. Returns one
    number: 1 if nothing moved, below 0 if the change moves more than another picture does.
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
        "a change that moves more than another picture": pair(8, 4, 3.0),
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


def _invariance_in_numpy(z, z_changed):
    z = z.numpy().astype(np.float64)
    moved = ((z_changed.numpy() - z) ** 2).sum(1).mean()
    apart = ((z[:, None] - z[None]) ** 2).sum(2)
    return 1 - moved / apart[~np.eye(len(z), dtype=bool)].mean()


def _invariance_by_pdist(z, z_changed):
    moved = torch.nn.functional.mse_loss(z_changed, z, reduction="sum") / len(z)
    return (1 - moved / torch.pdist(z).pow(2).mean()).item()


def _invariance_by_lengths(z, z_changed):
    """|a - b|^2 = |a|^2 + |b|^2 - 2 a.b, in double precision."""
    z = z.double()
    lengths = (z * z).sum(1)
    squared = lengths[:, None] + lengths - 2 * z @ z.T
    off_diagonal = squared[torch.arange(len(z))[:, None] != torch.arange(len(z))]
    return 1 - (z_changed.double() - z).pow(2).sum(1).mean() / off_diagonal.mean()


def _invariance_in_place(z, z_changed):
    step = z_changed.clone()
    step -= z
    step *= step
    pairs = []
    for i in range(len(z)):
        for j in range(i):
            pairs.append(float((z[i] - z[j]).square().sum()))
    return 1 - float(step.sum()) / len(z) / (sum(pairs) / len(pairs))


def _by_length_of_z(z, z_changed):
    """Divided by the mean squared length of z, which depends on the origin."""
    return 1 - (z_changed - z).pow(2).sum(1).mean() / z.pow(2).sum(1).mean()


def _with_self_pairs(z, z_changed):
    """The zeros on the diagonal are counted: each picture is compared with itself too."""
    return 1 - (z_changed - z).pow(2).sum(1).mean() / torch.cdist(z, z).pow(2).mean()


def _not_squared(z, z_changed):
    """Distances in place of squared distances."""
    apart = torch.cdist(z, z).sum() / (len(z) * (len(z) - 1))
    return 1 - (z_changed - z).norm(dim=1).mean() / apart


def _sensitivity(z, z_changed):
    """How much the change moves the features: the one minus is forgotten."""
    return 1 - invariance(z, z_changed)


def _clamped(z, z_changed):
    """A score below 0, of a change that moves more than another picture does, is set to 0."""
    return invariance(z, z_changed).clamp(0, 1)


def _mean_of_ratios(z, z_changed):
    """The mean of each picture's own ratio, in place of the ratio of two means."""
    moved = (z_changed - z).pow(2).sum(dim=1)
    apart = torch.cdist(z, z).pow(2).sum(dim=1) / (len(z) - 1)
    return 1 - (moved / apart).mean()


def _mean_over_numbers(z, z_changed):
    """The squared differences are averaged over the d numbers of a vector, not summed."""
    apart = torch.cdist(z, z).pow(2).sum() / (len(z) * (len(z) - 1))
    return 1 - (z_changed - z).pow(2).mean() / apart


def _divided_by_variance(z, z_changed):
    """Divided by the variance of z, which is half the mean squared distance of two pictures."""
    return 1 - (z_changed - z).pow(2).sum(1).mean() / z.var(dim=0).sum()


def _changed_to_others(z, z_changed):
    """Divided by the distance from a changed picture to the other ones, not between originals."""
    distances = torch.cdist(z_changed, z).pow(2).fill_diagonal_(0)
    apart = distances.sum() / (len(z) * (len(z) - 1))
    return 1 - (z_changed - z).pow(2).sum(1).mean() / apart


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
        "scores below 0 set to 0": _clamped,
        "the mean of the ratios": _mean_of_ratios,
        "the mean over the numbers of a vector": _mean_over_numbers,
        "divided by the variance": _divided_by_variance,
        "divided by the distance from changed to other pictures": _changed_to_others,
    },
    alternatives=(
        _invariance_by_variance,
        _invariance_by_loop,
        _invariance_in_numpy,
        _invariance_by_pdist,
        _invariance_by_lengths,
        _invariance_in_place,
    ),
)


# --- missing_augmentation ---------------------------------------------------------------------


def missing_augmentation(card, reference, trained_by):
    """Name the augmentation that was missing when an encoder was trained.

    card, reference: dict {change: float}, the invariance scores of the encoder and of one that was
    trained with all augmentations. trained_by: dict {augmentation: the change it trains against},
    both str. Returns a str: the augmentation whose change lost most, in points of the score.
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

    reference = dict.fromkeys(changes, 0.9)
    card = dict.fromkeys(changes, 0.88)
    card["other hue"] = 0.75
    card["blurred"] = 0.55
    cases["a card with a small loss before the largest one"] = (card, reference, _TRAINED_BY)

    reference = dict.fromkeys(changes, 0.9)
    reference["middle half"] = 0.2
    card = dict(reference)
    card["middle half"] = 0.05
    card["mirrored"] = 0.5
    cases["a card with a small score that fell by most of itself"] = (card, reference, _TRAINED_BY)

    reference = dict.fromkeys(changes, 0.5)
    card = dict(reference)
    card["blurred"] = 0.95
    card["other hue"] = 0.2
    cases["a card on which another change gained more"] = (card, reference, _TRAINED_BY)

    reference = dict.fromkeys(changes, 0.1)
    card = dict.fromkeys(changes, 0.05)
    card["mirrored"] = -0.6
    backward = dict(reversed(_TRAINED_BY.items()))
    cases["a card with a score below 0"] = (card, reference, backward)
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


def _missing_in_numpy(card, reference, trained_by):
    names = list(trained_by)
    lost = np.array([reference[change] - card[change] for change in trained_by.values()])
    return names[int(lost.argmax())]


def _missing_by_tensors(card, reference, trained_by):
    before = torch.tensor([reference[change] for change in trained_by.values()])
    after = torch.tensor([card[change] for change in trained_by.values()])
    return list(trained_by)[(before - after).argmax()]


def _missing_by_pairs(card, reference, trained_by):
    pairs = [(card[change] - reference[change], name) for name, change in trained_by.items()]
    return min(pairs)[1]


def _missing_by_the_other_way_round(card, reference, trained_by):
    by_change = {}
    for name, change in trained_by.items():
        by_change[change] = name
    changes = sorted(by_change, key=lambda change: reference[change] - card[change], reverse=True)
    return by_change[changes[0]]


def _missing_by_pop(card, reference, trained_by):
    left = dict(trained_by)
    while len(left) > 1:
        smallest = min(left, key=lambda name: reference[left[name]] - card[left[name]])
        left.pop(smallest)
    return str(np.str_(next(iter(left))))


def _lowest_score(card, reference, trained_by):
    """The change with the lowest score, without a look at the reference."""
    return min(trained_by, key=lambda augmentation: card[trained_by[augmentation]])


def _largest_drop_of_any(card, reference, trained_by):
    """The largest loss of any change, also of those that no augmentation of the list trains."""
    largest = max(card, key=lambda change: reference[change] - card[change])
    for augmentation, change in trained_by.items():
        if change == largest:
            return augmentation
    return largest


def _names_the_change(card, reference, trained_by):
    """The change that lost most, not the augmentation that trains against it."""
    return trained_by[missing_augmentation(card, reference, trained_by)]


def _by_ratio(card, reference, trained_by):
    """The loss as a share of the score before, in place of the loss itself."""
    return min(trained_by, key=lambda name: card[trained_by[name]] / reference[trained_by[name]])


def _by_absolute_value(card, reference, trained_by):
    """The largest difference in either direction: a score that rose counts as lost."""
    return max(
        trained_by, key=lambda name: abs(card[trained_by[name]] - reference[trained_by[name]])
    )


def _first_drop(card, reference, trained_by):
    """The first change of the list that lost anything, not the one that lost most."""
    for augmentation, change in trained_by.items():
        if card[change] < reference[change]:
            return augmentation
    return next(iter(trained_by))


def _first_large_drop(card, reference, trained_by):
    """The first change of the list that lost more than 0.1, not the one that lost most."""
    for augmentation, change in trained_by.items():
        if card[change] < reference[change] - 0.1:
            return augmentation
    return next(iter(trained_by))


def _largest_gain(card, reference, trained_by):
    """The change that gained most: the difference is taken the wrong way round."""
    return max(trained_by, key=lambda name: card[trained_by[name]] - reference[trained_by[name]])


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
        "by the ratio": _by_ratio,
        "by the absolute value": _by_absolute_value,
        "the first drop": _first_drop,
        "the first large drop": _first_large_drop,
        "the largest gain": _largest_gain,
    },
    alternatives=(
        _missing_by_loop,
        _missing_by_sorting,
        _missing_in_numpy,
        _missing_by_tensors,
        _missing_by_pairs,
        _missing_by_the_other_way_round,
        _missing_by_pop,
    ),
)


# --- object_share -----------------------------------------------------------------------------


def object_share(z, z_other_background, z_other_object):
    """How often an encoder goes by the object and not by the background.

    Row i of z is a picture; row i of z_other_background is the same object on another background;
    row i of z_other_object is another object on the same background. All (N, d) float32. Returns
    one number from 0 to 1: the share of rows in which the cosine of z with z_other_background is
    larger than with z_other_object.
    """
    same_object = F.cosine_similarity(z, z_other_background, dim=1)
    same_background = F.cosine_similarity(z, z_other_object, dim=1)
    return (same_object > same_background).float().mean()


def _turned(z):
    """Vectors at a right angle to those of z, (N, 4)."""
    return torch.stack([-z[:, 1], z[:, 0], -z[:, 3], z[:, 2]], dim=1)


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
        "features that point away": (z, 0.5 * normal(10, 4) - z, normal(10, 4)),
        "an object that points away, a background that is unrelated": (z, -z, _turned(z)),
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


def _share_in_numpy(z, z_other_background, z_other_object):
    def cosine(a, b):
        a = a.numpy().astype(np.float64)
        b = b.numpy().astype(np.float64)
        return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)

    return (cosine(z, z_other_background) > cosine(z, z_other_object)).mean()


def _share_by_list(z, z_other_background, z_other_object):
    wins = [
        F.cosine_similarity(z[i], z_other_background[i], dim=0).item()
        > F.cosine_similarity(z[i], z_other_object[i], dim=0).item()
        for i in range(len(z))
    ]
    return sum(wins) / len(wins)


def _share_by_angle(z, z_other_background, z_other_object):
    z = z.double()
    to_object = F.cosine_similarity(z, z_other_background.double()).acos()
    to_background = F.cosine_similarity(z, z_other_object.double()).acos()
    return torch.count_nonzero(to_object < to_background) / len(z)


def _share_by_matrix(z, z_other_background, z_other_object):
    z, first, second = (F.normalize(v, dim=1) for v in (z, z_other_background, z_other_object))
    return ((z @ first.T).diagonal() > (z @ second.T).diagonal()).float().mean().item()


def _share_without_length_of_z(z, z_other_background, z_other_object):
    first = torch.einsum("nd,nd->n", z, z_other_background) / z_other_background.norm(dim=1)
    second = torch.einsum("nd,nd->n", z, z_other_object) / z_other_object.norm(dim=1)
    return torch.where(first > second, 1.0, 0.0).mean()


def _share_by_distance(z, z_other_background, z_other_object):
    """Distances, which depend on the lengths of the features, in place of cosines."""
    closer = (z - z_other_background).norm(dim=1) < (z - z_other_object).norm(dim=1)
    return closer.float().mean()


def _share_by_dot_product(z, z_other_background, z_other_object):
    """Dot products: the lengths are not divided out."""
    return ((z * z_other_background).sum(1) > (z * z_other_object).sum(1)).float().mean()


def _background_share(z, z_other_background, z_other_object):
    """How often the encoder goes by the background."""
    return 1 - object_share(z, z_other_background, z_other_object)


def _mean_difference(z, z_other_background, z_other_object):
    """By how much the object wins, not how often."""
    same_object = F.cosine_similarity(z, z_other_background)
    same_background = F.cosine_similarity(z, z_other_object)
    return (same_object - same_background).mean()


def _absolute_cosines(z, z_other_background, z_other_object):
    """The absolute values of the cosines: features that point away count as close."""
    same_object = F.cosine_similarity(z, z_other_background).abs()
    same_background = F.cosine_similarity(z, z_other_object).abs()
    return (same_object > same_background).float().mean()


def _ties_count(z, z_other_background, z_other_object):
    """Rows with equal cosines are counted for the object."""
    same_object = F.cosine_similarity(z, z_other_background)
    same_background = F.cosine_similarity(z, z_other_object)
    return (same_object >= same_background).float().mean()


def _cosines_of_centered(z, z_other_background, z_other_object):
    """The mean of z is taken off all features before the cosines."""
    center = z.mean(0)
    return object_share(z - center, z_other_background - center, z_other_object - center)


def _cosine_over_pictures(z, z_other_background, z_other_object):
    """Cosines along the pictures (dim 0): one for each number of a vector, not for each row."""
    same_object = F.cosine_similarity(z, z_other_background, dim=0)
    same_background = F.cosine_similarity(z, z_other_object, dim=0)
    return (same_object > same_background).float().mean()


def _compares_the_means(z, z_other_background, z_other_object):
    """One comparison of the two mean cosines, not one for each row."""
    same_object = F.cosine_similarity(z, z_other_background).mean()
    same_background = F.cosine_similarity(z, z_other_object).mean()
    return (same_object > same_background).float()


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
        "absolute values of the cosines": _absolute_cosines,
        "counts ties for the object": _ties_count,
        "centers the features": _cosines_of_centered,
        "cosines along the pictures": _cosine_over_pictures,
        "compares the means": _compares_the_means,
    },
    alternatives=(
        _share_by_normalizing,
        _share_by_loop,
        _share_in_numpy,
        _share_by_list,
        _share_by_angle,
        _share_by_matrix,
        _share_without_length_of_z,
    ),
)

EXERCISES = [INVARIANCE, MISSING_AUGMENTATION, OBJECT_SHARE]
