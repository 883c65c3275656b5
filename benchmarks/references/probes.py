"""Probes and neighbors against scikit-learn at the same objective; augmentations at given parameters."""

import colorsys

import numpy as np
import torch
import torch.nn.functional as F

from references import normal
from replearn import augment, metrics, probe


def classes(seed, n=300, d=8, c=4):
    """Overlapping classes (n, d), labels (n,), and as many to test on."""
    (centers,), noise = normal(99, 1, c, d), normal(seed, 2, n, d)
    y = torch.arange(n) % c
    return centers[y] + 1.5 * noise[0], y, centers[y] + 1.5 * noise[1], y


def objective(coef, intercept, z, y, l2):
    coef, intercept = (torch.as_tensor(v).double() for v in (coef, intercept))
    return F.cross_entropy(z @ coef.T + intercept, y) + l2 / 2 * coef.square().sum()


def softmax_regressions(seed, l2=0.01):
    """The package's probe, scikit-learn's at the same objective, and the package's with twice the penalty."""
    from sklearn.linear_model import LogisticRegression

    z, y, test, _ = classes(seed)
    theirs = LogisticRegression(C=1 / (len(z) * l2), tol=1e-10, max_iter=5000, solver="newton-cg")
    models = (
        probe.LinearProbe(l2=l2, standardize=False).fit(z, y),
        theirs.fit(z.numpy(), y.numpy()),
        probe.LinearProbe(l2=2 * l2, standardize=False).fit(z, y),
    )
    return models, z, y, test, l2


def probe_objective(seed):
    models, z, y, _, l2 = softmax_regressions(seed)
    return [objective(m.coef_, m.intercept_, z, y, l2) for m in models]


def probe_probabilities(seed):
    (ours, theirs, faulty), _, _, test, _ = softmax_regressions(seed)
    return ours.predict_proba(test), theirs.predict_proba(test.numpy()), faulty.predict_proba(test)


def ridge_r2(seed, l2=0.01):
    from sklearn.linear_model import Ridge
    from sklearn.metrics import r2_score
    from sklearn.preprocessing import StandardScaler

    z, _, test, _ = classes(seed)
    y, y_test = (v[:, :2] @ normal(seed + 100, 1, 2, 1)[0] + v[:, 2:3].sin() for v in (z, test))
    scaler = StandardScaler().fit(z.numpy())
    model = Ridge(alpha=len(z) * l2).fit(scaler.transform(z.numpy()), y.numpy())
    expected = r2_score(y_test.numpy(), model.predict(scaler.transform(test.numpy())))
    return (
        probe.linear_regression_r2(z, y, test, y_test, l2=l2),
        expected,
        probe.linear_regression_r2(z, y, z, y, l2=l2),
    )


def knn_scikit_learn(seed):
    from sklearn.neighbors import KNeighborsClassifier

    z, y, test, _ = classes(seed)
    theirs = KNeighborsClassifier(20, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.1))
    plain = KNeighborsClassifier(20).fit(z.numpy(), y.numpy())
    return (
        probe.knn_predict(z, y, test),
        theirs.fit(z.numpy(), y.numpy()).predict(test.numpy()),
        plain.predict(test.numpy()),
    )


def precision_scikit_learn(seed):
    from sklearn.neighbors import NearestNeighbors

    z, y, *_ = classes(seed)
    nearest = NearestNeighbors().fit(z.numpy())
    share = lambda found: (y.numpy()[found] == y.numpy()[:, None]).mean()
    others = nearest.kneighbors(n_neighbors=10, return_distance=False)
    with_itself = nearest.kneighbors(z.numpy(), n_neighbors=10, return_distance=False)
    return metrics.precision_at_k(z, y, k=10), share(others), share(with_itself)


def pictures(seed):
    """Random pictures with gray, primary colors and ties among them, and one number in [0, 1] for each."""
    x = torch.rand(8, 3, 16, 12, generator=torch.Generator().manual_seed(seed))
    x[0], x[1], x[2, 0] = x[0, :1], x[1].round(), x[2, 1]
    return x, torch.rand(8, generator=torch.Generator().manual_seed(seed + 100))


def each(function, x, factors):
    return torch.stack(
        [function(image, factor.item()) for image, factor in zip(x, factors, strict=True)]
    )


def adjustment(name):
    def check(seed):
        from torchvision.transforms import functional as TF

        x, u = pictures(seed)
        factor, ours = (u - 0.5 if name == "hue" else 2 * u), getattr(augment, f"adjust_{name}")
        return (
            ours(x, factor),
            each(getattr(TF, f"adjust_{name}"), x, factor),
            ours(x, 0.95 * factor),
        )

    return check


def hue_colorsys(seed):
    x, u = pictures(seed)

    def turned(image, turn):
        hsv = (colorsys.rgb_to_hsv(*color) for color in image.flatten(1).T.tolist())
        return torch.tensor(
            [colorsys.hsv_to_rgb((h + turn) % 1, s, v) for h, s, v in hsv]
        ).T.view_as(image)

    return augment.adjust_hue(x, u - 0.5), each(turned, x, u - 0.5), augment.adjust_hue(x, 0.5 - u)


def crop(seed):
    from torchvision.transforms import functional as TF

    x, u = pictures(seed)
    boxes = torch.stack(
        [(4 * u).floor(), (3 * u.flip(0)).floor(), 4 + (8 * u).floor(), 3 + (6 * u).floor()], 1
    )

    def cut(antialias):
        return torch.stack(
            [
                TF.resized_crop(image, *map(int, box), [6, 7], antialias=antialias)
                for image, box in zip(x, boxes, strict=True)
            ]
        )

    return augment.resized_crop(x, boxes, (6, 7)), cut(True), cut(False)


def gray(seed):
    from torchvision.transforms import functional as TF

    x, _ = pictures(seed)
    return (
        augment.random_grayscale(x, p=1),
        TF.rgb_to_grayscale(x, 3),
        x.mean(1, keepdim=True).expand_as(x),
    )


def blur(seed):
    from torchvision.transforms import functional as TF

    x, u = pictures(seed)
    sigma = 0.3 + u[0].item()
    ours = lambda s: augment.gaussian_blur(x, p=1, sigma=s, kernel_size=5)
    return ours(sigma), TF.gaussian_blur(x, 5, sigma), ours(1.1 * sigma)


PIXELS = dict(lesson="06, 12", allowed=1e-5, peer="torchvision")
ROWS = [
    dict(
        check=probe_objective,
        quantity="linear probe: objective reached",
        lesson="02",
        fault="penalty twice as large",
        allowed=1e-6,
        reference="LogisticRegression, newton-cg",
        peer="scikit-learn",
    ),
    dict(
        check=probe_probabilities,
        quantity="linear probe: probabilities on test rows",
        lesson="02",
        allowed=1e-3,
        fault="penalty twice as large",
        reference="LogisticRegression, newton-cg",
        peer="scikit-learn",
    ),
    dict(
        check=ridge_r2,
        quantity="held-out R² of a linear probe",
        lesson="02",
        fault="measured on the training rows",
        allowed=1e-9,
        reference="Ridge on StandardScaler",
        peer="scikit-learn",
    ),
    dict(
        check=knn_scikit_learn,
        quantity="kNN: predicted labels of 300 rows",
        lesson="02",
        allowed=0,
        fault="Euclidean and unweighted",
        reference="KNeighborsClassifier, cosine",
        peer="scikit-learn",
    ),
    dict(
        check=precision_scikit_learn,
        quantity="precision at 10",
        lesson="01",
        fault="each row its own neighbor",
        allowed=1e-9,
        reference="NearestNeighbors",
        peer="scikit-learn",
    ),
    *(
        dict(
            check=adjustment(name),
            quantity=f"{name}, a factor for each picture",
            fault="factor 5 % off",
            reference=f"functional.adjust_{name}",
            **PIXELS,
        )
        for name in ("brightness", "contrast", "saturation", "hue")
    ),
    dict(
        check=hue_colorsys,
        quantity="hue, a turn for each picture",
        lesson="06, 12",
        fault="turned the other way",
        allowed=1e-5,
        reference="colorsys (Python), pixel by pixel",
    ),
    dict(
        check=crop,
        quantity="resized crop, a box for each picture",
        fault="not antialiased",
        reference="functional.resized_crop",
        **PIXELS,
    ),
    dict(
        check=gray,
        quantity="grayscale",
        fault="mean of the channels",
        reference="functional.rgb_to_grayscale",
        **PIXELS,
    ),
    dict(
        check=blur,
        quantity="Gaussian blur, 5 x 5",
        fault="sigma 10 % off",
        reference="functional.gaussian_blur",
        **PIXELS,
    ),
]
