r"""The audit of an encoder: what it ignores, how healthy its features are, where retrieval fails.

One call on any encoder that maps images (N, 3, H, W) in [0, 1] to features (N, D):
`card(audit(encoder, images, labels), images)`. Dimensions: N images, D features.
"""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from replearn import _check, _device, augment, metrics, plot, probe
from replearn.losses import unit_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

Change = Callable[[torch.Tensor], torch.Tensor]

FEWEST = 20  # images; with fewer the spread between images is a guess
MOST_PAIRS = 8  # of confused images in a report
SHOWN_PAIRS = 4  # of them in the figure


# --- changes --------------------------------------------------------------------------------------
# Each takes float images (N, 3, H, W) in [0, 1], changes all of them in the same way and returns
# new ones in [0, 1].


def _move_right(images: torch.Tensor, pixels: int = 3) -> torch.Tensor:
    """Move everything to the right; the left edge is repeated."""
    width = images.shape[-1]
    return F.pad(images, (pixels, 0, 0, 0), mode="replicate")[..., :width]


def _rotate(images: torch.Tensor, degrees: float = 20) -> torch.Tensor:
    """Rotate around the center; the border is repeated."""
    angle = math.radians(degrees)
    cos = math.cos(angle)
    sin = math.sin(angle)
    rotation = torch.tensor([[cos, -sin, 0], [sin, cos, 0]]).to(images)
    rotations = rotation.expand(len(images), 2, 3)
    source = F.affine_grid(rotations, images.shape, align_corners=False)
    return F.grid_sample(images, source, padding_mode="border", align_corners=False)


def _mirror(images: torch.Tensor) -> torch.Tensor:
    """Swap left and right."""
    return images.flip(3)


def _crop_middle(images: torch.Tensor, area: float = 0.5) -> torch.Tensor:
    """Cut out the middle, so much of the area, and resize it to the whole."""
    height, width = images.shape[2:]
    box_height = round(height * area**0.5)
    box_width = round(width * area**0.5)
    top = (height - box_height) // 2
    left = (width - box_width) // 2
    box = torch.tensor([top, left, box_height, box_width])
    return augment.resized_crop(images, box.expand(len(images), 4))


def _shift_hue(images: torch.Tensor) -> torch.Tensor:
    """Shift the hue by 0.3 of a turn around the color wheel."""
    return augment.adjust_hue(images, 0.3)


def _darken(images: torch.Tensor) -> torch.Tensor:
    """Halve the brightness."""
    return augment.adjust_brightness(images, 0.5)


def _lower_contrast(images: torch.Tensor) -> torch.Tensor:
    """Halve the contrast."""
    return augment.adjust_contrast(images, 0.5)


def _remove_color(images: torch.Tensor) -> torch.Tensor:
    """Turn to gray."""
    return augment.random_grayscale(images, p=1.0)


def _blur(images: torch.Tensor) -> torch.Tensor:
    """Blur by a Gaussian with a standard deviation of one pixel."""
    return augment.gaussian_blur(images, p=1.0, sigma=(1.0, 1.0), kernel_size=5)


def _add_noise(images: torch.Tensor, std: float = 0.1) -> torch.Tensor:
    """Add Gaussian noise, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=generator)
    return (images + std * noise.to(images)).clamp(0, 1)


def _hide_patch(images: torch.Tensor) -> torch.Tensor:
    """Cover the middle by a gray patch, a quarter of each side long."""
    height, width = images.shape[2:]
    rows = slice(height * 3 // 8, height * 5 // 8)
    columns = slice(width * 3 // 8, width * 5 // 8)
    images = images.clone()
    images[:, :, rows, columns] = 0.5
    return images


CHANGES: dict[str, Change] = {
    "moved 3 pixels": _move_right,
    "turned 20°": _rotate,
    "mirrored": _mirror,
    "middle half": _crop_middle,
    "other hue": _shift_hue,
    "half as bright": _darken,
    "low contrast": _lower_contrast,
    "gray": _remove_color,
    "blurred": _blur,
    "noise": _add_noise,
    "patch hidden": _hide_patch,
}


# --- measuring ------------------------------------------------------------------------------------


def invariance(z: torch.Tensor, z_changed: torch.Tensor) -> float:
    r"""Return how little a change of the images moves their features.

    .. math:: invariance = 1 - \frac{mean_i \, \|z'_i - z_i\|^2}
        {mean_{i \neq j} \, \|z_i - z_j\|^2}

    The ratio is Jansen's estimate of a total Sobol index: the share of the variance of the
    features that the change accounts for.

    Args:
        z: Features (N, D) of images, N >= 2.
        z_changed: Features (N, D) of the same images after the change, in the same order.

    Returns:
        A number without unit, at most 1. 1 means that nothing moved, 0 that an image moves as far
        as to another image; it can be negative. If all images have the same features, it is 1.0
        if they stay and minus infinity if they move.

    Raises:
        ValueError: The shapes differ, there are too few rows, NaN or infinity.
        TypeError: An argument is not a floating-point tensor.

    References:
        Jansen 1999, "Analysis of variance designs for model output".

    Example:
        >>> z = torch.tensor([[0.0], [1.0], [2.0]])  # mean squared distance of two rows: 2
        >>> invariance(z, z), invariance(z, z + 1)
        (1.0, 0.5)
    """
    _check.finite("z", z, min_rows=2)
    _check.finite("z_changed", z_changed)
    _check.same_shape("z", z, "z_changed", z_changed)
    z = _device.double(z)
    z_changed = _device.double(z_changed)
    moved = (z_changed - z).square().sum(1).mean().item()
    # Twice the variance (over N - 1) is the mean squared distance of all pairs of different rows.
    apart = 2 * z.var(0).sum().item()
    rounding_noise = 1e-12 * z.square().sum(1).mean().item()
    if apart <= rounding_noise:
        return 1.0 if moved == 0 else -math.inf
    return 1 - moved / apart


def audit(
    encoder: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor | None = None,
    *,
    changes: Mapping[str, Change] = CHANGES,
    k: int = 20,
) -> dict[str, Any]:
    """Audit an encoder on images that it was not trained on.

    Args:
        encoder: Maps images (n, 3, H, W) in [0, 1] to features (n, D).
        images: (N, 3, H, W), uint8 or floats in [0, 1]; N >= 20 and N > k.
        labels: (N,) integers, two classes or more, or None.
        changes: What the images are changed by: a name, and a function of float images
            (N, 3, H, W) that returns as many.
        k: Neighbors that vote in the kNN accuracy.

    Returns:
        A report, for `card`, and good for JSON:

        - `invariance`: the score of each change by its name, see `invariance`;
        - `collapse`: see `metrics.collapse_meter`;
        - `uniformity`: see `metrics.uniformity`;
        - `alignment`: see `metrics.alignment`, of two views by `augment.two_views`;
        - `pictures`: N;
        - with labels, `knn`: the fraction of images whose label the k nearest others vote for;
        - with labels, `wrong`: at most 8 pairs (query, nearest neighbor) of different classes, as
          indexes of images, the closest first.

    Raises:
        ValueError: There are too few images, they are out of range, the labels do not fit, or the
            encoder's features are not finite.
        TypeError: The labels are not integers.

    Example:
        >>> images = torch.rand(30, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> mean_color = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> report = audit(mean_color, images)
        >>> round(report["invariance"]["mirrored"], 4)
        1.0
    """
    images = augment.to_float(images)
    fewest = max(FEWEST, k + 1)
    if len(images) < fewest:
        raise ValueError(f"images: expected {fewest} or more, found {len(images)}")
    if labels is not None:
        labels = _check.labels("labels", labels, len(images))
        if len(labels.unique()) < 2:
            raise ValueError(
                "labels: expected two classes or more, found one: nothing can be confused"
            )

    h = probe.extract_features(encoder, images)
    scores = {}
    for name, change in changes.items():
        scores[name] = invariance(h, probe.extract_features(encoder, change(images)))
    view_1, view_2 = augment.two_views(images, generator=torch.Generator().manual_seed(0))
    h_1 = probe.extract_features(encoder, view_1)
    h_2 = probe.extract_features(encoder, view_2)
    report = {
        "invariance": scores,
        "collapse": metrics.collapse_meter(h),
        "uniformity": metrics.uniformity(h).item(),
        "alignment": metrics.alignment(h_1, h_2).item(),
        "pictures": len(images),
    }
    if labels is not None:
        report |= _retrieval(h, labels.to(h.device), k)
    return report


def _retrieval(h: torch.Tensor, labels: torch.Tensor, k: int) -> dict[str, Any]:
    """Look up every image among all others; return the part of a report that needs labels."""
    z = unit_rows(h)
    cosine = (z @ z.T).fill_diagonal_(-2)  # below every cosine: no image is its own neighbor
    voted = probe.knn_vote(cosine, labels, k=k)
    return {
        "knn": (voted == labels).sum().item() / len(labels),
        "wrong": _closest_confusions(cosine, labels),
    }


def _closest_confusions(cosine: torch.Tensor, labels: torch.Tensor) -> list[tuple[int, int]]:
    """Return pairs (query, nearest neighbor) of different classes, the closest first."""
    closeness, nearest = cosine.max(1)
    queries = (labels[nearest] != labels).nonzero()[:, 0]
    queries = queries[closeness[queries].argsort(descending=True)]
    # Two images can be each other's neighbor. Going from far to near, the later entry of such a
    # pair replaces the earlier one, so that each pair is named once, from its closer query.
    pairs = {}
    for query in reversed(queries.cpu().tolist()):
        neighbor = nearest[query].item()
        pairs[frozenset((query, neighbor))] = (query, neighbor)
    closest_first = list(reversed(pairs.values()))
    return closest_first[:MOST_PAIRS]


# --- drawing --------------------------------------------------------------------------------------


def card(report: Mapping[str, Any], images: torch.Tensor, *, title: str = "Audit card") -> "Figure":
    """Draw a report on one page: invariances, vital signs and, with labels, the worst retrievals.

    Args:
        report: What `audit` returned, or the same read from JSON.
        images: The images (N, 3, H, W) that were audited, uint8 or floats in [0, 1].
        title: Stands above the invariances.

    Returns:
        The figure.

    Example:
        >>> images = torch.rand(30, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> figure = card(audit(nn.Flatten(), images), images, title="Pixels")
        >>> figure.axes[0].get_title(loc="left")
        'Pixels'
    """
    figure = plot.style().figure(figsize=(8.6, 4.4))
    left, right = figure.subfigures(1, 2, width_ratios=(1.25, 1))
    top_right, bottom_right = right.subfigures(2, 1, height_ratios=(1, 1.1))
    _draw_invariances(left, report["invariance"], title)
    _draw_vital_signs(top_right, report)
    pairs = report.get("wrong", [])[:SHOWN_PAIRS]
    if pairs:
        _draw_confusions(bottom_right, pairs, images)
    return figure


def _draw_invariances(panel: "SubFigure", scores: Mapping[str, float], title: str) -> None:
    """Draw a bar for each change; below 0 it has another color."""
    ax = panel.subplots()
    lengths = [max(-1.0, score) for score in scores.values()]  # minus infinity has to end somewhere
    colors = [plot.COLORS[0] if score > 0 else plot.COLORS[5] for score in scores.values()]
    ax.barh(list(scores), lengths, color=colors)
    for row, score in enumerate(scores.values()):
        ax.text(1.03, row, f"{score:.2f}", va="center", fontsize=9)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set(
        xlim=(min(-0.1, *lengths), 1.18),
        title=title,
        xlabel="invariance: 1 unmoved, 0 as far as another picture",
    )
    ax.invert_yaxis()


def _draw_vital_signs(panel: "SubFigure", report: Mapping[str, Any]) -> None:
    """Write the names of the vital signs in one column and their values in another."""
    collapse = report["collapse"]
    signs = {
        "effective rank": f"{collapse['effective_rank']:.0f}",
        "mean cosine": f"{collapse['mean_cosine']:.2f}",
        "alignment": f"{report['alignment']:.2f}",
        "uniformity": f"{report['uniformity']:.2f}",
    }
    if "knn" in report:
        signs["kNN accuracy"] = f"{report['knn']:.1%}"
    look = {"va": "top", "fontsize": 10, "linespacing": 1.5}
    panel.text(0.08, 0.9, "\n".join(signs), **look)
    panel.text(0.62, 0.9, "\n".join(signs.values()), **look)


def _draw_confusions(
    panel: "SubFigure", pairs: list[tuple[int, int]], images: torch.Tensor
) -> None:
    """Draw each pair as a column: the query above, its nearest neighbor below."""
    panel.suptitle("Closest pairs of different classes", fontsize=10)
    axes = panel.subplots(2, len(pairs), squeeze=False)
    for column, pair in enumerate(pairs):
        for row, index in enumerate(pair):
            image = augment.to_float(images[index : index + 1])[0]
            ax = axes[row, column]
            ax.imshow(image.permute(1, 2, 0).cpu().numpy())
            ax.set(xticks=[], yticks=[])
