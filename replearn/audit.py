"""The audit card: what an encoder ignores, how healthy its features are, where retrieval fails. N pictures, D features.

One call on any encoder that maps pictures (N, 3, H, W) in [0, 1] to features (N, D):
`card(audit(encoder, images, labels))`.
"""

import math

import torch
import torch.nn.functional as F

from replearn import _check, augment, metrics, plot, probe

FEWEST = 20  # pictures: below that the spread between pictures is a guess


def _moved(x, pixels=3):
    """Everything `pixels` to the right; the left edge is repeated."""
    return F.pad(x, (pixels, 0, 0, 0), mode="replicate")[..., : x.shape[-1]]


def _turned(x, degrees=20):
    """The camera turned; the border is repeated."""
    a = math.radians(degrees)
    turn = torch.tensor([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0]]).to(x)
    where = F.affine_grid(turn.expand(len(x), 2, 3), x.shape, align_corners=False)
    return F.grid_sample(x, where, padding_mode="border", align_corners=False)


def _cropped(x, area=0.5):
    """The middle `area` of each picture, resized to the whole."""
    (h, w), side = x.shape[2:], area**0.5
    height, width = round(h * side), round(w * side)
    box = torch.tensor([(h - height) // 2, (w - width) // 2, height, width])
    return augment.resized_crop(x, box.expand(len(x), 4))


def _noisy(x, std=0.1):
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return (x + std * noise.to(x)).clamp(0, 1)


def _patched(x):
    """A gray patch, a quarter of each side, over the middle."""
    (h, w), x = x.shape[2:], x.clone()
    x[:, :, h * 3 // 8 : h * 5 // 8, w * 3 // 8 : w * 5 // 8] = 0.5
    return x


CHANGES = {  # name: a change of float pictures (N, 3, H, W), the same for every picture
    "moved 3 pixels": _moved,
    "turned 20°": _turned,
    "mirrored": lambda x: x.flip(3),
    "middle half": _cropped,
    "other hue": lambda x: augment.adjust_hue(x, 0.3),
    "half as bright": lambda x: augment.adjust_brightness(x, 0.5),
    "low contrast": lambda x: augment.adjust_contrast(x, 0.5),
    "gray": lambda x: augment.random_grayscale(x, p=1.0),
    "blurred": lambda x: augment.gaussian_blur(x, p=1.0, sigma=(1.0, 1.0), kernel_size=5),
    "noise": _noisy,
    "patch hidden": _patched,
}


def invariance(z, z_changed):
    """How little a change moves the features: 1 - mean_i ||z'_i - z_i||^2 / mean_{i != j} ||z_i - z_j||^2.

    z, z_changed: (N, D), row i of the same picture before and after, N >= 2. Returns a float: 1 if nothing moved, 0 if
    a picture moves as far as to another picture (it can be negative); 1.0 if z is constant and stays. The ratio is
    Jansen's estimate of a total Sobol index. Raises ValueError. Source: Jansen 1999."""
    _check.finite("z", z, min_rows=2)
    _check.finite("z_changed", z_changed)
    _check.same_shape("z", z, "z_changed", z_changed)
    z, z_changed = z.double(), z_changed.double()
    moved = (z_changed - z).square().sum(1).mean().item()
    apart = 2 * z.var(0).sum().item()  # equals the mean over all pairs of different pictures
    if apart <= 1e-12 * z.square().sum(1).mean().item():
        return 1.0 if moved == 0 else -math.inf
    return 1 - moved / apart


def audit(encoder, images, labels=None, *, changes=CHANGES, k=20):
    """Audit an encoder on pictures that it was not trained on; returns a dict for `card`, also good for JSON.

    images: (N, 3, H, W), uint8 or float in [0, 1], N >= 20; labels: (N,) or None, two classes or more. changes: {name:
    a function of float pictures}. Keys: invariance {name: score}, collapse (metrics.collapse_meter), alignment,
    uniformity, and with labels knn (accuracy among the other pictures) and wrong: [(query, neighbor), ...], indexes of
    the closest pairs of different classes. Raises ValueError, TypeError."""
    x = augment.to_float(images)
    if len(x) < max(FEWEST, k + 1):
        raise ValueError(f"images: expected {max(FEWEST, k + 1)} or more, found {len(x)}")
    h = probe.extract_features(encoder, x)
    z = F.normalize(h, dim=1)
    scores = {}
    for name, change in changes.items():
        scores[name] = invariance(h, probe.extract_features(encoder, change(x)))
    views = augment.two_views(x, generator=torch.Generator().manual_seed(0))
    views = [probe.extract_features(encoder, view) for view in views]
    report = dict(
        invariance=scores,
        collapse=metrics.collapse_meter(h),
        uniformity=metrics.uniformity(h).item(),
        alignment=metrics.alignment(*views).item(),
        pictures=len(x),
    )
    if labels is not None:
        y = _check.labels("labels", labels, len(x)).to(z.device)
        if len(y.unique()) < 2:
            raise ValueError(
                "labels: expected two classes or more, found one: nothing can be confused"
            )
        cosine = (z @ z.T).fill_diagonal_(-2)
        nearest, where = cosine.max(1)
        report["knn"] = _leave_one_out(cosine, y, k)
        wrong = (y[where] != y).nonzero()[:, 0]
        wrong = wrong[nearest[wrong].argsort(descending=True)].tolist()
        pairs = {
            frozenset((i, where[i].item())): (i, where[i].item()) for i in reversed(wrong)
        }  # each pair once
        report["wrong"] = list(pairs.values())[::-1][:8]
    return report


def _leave_one_out(cosine, y, k, temperature=0.1):
    """Accuracy of the weighted kNN vote (probe.knn_predict) with every picture as a query against all others."""
    classes, target = y.unique(return_inverse=True)
    value, nearest = cosine.topk(k)
    votes = F.one_hot(target[nearest], len(classes)) * (value / temperature).exp()[..., None]
    return (votes.sum(1).argmax(1) == target).double().mean().item()


def card(report, images, *, title="Audit card"):
    """Draw a report on one page: invariances, vital signs, with labels the worst retrievals; returns the figure."""
    plt = plot.style()
    figure = plt.figure(figsize=(8.6, 4.4))
    left, right = figure.subfigures(1, 2, width_ratios=(1.25, 1))
    names, scores = zip(*report["invariance"].items(), strict=True)
    ax = left.subplots()
    shown = [max(-1.0, score) for score in scores]
    ax.barh(
        names, shown, color=[plot.COLORS[0] if score > 0 else plot.COLORS[5] for score in scores]
    )
    for i, score in enumerate(scores):
        ax.text(1.03, i, f"{score:.2f}", va="center", fontsize=9)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set(
        xlim=(min(-0.1, *shown), 1.18),
        title=title,
        xlabel="invariance: 1 unmoved, 0 as far as another picture",
    )
    ax.invert_yaxis()
    collapse = report["collapse"]
    signs = {
        "effective rank": f"{collapse['effective_rank']:.0f}",
        "mean cosine": f"{collapse['mean_cosine']:.2f}",
        "alignment": f"{report['alignment']:.2f}",
        "uniformity": f"{report['uniformity']:.2f}",
    }
    if "knn" in report:
        signs["kNN accuracy"] = f"{report['knn']:.1%}"
    pairs = report.get("wrong", [])[:4]
    top, bottom = right.subfigures(2, 1, height_ratios=(1, 1.1))
    top.text(0.08, 0.9, "\n".join(signs), va="top", fontsize=10, linespacing=1.5)
    top.text(0.62, 0.9, "\n".join(signs.values()), va="top", fontsize=10, linespacing=1.5)
    if pairs:
        bottom.suptitle("Closest pairs of different classes", fontsize=10)
        axes = bottom.subplots(2, len(pairs), squeeze=False)
        for column, pair in enumerate(pairs):
            for ax, i in zip(axes[:, column], pair, strict=True):
                ax.imshow(augment.to_float(images[i : i + 1])[0].permute(1, 2, 0).cpu().numpy())
                ax.set(xticks=[], yticks=[])
    return figure
