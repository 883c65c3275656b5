"""SimCLR views as torch.compile likes them: the draws of `replearn.augment.two_views`, no branches.

Not part of the package: benchmarks/augment.py measures what it would bring,
tests/test_fused_views.py that it is exact. The core picks the images that an adjustment falls to;
their number is random, and a compiler wants fixed shapes. Here every image passes through
everything, with neutral parameters where nothing was drawn (factor 1, turn 0, taps 0 1 0).

- Crop, flip and blur are products with small matrices, as in the core. Crop and blur cannot be
merged
  into one product: the color adjustments between them clamp, so they are not linear.
- The 24 orders of brightness, contrast, saturation and hue have one frame, given that each comes
  once: s s hue s s contrast s s hue s s, where s is a blend c f + g gray(x), brightness with g = 0
  or saturation with g = 1 - f. Contrast needs a mean over the image, so there are two passes over
  its pixels; between them it stays in the cache.
- Rows carry all three channels, (N, H, 3, W), so that each of the four products is one matrix an
  image.
- Images pass in blocks of 64: one fixed shape to compile whatever the batch, and a block stays in
the
  cache.

Shapes: N images of H x W pixels, K taps of a blur; parameters are (N, 1) unless said otherwise.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from replearn.augment import to_float

BLOCK = 64  # two views of 32 images
TRIES = 10  # boxes that are drawn for a crop
STRENGTHS = (0.4, 0.4, 0.4, 0.1)  # of the four adjustments, in this order:
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
JITTER_PROBABILITY = 0.8
RATIO = (3 / 4, 4 / 3)  # of a crop's width to its height
SIGMA = (0.1, 2.0)  # of the blur, in pixels
SLOTS = 8  # places for a blend in the frame above

Channels = list[torch.Tensor]  # red, green, blue, (N, H, W) each


# --- random numbers
# --------------------------------------------------------------------------------


class Draws(NamedTuple):
    """The random numbers of one view, uniform in [0, 1)."""

    crop: torch.Tensor  # (N, 23) float64: areas, ratios, corner, flip
    jitter: torch.Tensor  # (N, 9): factors, order, whether at all
    gray: torch.Tensor
    blur: torch.Tensor
    sigma: torch.Tensor  # float64


def draw(n: int, generator: torch.Generator | None, blur: bool) -> Draws:
    """Draw the random numbers of one view in the order in which the core draws them.

    Without blur the core draws less; ones stand in its place, which never blur.
    """
    crop = torch.rand((n, 2 * TRIES + 3), generator=generator, dtype=torch.float64)
    jitter = torch.rand((n, 9), generator=generator)
    gray = torch.rand((n, 1), generator=generator)
    blur_draw = torch.ones(n, 1)
    sigma_draw = torch.ones(n, 1)
    if blur:
        blur_draw = torch.rand((n, 1), generator=generator)
        sigma_draw = torch.rand((n, 1), generator=generator, dtype=torch.float64)
    return Draws(crop, jitter, gray, blur_draw, sigma_draw)


def between(low: float, high: float, u: torch.Tensor) -> torch.Tensor:
    """Turn numbers in [0, 1) into numbers in [low, high)."""
    return low + (high - low) * u


# --- parameters
# ------------------------------------------------------------------------------------


class Boxes(NamedTuple):
    """A crop for each image."""

    top: torch.Tensor
    height: torch.Tensor
    left: torch.Tensor
    width: torch.Tensor


def boxes(u: torch.Tensor, h: int, w: int, scale: tuple[float, float]) -> Boxes:
    """Return the first of ten tries that fits into each image, else the largest box, centered.

    Args:
        u: Uniform numbers (N, 23).
        h: Height of the images.
        w: Width of the images.
        scale: Range of the crop's share of the area.
    """
    u_area, u_ratio, u_top, u_left, _ = u.split((TRIES, TRIES, 1, 1, 1), 1)
    low, high = torch.tensor(RATIO, dtype=torch.float64).log()
    area = h * w * between(*scale, u_area)
    aspect = between(low, high, u_ratio).exp()
    heights = (area / aspect).sqrt().round()  # (N, 10)
    widths = (area * aspect).sqrt().round()
    height_fits = (heights > 0) & (heights <= h)
    width_fits = (widths > 0) & (widths <= w)
    fits = height_fits & width_fits

    tries = torch.arange(TRIES)
    first = torch.where(fits, tries, TRIES).amin(1, keepdim=True)
    none_fits = first == TRIES
    is_first = tries == first
    largest_height = min(h, round(w / RATIO[0]))
    largest_width = min(w, round(h * RATIO[1]))
    first_height = (heights * is_first).sum(1, keepdim=True)
    first_width = (widths * is_first).sum(1, keepdim=True)
    height = torch.where(none_fits, largest_height, first_height)
    width = torch.where(none_fits, largest_width, first_width)

    room_above = h - height
    room_beside = w - width
    top = torch.where(none_fits, room_above / 2, u_top * (room_above + 1)).floor()
    left = torch.where(none_fits, room_beside / 2, u_left * (room_beside + 1)).floor()
    return Boxes(top, height, left, width)


def positions(
    start: torch.Tensor, length: torch.Tensor, size: int, mirror: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where the old pixels and the new ones lie along one side of an image.

    Args:
        start: First pixel of the crop.
        length: Pixels of the crop.
        size: Pixels of the image, and of the view.
        mirror: Whether the view is mirrored along this side, bool.

    Returns:
        Two tensors (N, size), in units of the width of a triangle. Old pixels outside the crop lie
        infinitely far away.
    """
    index = torch.arange(size) + 0.5
    step = length / size
    width = step.clamp(min=1)
    center = start + step * torch.where(mirror, size - index, index)
    inside = (index >= start) & (index < start + length)
    pixel = torch.where(inside, index / width, torch.inf)
    return pixel.float(), (center / width).float()


class Colors(NamedTuple):
    """What the frame of the color adjustments does to each image."""

    factor: torch.Tensor  # (N, 8) of the blends; 1 changes nothing
    share: torch.Tensor  # (N, 8) of gray in the blends
    turn: torch.Tensor  # of the hue, before contrast
    late_turn: torch.Tensor  # of the hue, after contrast
    contrast: torch.Tensor


def colors(u: torch.Tensor, strengths: Sequence[float]) -> Colors:
    """Put the adjustments that were drawn into their slots; u: (N, 9)."""
    u_factor, u_order, u_apply = u.split((4, 4, 1), 1)
    is_jittered = u_apply < JITTER_PROBABILITY

    def amount(adjustment: int) -> torch.Tensor:
        """The factor of an adjustment; for hue, which adds, the offset."""
        strength = strengths[adjustment]
        u = u_factor[:, adjustment : adjustment + 1].double()
        drawn = 1 - strength + 2 * strength * u
        neutral = 1.0
        if adjustment == HUE:
            drawn = drawn - 1
            neutral = 0.0
        return torch.where(is_jittered, drawn, neutral).float()

    def comes_after(one: int, other: int) -> torch.Tensor:
        return u_order[:, one : one + 1] > u_order[:, other : other + 1]

    def slot_of(blend: int, other_blend: int) -> torch.Tensor:
        """One of the 8 slots as a bool (N, 8): by what a blend comes after."""
        number = comes_after(blend, CONTRAST) * 4
        number = number + comes_after(blend, HUE) * 2
        number = number + comes_after(blend, other_blend)
        return number == torch.arange(SLOTS)

    is_brightness = slot_of(BRIGHTNESS, SATURATION)
    is_saturation = slot_of(SATURATION, BRIGHTNESS)
    saturation = amount(SATURATION)
    turn = amount(HUE)
    hue_is_late = comes_after(HUE, CONTRAST)
    factor = torch.where(is_saturation, saturation, 1.0)
    return Colors(
        factor=torch.where(is_brightness, amount(BRIGHTNESS), factor),
        share=torch.where(is_saturation, 1 - saturation, 0.0),
        turn=torch.where(hue_is_late, 0, turn),
        late_turn=turn * hue_is_late,
        contrast=amount(CONTRAST),
    )


def blur_taps(
    u_blur: torch.Tensor, u_sigma: torch.Tensor, half: int, probability: float
) -> torch.Tensor:
    """Return the taps (N, 2 half + 1) of a Gaussian; of no blur where none was drawn."""
    offset = torch.arange(-half, half + 1)
    gaussian = torch.exp(-0.5 * (offset / between(*SIGMA, u_sigma)) ** 2)
    gaussian = gaussian / gaussian.sum(1, keepdim=True)
    return torch.where(u_blur < probability, gaussian, offset == 0)


class Parameters(NamedTuple):
    """All that `view` needs; one tensor, (N, 2 H + 2 W + 20 + K), holds them side by side."""

    row_pixel: torch.Tensor  # (N, H), from `positions`
    row_center: torch.Tensor  # (N, H)
    column_pixel: torch.Tensor  # (N, W)
    column_center: torch.Tensor  # (N, W)
    colors: Colors
    gray: torch.Tensor
    taps: torch.Tensor  # (N, K)

    def joined(self) -> torch.Tensor:
        """Return them as one tensor."""
        parts = (*self[:4], *self.colors, self.gray, self.taps)
        return torch.cat(parts, 1).float()

    @classmethod
    def split(cls, joined: torch.Tensor, h: int, w: int) -> "Parameters":
        """Return the parts of such a tensor."""
        colors_and_gray = (SLOTS, SLOTS, 1, 1, 1, 1)
        taps = joined.shape[1] - 2 * h - 2 * w - sum(colors_and_gray)
        parts = joined.split([h, h, w, w, *colors_and_gray, taps], 1)
        return cls(*parts[:4], Colors(*parts[4:9]), *parts[9:])


# --- a view
# ----------------------------------------------------------------------------------------


def triangles(pixel: torch.Tensor, center: torch.Tensor) -> torch.Tensor:
    """Return bilinear, antialiased resizing as a matrix (N, new, old)."""
    weight = (1 - (pixel[:, None] - center[..., None]).abs()).relu()
    return weight / weight.sum(2, keepdim=True)


def reflecting(taps: torch.Tensor, size: int) -> torch.Tensor:
    """Return a blur with reflecting borders as a matrix (N, size, size); taps: (N, K)."""
    half = taps.shape[1] // 2
    index = torch.arange(size)
    offset = torch.arange(-half, half + 1)
    source = (index[:, None] + offset).abs()  # (size, K)
    source = size - 1 - (size - 1 - source).abs()
    is_source = source.T[..., None] == index  # (K, size, size)
    matrix = taps @ is_source.float().flatten(1)
    return matrix.unflatten(1, (size, size))


def luma(x: Channels) -> torch.Tensor:
    """Return gray (N, H, W)."""
    red, green, blue = x
    return red * 0.2989 + green * 0.587 + blue * 0.114


def blend(x: Channels, factor: torch.Tensor, rest: torch.Tensor) -> Channels:
    """Return each channel times a factor plus a rest, cut to [0, 1]."""
    return [(channel * factor + rest).clamp(0, 1) for channel in x]


def turned(x: Channels, turn: torch.Tensor) -> Channels:
    """Turn the hue as the core's adjust_hue does, which explains the formula."""
    r, g, b = x
    low = torch.minimum(torch.minimum(r, g), b)
    high = torch.maximum(torch.maximum(r, g), b)
    chroma = high - low
    size = (g - r + b - low) / chroma.clamp(min=1e-30) + 1
    hue = torch.copysign(size, g - b) + 6 * turn
    rounds = (hue * (1 / 6)).round()
    hue = hue - 6 * rounds  # in sextants, [-3, 3]
    channels = []
    for own_hue in (0, 2, -2):
        distance = (hue - own_hue).abs()
        share = ((distance - 3).abs() - 1).clamp(0, 1)
        channels.append((share * chroma + low).clamp(0, 1))
    return channels


def jittered(x: Channels, given: Colors) -> Channels:
    """Go through the frame: four blends with a turn among them, contrast, and the same again."""

    def blends_and_turn(x: Channels, slots: Sequence[int], turn: torch.Tensor) -> Channels:
        for slot in slots:
            factor = given.factor[:, slot, None, None]
            share = given.share[:, slot, None, None]
            x = blend(x, factor, share * luma(x))
            if slot == slots[1]:
                x = turned(x, turn[..., None])
        return x

    x = blends_and_turn(x, range(4), given.turn)
    contrast = given.contrast[..., None]
    mean = luma(x).mean((1, 2), keepdim=True)
    x = blend(x, contrast, (1 - contrast) * mean)
    return blends_and_turn(x, range(4, SLOTS), given.late_turn)


def separable(x: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Multiply images (N, H, 3, W) by matrices (N, H, H) for rows and (N, W, W) for columns."""
    n, h, _, w = x.shape
    x = torch.bmm(rows, x.reshape(n, h, 3 * w))
    return torch.bmm(x.view(n, 3 * h, w), columns.mT).view(n, h, 3, w)


def view(images: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """Crop, flip, jitter, gray and blur.

    Args:
        images: (N, 3, H, W), uint8 or floats in [0, 1].
        given: Joined `Parameters`.
    """
    h, w = images.shape[2:]
    parameters = Parameters.split(given, h, w)
    x = images.permute(0, 2, 1, 3).float().contiguous()  # (N, H, 3, W)
    if images.dtype == torch.uint8:
        x = x / 255
    rows = triangles(parameters.row_pixel, parameters.row_center)
    columns = triangles(parameters.column_pixel, parameters.column_center)
    x = separable(x, rows, columns).clamp(0, 1)

    channels = jittered(list(x.unbind(2)), parameters.colors)
    gray = luma(channels)
    is_gray = parameters.gray[..., None] > 0
    x = torch.stack([torch.where(is_gray, gray, channel) for channel in channels], 2)

    x = separable(x, reflecting(parameters.taps, h), reflecting(parameters.taps, w))
    return x.permute(0, 2, 1, 3).clamp(0, 1).contiguous()


@functools.cache
def compiled() -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Compile `view`; what one process compiled, the next one on this machine loads."""
    return torch.compile(view, dynamic=False)


@torch.no_grad()
def two_views(
    images: torch.Tensor,
    *,
    crop: tuple[float, float] = (0.2, 1.0),
    jitter: float = 1.0,
    grayscale: float = 0.2,
    blur: float = 0.5,
    flip: float = 0.5,
    generator: torch.Generator | None = None,
    view: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `replearn.augment.two_views` returns for the same generator, within 1e-5.

    Args:
        images: (N, 3, H, W), uint8 or floats in [0, 1].
        crop: Range of the crop's share of the area.
        jitter: Strength of the color adjustments.
        grayscale: Probability of gray.
        blur: Probability of the blur.
        flip: Probability of a mirror image.
        generator: Where random numbers come from.
        view: The function `view` of this module, to run it uncompiled; None compiles it.

    Returns:
        Two tensors (N, 3, H, W), float32.
    """
    view = view or compiled()
    if images.dtype != torch.uint8:
        images = to_float(images)
    n = len(images)
    h, w = images.shape[2:]
    first = draw(n, generator, blur > 0)
    second = draw(n, generator, blur > 0)
    u = Draws(*(torch.cat(both) for both in zip(first, second, strict=True)))  # (2 N, ...)

    box = boxes(u.crop, h, w, crop)
    mirror = u.crop[:, -1:] < flip
    parameters = Parameters(
        *positions(box.top, box.height, h, torch.zeros_like(mirror)),
        *positions(box.left, box.width, w, mirror),
        colors(u.jitter, [strength * jitter for strength in STRENGTHS]),
        u.gray < grayscale,
        blur_taps(u.blur, u.sigma, max(1, h // 20), blur),
    )
    # The last block is filled up from the start.
    rows = torch.arange(-(-2 * n // BLOCK) * BLOCK) % (2 * n)
    blocks_of_parameters = parameters.joined().index_select(0, rows).split(BLOCK)
    blocks_of_images = images.index_select(0, rows % n).split(BLOCK)
    views = torch.empty(2 * n, *images.shape[1:])
    for i, block in enumerate(views.split(BLOCK)):
        # The result goes to its place while it is in the cache.
        block.copy_(view(blocks_of_images[i], blocks_of_parameters[i])[: len(block)])
    return views.split(n)
