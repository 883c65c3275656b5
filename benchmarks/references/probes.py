"""Probes and neighbors against scikit-learn; augmentations against torchvision."""

import colorsys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from references import Compared, Row, normal

from replearn import augment, metrics, probe

# --- probes
# ----------------------------------------------------------------------------------------


class Classes(NamedTuple):
    """Overlapping classes: features (N, D), labels (N,), and as many features to test on."""

    features: torch.Tensor
    labels: torch.Tensor
    test_features: torch.Tensor


def classes(seed: int, n: int = 300, d: int = 8, c: int = 4) -> Classes:
    """Draw overlapping classes."""
    centers = normal(99, 1, c, d)[0]
    train_noise, test_noise = normal(seed, 2, n, d)
    labels = torch.arange(n) % c
    return Classes(
        features=centers[labels] + 1.5 * train_noise,
        labels=labels,
        test_features=centers[labels] + 1.5 * test_noise,
    )


def objective(model, features: torch.Tensor, labels: torch.Tensor, l2: float) -> torch.Tensor:
    """Return mean cross-entropy + l2/2 ||W||^2 of a fitted model."""
    weight = torch.as_tensor(model.coef_).double()
    bias = torch.as_tensor(model.intercept_).double()
    cross_entropy = F.cross_entropy(features @ weight.T + bias, labels)
    return cross_entropy + l2 / 2 * weight.square().sum()


def softmax_regressions(problem: Classes, l2: float) -> Compared:
    """Fit the package's probe, scikit-learn's, and the package's with twice the penalty."""
    from sklearn.linear_model import LogisticRegression

    features, labels, _ = problem
    # C weighs the sum of the losses against the penalty.
    theirs = LogisticRegression(
        C=1 / (len(features) * l2), tol=1e-10, max_iter=5000, solver="newton-cg"
    )
    return Compared(
        ours=probe.LinearProbe(l2=l2, standardize=False).fit(features, labels),
        expected=theirs.fit(features.numpy(), labels.numpy()),
        faulty=probe.LinearProbe(l2=2 * l2, standardize=False).fit(features, labels),
    )


def probe_objective(seed: int, l2: float = 0.01) -> Compared:
    """How low each probe's objective is."""
    problem = classes(seed)
    models = softmax_regressions(problem, l2)
    return Compared(*(objective(model, problem.features, problem.labels, l2) for model in models))


def probe_probabilities(seed: int) -> Compared:
    """What each probe says of rows that it has not seen."""
    problem = classes(seed)
    models = softmax_regressions(problem, l2=0.01)
    test = problem.test_features
    return Compared(
        models.ours.predict_proba(test),
        models.expected.predict_proba(test.numpy()),
        models.faulty.predict_proba(test),
    )


def ridge_r2(seed: int, l2: float = 0.01) -> Compared:
    """Held-out R^2 of scikit-learn's ridge regression on standardized features."""
    from sklearn.linear_model import Ridge
    from sklearn.metrics import r2_score
    from sklearn.preprocessing import StandardScaler

    train, _, test = classes(seed)
    weight = normal(seed + 100, 1, 2, 1)[0]

    def target(features: torch.Tensor) -> torch.Tensor:
        return features[:, :2] @ weight + features[:, 2:3].sin()

    y_train = target(train)
    y_test = target(test)
    scaler = StandardScaler().fit(train.numpy())
    model = Ridge(alpha=len(train) * l2).fit(scaler.transform(train.numpy()), y_train.numpy())
    predicted = model.predict(scaler.transform(test.numpy()))
    return Compared(
        ours=probe.linear_regression_r2(train, y_train, test, y_test, l2=l2),
        expected=r2_score(y_test.numpy(), predicted),
        faulty=probe.linear_regression_r2(train, y_train, train, y_train, l2=l2),
    )


# --- neighbors
# -------------------------------------------------------------------------------------


def neighbor_weights(distances: np.ndarray) -> np.ndarray:
    """The weights of Wu et al. 2018 by cosine distance, at a temperature of 0.1."""
    return np.exp((1 - distances) / 0.1)


def knn_scikit_learn(seed: int) -> Compared:
    """scikit-learn's labels."""
    from sklearn.neighbors import KNeighborsClassifier

    features, labels, test = classes(seed)
    theirs = KNeighborsClassifier(20, metric="cosine", weights=neighbor_weights)
    theirs.fit(features.numpy(), labels.numpy())
    plain = KNeighborsClassifier(20).fit(features.numpy(), labels.numpy())
    return Compared(
        probe.knn_predict(features, labels, test),
        theirs.predict(test.numpy()),
        plain.predict(test.numpy()),
    )


def precision_scikit_learn(seed: int) -> Compared:
    """scikit-learn's neighbors: how many have the query's label."""
    from sklearn.neighbors import NearestNeighbors

    features, labels, _ = classes(seed)
    nearest = NearestNeighbors().fit(features.numpy())
    others = nearest.kneighbors(n_neighbors=10, return_distance=False)
    with_itself = nearest.kneighbors(features.numpy(), n_neighbors=10, return_distance=False)

    def share_of_same_label(neighbors: np.ndarray) -> float:
        return (labels.numpy()[neighbors] == labels.numpy()[:, None]).mean()

    return Compared(
        metrics.precision_at_k(features, labels, k=10),
        share_of_same_label(others),
        share_of_same_label(with_itself),
    )


# --- augmentations
# ---------------------------------------------------------------------------------


def random_images(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (8, 3, 16, 12) and a number in [0, 1] for each.

    One image is gray, one has only primary colors, and in one red and green are equal.
    """
    images = torch.rand(8, 3, 16, 12, generator=torch.Generator().manual_seed(seed))
    images[0] = images[0, :1]
    images[1] = images[1].round()
    images[2, 0] = images[2, 1]
    return images, torch.rand(8, generator=torch.Generator().manual_seed(seed + 100))


def for_each_image(
    function: Callable[[torch.Tensor, float], torch.Tensor],
    images: torch.Tensor,
    factors: torch.Tensor,
) -> torch.Tensor:
    """Call a function of one image and one factor for every image."""
    pairs = zip(images, factors.tolist(), strict=True)
    return torch.stack([function(image, factor) for image, factor in pairs])


def adjustment(name: str, seed: int) -> Compared:
    """torchvision's adjustment, one image after the other."""
    from torchvision.transforms import functional

    images, u = random_images(seed)
    factors = u - 0.5 if name == "hue" else 2 * u
    ours = getattr(augment, f"adjust_{name}")
    theirs = getattr(functional, f"adjust_{name}")
    return Compared(
        ours(images, factors),
        for_each_image(theirs, images, factors),
        ours(images, 0.95 * factors),
    )


def hue_colorsys(seed: int) -> Compared:
    """Python's colorsys, pixel by pixel."""

    def turned(image: torch.Tensor, turn: float) -> torch.Tensor:
        pixels = []
        for red, green, blue in image.flatten(1).T.tolist():
            hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
            pixels.append(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value))
        return torch.tensor(pixels).T.view_as(image)

    images, u = random_images(seed)
    turns = u - 0.5
    return Compared(
        augment.adjust_hue(images, turns),
        for_each_image(turned, images, turns),
        augment.adjust_hue(images, -turns),
    )


def crop(seed: int) -> Compared:
    """torchvision's resized crop, one box for each image."""
    from torchvision.transforms import functional

    images, u = random_images(seed)
    top = (4 * u).floor()
    left = (3 * u.flip(0)).floor()
    height = 4 + (8 * u).floor()
    width = 3 + (6 * u).floor()
    boxes = torch.stack([top, left, height, width], 1)

    def cut(antialias: bool) -> torch.Tensor:
        crops = []
        for image, box in zip(images, boxes.int().tolist(), strict=True):
            crops.append(functional.resized_crop(image, *box, [6, 7], antialias=antialias))
        return torch.stack(crops)

    return Compared(augment.resized_crop(images, boxes, (6, 7)), cut(True), cut(False))


def gray(seed: int) -> Compared:
    """torchvision's gray."""
    from torchvision.transforms import functional

    images, _ = random_images(seed)
    return Compared(
        augment.random_grayscale(images, p=1),
        functional.rgb_to_grayscale(images, 3),
        images.mean(1, keepdim=True).expand_as(images),
    )


def blur(seed: int) -> Compared:
    """torchvision's Gaussian blur."""
    from torchvision.transforms import functional

    images, u = random_images(seed)
    sigma = 0.3 + u[0].item()

    def ours(sigma: float) -> torch.Tensor:
        return augment.gaussian_blur(images, p=1, sigma=sigma, kernel_size=5)

    return Compared(ours(sigma), functional.gaussian_blur(images, 5, sigma), ours(1.1 * sigma))


# --- the rows
# --------------------------------------------------------------------------------------

TWICE = "penalty twice as large"
LOGISTIC = "LogisticRegression, newton-cg"
ROWS = [
    Row(
        quantity="linear probe: objective reached",
        lesson="02",
        check=probe_objective,
        reference=LOGISTIC,
        allowed=1e-6,
        fault=TWICE,
        peer="scikit-learn",
    ),
    Row(
        quantity="linear probe: probabilities on test rows",
        lesson="02",
        check=probe_probabilities,
        reference=LOGISTIC,
        allowed=1e-3,
        fault=TWICE,
        peer="scikit-learn",
    ),
    Row(
        quantity="held-out R² of a linear probe",
        lesson="02",
        check=ridge_r2,
        reference="Ridge on StandardScaler",
        allowed=1e-9,
        fault="measured on the training rows",
        peer="scikit-learn",
    ),
    Row(
        quantity="kNN: predicted labels of 300 rows",
        lesson="02",
        check=knn_scikit_learn,
        reference="KNeighborsClassifier, cosine",
        allowed=0,
        fault="Euclidean and unweighted",
        peer="scikit-learn",
    ),
    Row(
        quantity="precision at 10",
        lesson="01",
        check=precision_scikit_learn,
        reference="NearestNeighbors",
        allowed=1e-9,
        fault="each row its own neighbor",
        peer="scikit-learn",
    ),
    *(
        Row(
            quantity=f"{name}, a factor for each picture",
            lesson="06, 12",
            check=partial(adjustment, name),
            reference=f"functional.adjust_{name}",
            allowed=1e-5,
            fault="factor 5 % off",
            peer="torchvision",
        )
        for name in ("brightness", "contrast", "saturation", "hue")
    ),
    Row(
        quantity="hue, a turn for each picture",
        lesson="06, 12",
        check=hue_colorsys,
        reference="colorsys (Python), pixel by pixel",
        allowed=1e-5,
        fault="turned the other way",
    ),
    Row(
        quantity="resized crop, a box for each picture",
        lesson="06, 12",
        check=crop,
        reference="functional.resized_crop",
        allowed=1e-5,
        fault="not antialiased",
        peer="torchvision",
    ),
    Row(
        quantity="grayscale",
        lesson="06, 12",
        check=gray,
        reference="functional.rgb_to_grayscale",
        allowed=1e-5,
        fault="mean of the channels",
        peer="torchvision",
    ),
    Row(
        quantity="Gaussian blur, 5 x 5",
        lesson="06, 12",
        check=blur,
        reference="functional.gaussian_blur",
        allowed=1e-5,
        fault="sigma 10 % off",
        peer="torchvision",
    ),
]
