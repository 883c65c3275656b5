"""SimCLR's augmentations for a whole batch, in which every image draws its own parameters.

Images are (N, 3, H, W), uint8 or floats in [0, 1]. Results are new float32 images in [0, 1] on the
same device, without gradient. Given the same parameters they equal torchvision's within 1e-5
(coarser on a GPU that is allowed TF32). Random numbers come from `generator`, a CPU generator for
images on any device; None stands for torch's global one.

Public functions check and copy their input. Private functions take checked floats and parameters,
and those whose names end in an underscore work in place, as PyTorch's do. `two_views` calls the
private ones, so that a batch is checked once and copied once.

There are two ways to the same views. On a CPU an adjustment works on those images that it was drawn
for. On any other device nothing may wait for the device, and no shape may depend on a draw: all
parameters go over in one copy, and every image passes through everything, by neutral parameters and
masks (`views_from`).

Reference: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual
Representations", appendix A.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from replearn import _device

LUMA = (0.2989, 0.587, 0.114)  # of red, green and blue in gray, rounded as in torchvision
STRENGTHS = (0.4, 0.4, 0.4, 0.1)  # of brightness, contrast, saturation and hue
HUE = 3  # the place of the hue among them
TRIES = 10  # boxes that a random crop draws for an image before it gives up
CROP_NUMBERS = 2 * TRIES + 3  # areas, shapes, corner, flip
JITTER_NUMBERS = 9  # factors, ranks, whether at all
PASS = 128  # a CPU makes both views of a batch in one pass if these are no more than so many
JITTERED = 0.8  # share of the images that `two_views` jitters
RATIO = (3 / 4, 4 / 3)  # of width to height, of a crop of `two_views`
SIGMA = (0.1, 2.0)  # of the blur of `two_views`, in pixels
LARGEST = 1e6  # factor or strength: an infinite one would turn 0 into NaN

Pair = tuple[float, float]
Size = int | tuple[int, int] | None
Generator = torch.Generator | None


# --- checks ---------------------------------------------------------------------------------------


def to_float(images: torch.Tensor) -> torch.Tensor:
    """Return images as contiguous float32 numbers in [0, 1].

    Args:
        images: (N, 3, H, W), uint8, which is divided by 255, or floats in [0, 1].

    Returns:
        (N, 3, H, W), without gradient. Contiguous float32 images are returned without a copy.

    Raises:
        ValueError: The shape, the type or the range is another one.

    Example:
        >>> to_float(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).flatten()
        tensor([1., 1., 1.])
    """
    if images is None:
        images = ()  # which is refused below because of its shape
    images = torch.as_tensor(images).to_dense()
    if images.ndim != 4 or images.shape[1] != 3 or images.numel() == 0 or images.is_meta:
        raise ValueError(
            f"images: expected shape (N, 3, H, W), not empty, found {tuple(images.shape)} "
            f"on {images.device}"
        )
    x = images.detach().float().contiguous()
    if images.dtype == torch.uint8:
        return x.div_(255)
    if images.is_floating_point() and _device.is_deferred(x):
        lowest, highest = x.aminmax()
        _device.note((lowest >= 0) & (highest <= 1), "images: expected floats in [0, 1]")
        return x
    low, high = torch.stack(x.aminmax()).cpu().tolist()
    in_range = low >= 0 and high <= 1  # NaN fails every comparison
    if not images.is_floating_point() or not in_range:
        raise ValueError(
            f"images: expected uint8 or floats in [0, 1], found {images.dtype}, "
            f"{low:.8g} to {high:.8g}"
        )
    return x


def _numbers(
    name: str,
    value: Any,
    low: float | torch.Tensor,
    high: float | torch.Tensor,
    shape: tuple[int, ...] = (),
    expected: str = "a number",
) -> torch.Tensor:
    """Return `value` as float64 numbers of a shape on the CPU; one number is repeated.

    `low` and `high` are numbers, or tensors that hold a bound for each number. `expected` says in
    words what there should be; the error adds the range, unless its bounds are tensors.
    """
    if value is None:
        value = 0  # None switches off, as 0 does
    value = torch.as_tensor(value, dtype=torch.float64, device="cpu")
    fits = value.shape in ((), shape)
    if fits:
        fits = ((value >= low) & (value <= high)).all()
    if not fits:
        if not isinstance(high, torch.Tensor):
            expected = f"{expected} in [{low:g}, {high:g}]"
        raise ValueError(f"{name}: expected {expected}, found {value.tolist()}")
    return value.expand(shape)


def _one_per_image(name: str, value: Any, low: float, high: float, n: int) -> torch.Tensor:
    """Return n numbers; one number is meant for every image."""
    return _numbers(name, value, low, high, (n,), f"one number or one per image ({n})")


def _range(
    name: str, value: Pair | float, low: float, high: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the two ends of a range; one number is both ends."""
    start, end = _numbers(name, value, low, high, (2,), "one number or a rising pair")
    if start > end:
        found = [start.item(), end.item()]
        raise ValueError(
            f"{name}: expected one number or a rising pair in [{low:g}, {high:g}], found {found}"
        )
    return start, end


def _checked_size(size: Size, x: torch.Tensor) -> list[int]:
    """Return the height and width of the result; None keeps those of the images."""
    if size is None:
        size = x.shape[2:]
    sides = _numbers("size", size, 1, 1e5, (2,), "one number or (height, width)")
    return sides.int().tolist()


def _checked_boxes(boxes: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    n, _, height, width = x.shape
    full = torch.tensor((height, width))
    lowest = torch.tensor((0, 0, 1, 1))
    expected = (
        f"({n}, 4) numbers, for each image top, left, height and width of a box inside its "
        f"{height} x {width} pixels, one pixel or more high and wide"
    )
    boxes = _numbers("boxes", boxes, lowest, full.repeat(2), (n, 4), expected)
    ends = boxes[:, :2] + boxes[:, 2:]
    _numbers("boxes (bottom, right)", ends, 1, full, (n, 2), expected)
    return boxes


def _draw_chosen(x: torch.Tensor, p: float | None, generator: Generator) -> torch.Tensor:
    """Draw which images are changed, each with probability p: a mask (N,) on the CPU."""
    u = torch.rand(len(x), generator=generator)
    return u < _numbers("p", p, 0, 1)


# --- crop, resize, flip ---------------------------------------------------------------------------


def resized_crop(
    images: torch.Tensor,
    boxes: torch.Tensor,
    size: Size = None,
    *,
    flip: bool | torch.Tensor = False,
) -> torch.Tensor:
    r"""Cut a box out of each image and resize it, bilinear and antialiased.

    A separable resize of a channel X is two matrix products:

    .. math:: Y = A X B^\top

    with triangle weights in A for the rows and in B for the columns. To mirror an image is to
    reverse the rows of B, so it costs nothing.

    Args:
        images: (N, 3, H, W).
        boxes: (N, 4), for each image top, left, height and width in pixels, inside the image.
            Fractions of a pixel are allowed.
        size: Side, or height and width, of the result. None keeps those of the images.
        flip: Whether to mirror left to right: one bool, or one per image.

    Returns:
        (N, 3, h, w).

    Raises:
        ValueError: A parameter has the wrong shape, or a box does not lie inside the images.

    Example:
        >>> images = torch.rand(2, 3, 32, 32)
        >>> boxes = torch.tensor([(0, 0, 16, 16), (8, 4, 20, 20)])
        >>> resized_crop(images, boxes, size=24).shape
        torch.Size([2, 3, 24, 24])
    """
    x = to_float(images)
    boxes = _checked_boxes(boxes, x)
    flip = _one_per_image("flip", flip, 0, 1, len(x)) > 0
    return _resized_crop(x, boxes, _checked_size(size, x), flip)


def _resized_crop(
    x: torch.Tensor, boxes: torch.Tensor, size: list[int], flip: torch.Tensor
) -> torch.Tensor:
    height, width = x.shape[2:]
    new_height, new_width = size
    top, left, box_height, box_width = boxes.unbind(1)
    rows = _resize_weights(x, top, box_height, height, new_height)  # (N, h, H)
    columns = _resize_weights(x, left, box_width, width, new_width, mirror=flip)  # (N, w, W)
    return _separable(x, rows, columns)


def _resize_weights(
    x: torch.Tensor,
    start: torch.Tensor,
    length: torch.Tensor,
    old: int,
    new: int,
    mirror: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return (N, new, old): what each old pixel counts for each new one, on x's device."""
    pixel, center = _resize_positions(start, length, old, new, mirror)
    pixel = _device.send(pixel.float(), x.device)
    center = _device.send(center.float(), x.device)
    return _triangle_weights(pixel, center)


def _resize_positions(
    start: torch.Tensor,
    length: torch.Tensor,
    old: int,
    new: int,
    mirror: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where old pixels (N, old) and new ones (N, new) lie, in half widths of the triangle.

    Old pixels outside the box lie infinitely far away.
    """
    start = start[:, None]
    length = length[:, None]
    step = length / new  # old pixels in a new one
    index = torch.arange(new) + 0.5
    if mirror is not None:
        index = torch.where(mirror[:, None], new - index, index)
    center = start + step * index  # (N, new)
    pixel = torch.arange(old) + 0.5  # (old,)
    outside = (pixel < start) | (pixel >= start + length)  # (N, old)

    # The half width of the triangle is one old pixel. When the image shrinks it is one new pixel,
    # which is the antialiasing. Positions are measured in half widths.
    half_width = step.clamp(min=1)
    return (pixel / half_width).masked_fill(outside, torch.inf), center / half_width


def _triangle_weights(pixel: torch.Tensor, center: torch.Tensor) -> torch.Tensor:
    """(N, old), (N, new) -> (N, new, old): what each old pixel counts for each new one."""
    distance = (pixel[:, None] - center[..., None]).abs_()  # (N, new, old)
    weights = distance.neg_().add_(1).clamp_(min=0)
    return weights.div_(weights.sum(2, keepdim=True))


def _separable(x: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W), (N, h, H), (N, w, W) -> (N, 3, h, w)."""
    with torch.autocast(x.device.type, enabled=False):
        # One product per image for all three channels is faster than one per channel.
        along_rows = torch.bmm(x.flatten(1, 2), columns.mT).unflatten(1, (3, -1))  # (N, 3, H, w)
        return (rows[:, None] @ along_rows).clamp_(0, 1)


def random_resized_crop(
    images: torch.Tensor,
    *,
    size: Size = None,
    scale: Pair | float | None = (0.2, 1.0),
    ratio: Pair | float = (3 / 4, 4 / 3),
    flip: float = 0.0,
    generator: Generator = None,
) -> torch.Tensor:
    """Cut a random box out of each image, resize it and mirror it at random.

    As in torchvision's RandomResizedCrop, the box is the first of ten tries that fits into the
    image, or else the largest one of an allowed shape, in the center.

    Args:
        images: (N, 3, H, W).
        size: Side, or height and width, of the result. None keeps those of the images.
        scale: Range of the box's share of the area, in (0, 1]. None takes the whole image.
        ratio: Range of width / height. Its logarithm is uniform.
        flip: Probability of mirroring left to right.
        generator: Source of the random numbers.

    Returns:
        (N, 3, h, w).

    Raises:
        ValueError: A parameter is out of range.

    References:
        Szegedy et al. 2015, "Going Deeper with Convolutions", section 6.

    Example:
        >>> images = torch.rand(8, 3, 32, 32)
        >>> random_resized_crop(images, scale=(0.2, 1.0), flip=0.5).shape
        torch.Size([8, 3, 32, 32])
    """
    return _random_resized_crop(to_float(images), size, scale, ratio, flip, generator)


class _Crop(NamedTuple):
    """The checked settings of a random crop."""

    size: list[int]  # height, width
    shares: tuple[torch.Tensor, torch.Tensor]  # range of the area
    ratios: tuple[torch.Tensor, torch.Tensor]  # range of width / height
    flip: torch.Tensor  # probability


def _crop_settings(
    x: torch.Tensor,
    size: Size,
    scale: Pair | float | None,
    ratio: Pair | float,
    flip: float | None,
) -> _Crop:
    height, width = x.shape[2:]
    size = _checked_size(size, x)
    if not scale:  # None or 0: the whole image
        scale = 1
        ratio = width / height
    shares = _range("scale", scale, 1e-6, 1)
    ratios = _range("ratio", ratio, 1e-6, 1e6)
    return _Crop(size, shares, ratios, _numbers("flip", flip, 0, 1))


def _random_resized_crop(
    x: torch.Tensor,
    size: Size,
    scale: Pair | float | None,
    ratio: Pair | float,
    flip: float | None,
    generator: Generator,
) -> torch.Tensor:
    settings = _crop_settings(x, size, scale, ratio, flip)
    u = torch.rand((len(x), CROP_NUMBERS), generator=generator, dtype=torch.float64)
    boxes, mirrored = _drawn_boxes(u, x, settings)
    return _resized_crop(x, boxes, settings.size, mirrored)


def _drawn_boxes(
    u: torch.Tensor, x: torch.Tensor, settings: _Crop
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn uniform numbers (N, 23) into boxes (N, 4), and say which images to mirror (N,)."""
    height, width = x.shape[2:]
    u_box, u_flip = u.split((2 * TRIES + 2, 1), dim=1)
    boxes = _boxes(u_box, height, width, settings.shares, settings.ratios)
    return boxes, u_flip[:, 0] < settings.flip


def _boxes(
    u: torch.Tensor,
    height: int,
    width: int,
    shares: tuple[torch.Tensor, torch.Tensor],
    ratios: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """Turn uniform numbers (N, 22) into boxes (N, 4) in an image of this height and width."""
    u_area, u_ratio, u_corner = u.split((TRIES, TRIES, 2), dim=1)
    narrowest, widest = ratios
    area = height * width * torch.lerp(*shares, u_area)  # (N, 10)
    ratio = torch.lerp(narrowest.log(), widest.log(), u_ratio).exp()
    heights = (area / ratio).sqrt().round()
    widths = (area * ratio).sqrt().round()
    height_fits = (heights > 0) & (heights <= height)
    width_fits = (widths > 0) & (widths <= width)
    fits = height_fits & width_fits
    any_fits = fits.any(1, keepdim=True)
    first = fits.int().argmax(1, keepdim=True)
    drawn = torch.cat((heights.gather(1, first), widths.gather(1, first)), 1)  # (N, 2)

    full = torch.tensor((height, width))
    longest = torch.stack((width / narrowest, height * widest))  # sides that the ratios allow
    fallback = torch.minimum(full, longest).round().clamp(min=1)
    sides = torch.where(any_fits, drawn, fallback)  # height, width
    anywhere = u_corner * (full - sides + 1)
    centered = (full - sides) / 2
    corner = torch.where(any_fits, anywhere, centered).floor()  # top, left
    return torch.cat((corner, sides), 1)


def random_horizontal_flip(
    images: torch.Tensor, *, p: float = 0.5, generator: Generator = None
) -> torch.Tensor:
    """Mirror each image left to right with a probability.

    Args:
        images: (N, 3, H, W).
        p: The probability, in [0, 1].
        generator: Source of the random numbers.

    Returns:
        (N, 3, H, W).

    Raises:
        ValueError: p is not a probability.

    Example:
        >>> images = torch.rand(8, 3, 32, 32)
        >>> torch.equal(random_horizontal_flip(images, p=1), images.flip(3))
        True
    """
    return random_resized_crop(images, scale=None, flip=p, generator=generator)


# --- color ----------------------------------------------------------------------------------------


def adjust_brightness(images: torch.Tensor, factor: float | torch.Tensor) -> torch.Tensor:
    r"""Blend each image with black.

    .. math:: y = \operatorname{clamp}(f x, 0, 1)

    Args:
        images: (N, 3, H, W).
        factor: f, from 0 to 1e6: one number, or one per image. 0 gives black, 1 changes nothing.

    Returns:
        (N, 3, H, W).

    Raises:
        ValueError: A factor is out of range.

    Example:
        >>> images = torch.full((1, 3, 2, 2), 0.25)
        >>> adjust_brightness(images, 2)[0, :, 0, 0]
        tensor([0.5000, 0.5000, 0.5000])
    """
    x = to_float(images).clone()
    return _adjust_brightness_(x, _one_per_image("factor", factor, 0, LARGEST, len(x)))


def adjust_contrast(images: torch.Tensor, factor: float | torch.Tensor) -> torch.Tensor:
    r"""Blend each image with the mean gray of its pixels.

    .. math:: y = \operatorname{clamp}(f x + (1 - f) \, \overline{\mathrm{gray}}, 0, 1)

    Args:
        images: (N, 3, H, W).
        factor: f, from 0 to 1e6: one number, or one per image. 0 gives gray, 1 changes nothing.

    Returns:
        (N, 3, H, W).

    Raises:
        ValueError: A factor is out of range.

    Example:
        >>> images = torch.rand(4, 3, 8, 8)
        >>> weaker = adjust_contrast(images, torch.tensor([0.5, 0.6, 0.7, 0.8]))
        >>> bool(weaker.std() < images.std())
        True
    """
    x = to_float(images).clone()
    return _adjust_contrast_(x, _one_per_image("factor", factor, 0, LARGEST, len(x)))


def adjust_saturation(images: torch.Tensor, factor: float | torch.Tensor) -> torch.Tensor:
    r"""Blend each image with its gray version.

    .. math:: y = \operatorname{clamp}(f x + (1 - f) \, \mathrm{gray}(x), 0, 1)

    Args:
        images: (N, 3, H, W).
        factor: f, from 0 to 1e6: one number, or one per image. 0 gives gray, 1 changes nothing.

    Returns:
        (N, 3, H, W).

    Raises:
        ValueError: A factor is out of range.

    Example:
        >>> images = torch.rand(4, 3, 8, 8)
        >>> gray = random_grayscale(images, p=1)
        >>> torch.allclose(adjust_saturation(images, 0), gray)
        True
    """
    x = to_float(images).clone()
    return _adjust_saturation_(x, _one_per_image("factor", factor, 0, LARGEST, len(x)))


def adjust_hue(images: torch.Tensor, factor: float | torch.Tensor) -> torch.Tensor:
    """Turn the hue of each image, as one would in the color space HSV.

    Args:
        images: (N, 3, H, W).
        factor: The turn, in [-0.5, 0.5]: one number, or one per image. 1 would be once around the
            color circle, so 1/3 makes red green.

    Returns:
        (N, 3, H, W). Value and saturation of every pixel stay.

    Raises:
        ValueError: A factor is out of range.

    Example:
        >>> red = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1)
        >>> adjust_hue(red, 1 / 3).round().flatten()
        tensor([0., 1., 0.])
    """
    x = to_float(images).clone()
    return _adjust_hue_(x, _one_per_image("factor", factor, -0.5, 0.5, len(x)))


def _gray(x: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) -> (N, 1, H, W)."""
    red, green, blue = LUMA
    return (x[:, :1] * red).add_(x[:, 1:2], alpha=green).add_(x[:, 2:], alpha=blue)


def _blend_(x: torch.Tensor, factor: torch.Tensor, other: float | torch.Tensor) -> torch.Tensor:
    """Set x to clamp(factor * x + (1 - factor) * other); factor (N,)."""
    factor = _device.send(factor.float(), x.device)[:, None, None, None]
    rest = (1 - factor) * other
    return x.mul_(factor).add_(rest).clamp_(0, 1)


def _adjust_brightness_(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return _blend_(x, factor, 0)


def _adjust_contrast_(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    mean = x.mean((2, 3), keepdim=True)  # (N, 3, 1, 1)
    return _blend_(x, factor, _gray(mean))


def _adjust_saturation_(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return _blend_(x, factor, _gray(x))


def _adjust_hue_(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    turn = _device.send(factor.float(), x.device)[:, None, None]
    r, g, b = x.unbind(1)  # (N, H, W) each
    low = x.amin(1)
    chroma = x.amax(1).sub_(low)
    # Hue in sextants of the color circle: 0 is red, 2 green, -2 blue. With r, g and b stretched to
    # [0, 1], its size is 1 - r + g + b in every sextant and its sign is that of g - b, so there are
    # no cases to tell apart. A gray pixel gets some hue, which its chroma of 0 takes away again.
    hue = (g - r).add_(b).sub_(low)
    hue.div_(chroma.clamp(min=1e-30)).add_(1)
    hue.copysign_(g - b).add_(turn, alpha=6)
    hue.sub_(hue.div(6).round_(), alpha=6)  # back to [-3, 3]
    # A channel has all of the chroma where the hue is within a sextant of its own; over the next
    # sextant its share falls to 0.
    for channel, own_hue in enumerate((0, 2, -2)):
        torch.sub(hue, own_hue, out=x[:, channel])
    x.abs_().sub_(3).abs_().sub_(1).clamp_(0, 1)
    return x.mul_(chroma[:, None]).add_(low[:, None]).clamp_(0, 1)


# In the order of STRENGTHS.
_ADJUSTMENTS = (_adjust_brightness_, _adjust_contrast_, _adjust_saturation_, _adjust_hue_)


def color_jitter(
    images: torch.Tensor,
    *,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.1,
    p: float = 0.8,
    generator: Generator = None,
) -> torch.Tensor:
    """Adjust brightness, contrast, saturation and hue of each image at random, in random order.

    Args:
        images: (N, 3, H, W).
        brightness: Strength s, from 0 to 1e6. The factor is uniform in [max(0, 1 - s), 1 + s].
        contrast: The same for the contrast.
        saturation: The same for the saturation.
        hue: Strength in [0, 0.5]. The turn is uniform in [-hue, hue].
        p: Probability that an image is changed at all.
        generator: Source of the random numbers.

    Returns:
        (N, 3, H, W).

    Raises:
        ValueError: A strength or p is out of range.

    Example:
        >>> images = torch.rand(8, 3, 32, 32)
        >>> jittered = color_jitter(images, brightness=0.8, hue=0.2, p=1)
        >>> jittered.shape
        torch.Size([8, 3, 32, 32])
    """
    strengths = (brightness, contrast, saturation, hue)
    return _color_jitter_(to_float(images).clone(), strengths, p, generator)


def _color_jitter_(
    x: torch.Tensor, strengths: Sequence[float], p: float, generator: Generator
) -> torch.Tensor:
    strengths, p = _jitter_settings(strengths, p)
    u = torch.rand((len(x), JITTER_NUMBERS), generator=generator)
    if not _device.is_cpu(x.device):
        return _changed(x, jitter=_jitter_parameters(u, strengths, p))
    return _jitter_rows_(x, u, strengths, p)


def _jitter_rows_(
    x: torch.Tensor, u: torch.Tensor, strengths: torch.Tensor, p: torch.Tensor
) -> torch.Tensor:
    """Jitter on a CPU, where it pays to take out the images of each round and to put them back."""
    factors, order, jittered = _drawn_jitter(u, strengths, p)
    for step in range(4):
        for k, adjust_ in enumerate(_ADJUSTMENTS):
            chosen = jittered & (order[:, step] == k) & (strengths[k] > 0)
            rows = chosen.nonzero()[:, 0]
            adjusted = adjust_(x.index_select(0, rows), factors[rows, k])
            x.index_copy_(0, rows, adjusted)
    return x


def _jitter_settings(
    strengths: Sequence[float], p: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    highest = torch.tensor((LARGEST, LARGEST, LARGEST, 0.5))
    expected = f"four numbers in [0, {LARGEST:g}], the hue's up to 0.5"
    strengths = _numbers("strengths", strengths, 0, highest, (4,), expected)
    return strengths, _numbers("p", p, 0, 1)


def _drawn_jitter(
    u: torch.Tensor, strengths: torch.Tensor, p: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Turn uniform numbers (N, 9) into factors (N, 4), an order (N, 4), and who is jittered (N,).

    The order says which adjustment comes first, second, third and fourth.
    """
    u_factor, u_order, u_apply = u.split((4, 4, 1), dim=1)
    lowest = (1 - strengths).clamp(min=0)
    factors = torch.lerp(lowest, 1 + strengths, u_factor.double())
    factors[:, HUE] -= 1  # the hue is turned by an offset around 0, the others scale around 1
    return factors, u_order.argsort(1), u_apply[:, 0] < p


def random_grayscale(
    images: torch.Tensor, *, p: float = 0.2, generator: Generator = None
) -> torch.Tensor:
    """Replace each image by its gray version with a probability.

    Args:
        images: (N, 3, H, W).
        p: The probability, in [0, 1].
        generator: Source of the random numbers.

    Returns:
        (N, 3, H, W), with three equal channels where an image is gray.

    Raises:
        ValueError: p is not a probability.

    Example:
        >>> gray = random_grayscale(torch.rand(8, 3, 32, 32), p=1)
        >>> torch.equal(gray[:, 0], gray[:, 2])
        True
    """
    return _random_grayscale_(to_float(images).clone(), p, generator)


def _random_grayscale_(x: torch.Tensor, p: float | None, generator: Generator) -> torch.Tensor:
    chosen = _draw_chosen(x, p, generator)
    if not _device.is_cpu(x.device):
        return _changed(x, gray=(chosen[:, None],))
    return _gray_rows_(x, chosen)


def _gray_rows_(x: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    rows = chosen.nonzero()[:, 0]
    gray = _gray(x.index_select(0, rows))
    return x.index_copy_(0, rows, gray.expand(-1, 3, -1, -1))


# --- blur -----------------------------------------------------------------------------------------


def gaussian_blur(
    images: torch.Tensor,
    *,
    p: float = 0.5,
    sigma: Pair | float = (0.1, 2.0),
    kernel_size: int = 3,
    generator: Generator = None,
) -> torch.Tensor:
    """Blur each image by a Gaussian of random width with a probability.

    At the borders the image is reflected.

    Args:
        images: (N, 3, H, W).
        p: The probability, in [0, 1].
        sigma: Standard deviation of the Gaussian in pixels: one number, or a range to draw from.
        kernel_size: Side of the window in pixels, an odd number below twice the image's side.
        generator: Source of the random numbers.

    Returns:
        (N, 3, H, W).

    Raises:
        ValueError: A parameter is out of range.

    Example:
        >>> images = torch.rand(8, 3, 32, 32)
        >>> blurred = gaussian_blur(images, p=1, sigma=(0.5, 1.5))
        >>> bool(blurred.std() < images.std())
        True
    """
    return _gaussian_blur_(to_float(images).clone(), p, sigma, kernel_size, generator)


def _gaussian_blur_(
    x: torch.Tensor,
    p: float,
    sigma: Pair | float,
    kernel_size: int,
    generator: Generator,
) -> torch.Tensor:
    _check_kernel(kernel_size, min(x.shape[2:]))
    sigmas = _range("sigma", sigma, 1e-3, 1e3)
    chosen = _draw_chosen(x, p, generator)
    u = torch.rand((len(x), 1), generator=generator, dtype=torch.float64)
    if not _device.is_cpu(x.device):
        return _changed(x, blur=(chosen[:, None], _blur_taps(u, sigmas, kernel_size)))
    return _blur_rows_(x, chosen, u, sigmas, kernel_size)


def _blur_rows_(
    x: torch.Tensor,
    chosen: torch.Tensor,
    u: torch.Tensor,
    sigmas: tuple[torch.Tensor, torch.Tensor],
    kernel_size: int,
) -> torch.Tensor:
    rows = chosen.nonzero()[:, 0]
    taps = _blur_taps(u[rows], sigmas, kernel_size)
    blurred = _blurred(x.index_select(0, rows), taps)
    return x.index_copy_(0, rows, blurred)


def _check_kernel(kernel_size: int, shortest_side: int) -> None:
    limit = 2 * shortest_side  # a reflection cannot reach further
    if kernel_size not in range(1, limit, 2):
        raise ValueError(f"kernel_size: expected an odd number below {limit}, found {kernel_size}")


def _blur_taps(
    u: torch.Tensor, sigmas: tuple[torch.Tensor, torch.Tensor], kernel_size: int
) -> torch.Tensor:
    """Turn uniform numbers (n, 1) into Gaussians (n, K) of a random width."""
    offset = torch.arange(kernel_size) - kernel_size // 2
    sigma = torch.lerp(*sigmas, u)  # (n, 1)
    return torch.softmax(-0.5 * (offset / sigma) ** 2, 1)


def _blurred(x: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    height, width = x.shape[2:]
    down = _blur_weights(taps, height).to(x)
    across = down if width == height else _blur_weights(taps, width).to(x)
    return _separable(x, down, across)


def _blur_weights(taps: torch.Tensor, side: int) -> torch.Tensor:
    """Return (n, side, side): a convolution by taps (n, K), borders reflected, as matrices."""
    kernel_size = taps.shape[1]
    half = kernel_size // 2
    # Row j holds an image where only pixel j is 1.
    pixels = torch.eye(side, dtype=taps.dtype, device=taps.device)[None]
    padded = F.pad(pixels, (half, half), mode="reflect")[0]
    windows = padded.unfold(1, kernel_size, 1)  # (j, i, K): is pixel j at tap k around pixel i?
    return torch.einsum("nk,jik->nij", taps, windows)


# --- every image through everything ---------------------------------------------------------------
# What devices other than a CPU do. A step is a tuple of its parameters, (N, ...) each, one row an
# image; as in `_changed` they come from the CPU, and as in the functions below they are there.

_Step = tuple[torch.Tensor, ...] | None


def _changed(
    x: torch.Tensor,
    *,
    crop: _Step = None,
    jitter: _Step = None,
    gray: _Step = None,
    blur: _Step = None,
) -> torch.Tensor:
    """Return images after the steps that are given, with one copy of numbers to their device.

    Args:
        x: (N, 3, H, W); may be changed in place.
        crop: Positions of old and new pixels, for the rows and then for the columns.
        jitter: What `_jitter_parameters` returns.
        gray: A mask (N, 1).
        blur: A mask (N, 1), and Gaussians (N, K).
    """
    crop, jitter, gray, blur = _sent([crop, jitter, gray, blur], x.device)
    if crop is not None:
        row_pixel, row_center, column_pixel, column_center = crop
        rows = _triangle_weights(row_pixel, row_center)
        columns = _triangle_weights(column_pixel, column_center)
        x = _separable(x, rows, columns)
    if jitter is not None:
        x = _jittered(x, *jitter)
    if gray is not None:
        x = torch.where(_mask(*gray), _gray(x), x)
    if blur is not None:
        chosen, taps = blur
        x = torch.where(_mask(chosen), _blurred(x, taps), x)
    return x


def _sent(steps: Sequence[_Step], device: torch.device) -> list[_Step]:
    """Return all parameters of all steps as float32 on a device, after one copy."""
    tensors = [tensor.float() for step in steps if step is not None for tensor in step]
    joined = _device.send(torch.cat(tensors, dim=1), device)
    parts = iter(joined.split([tensor.shape[1] for tensor in tensors], dim=1))
    sent = []
    for step in steps:
        if step is not None:
            step = tuple(next(parts) for _ in step)
        sent.append(step)
    return sent


def _mask(chosen: torch.Tensor) -> torch.Tensor:
    """(N, 1) numbers, 1 for yes -> (N, 1, 1, 1) bool."""
    return chosen[:, :, None, None] > 0.5


def _crop_parameters(
    u: torch.Tensor, x: torch.Tensor, settings: _Crop
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Turn uniform numbers (N, 23) into the positions that `_changed` takes."""
    height, width = x.shape[2:]
    new_height, new_width = settings.size
    boxes, mirrored = _drawn_boxes(u, x, settings)
    top, left, box_height, box_width = boxes.unbind(1)
    rows = _resize_positions(top, box_height, height, new_height)
    columns = _resize_positions(left, box_width, width, new_width, mirrored)
    return (*rows, *columns)


def _jitter_parameters(
    u: torch.Tensor, strengths: torch.Tensor, p: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Turn uniform numbers (N, 9) into the parameters of `_jittered`.

    All 24 orders have one frame: three blends, the hue, three blends. A blend that is not needed
    has the factor 1.
    """
    factors, order, jittered = _drawn_jitter(u, strengths, p)
    n = len(u)
    blends = order[order != HUE].view(n, 3)  # brightness, contrast, saturation in each one's order
    place_of_hue = (order == HUE).int().argmax(1, keepdim=True)
    comes_before = torch.arange(3) < place_of_hue  # (N, 3)

    is_on = jittered[:, None] & (strengths > 0)  # (N, 4)
    factor = factors.float().masked_fill(~is_on, 1.0).gather(1, blends)  # (N, 3)
    factor = torch.cat(
        [factor.masked_fill(~comes_before, 1.0), factor.masked_fill(comes_before, 1.0)], 1
    )
    rest = 1 - factor  # (N, 6): the share of what an image is blended with
    kind = torch.cat([blends, blends], 1)
    mean_share = rest * (kind == 1)  # contrast
    gray_share = rest * (kind == 2)  # saturation
    return factor, mean_share, gray_share, factors[:, HUE:], is_on[:, HUE:]


def _jittered(
    x: torch.Tensor,
    factor: torch.Tensor,
    mean_share: torch.Tensor,
    gray_share: torch.Tensor,
    turn: torch.Tensor,
    is_turned: torch.Tensor,
) -> torch.Tensor:
    """Jitter each image by its own factors, in its own order; x may be changed in place.

    Args:
        x: (N, 3, H, W).
        factor: (N, 6), of the blends before and after the hue.
        mean_share: (N, 6), how much of the mean gray is added: a contrast.
        gray_share: (N, 6), how much of the gray image is added: a saturation.
        turn: (N, 1), of the hue.
        is_turned: (N, 1), a mask.
    """
    for slot in range(6):
        if slot == 3:
            turned = _adjust_hue_(x.clone(), turn[:, 0])
            x = torch.where(_mask(is_turned), turned, x)
        mean = _gray(x.mean((2, 3), keepdim=True)) * mean_share[:, slot, None, None, None]
        rest = _gray(x) * gray_share[:, slot, None, None, None] + mean
        x.mul_(factor[:, slot, None, None, None]).add_(rest).clamp_(0, 1)
    return x


# --- views ----------------------------------------------------------------------------------------


def two_views(
    images: torch.Tensor,
    *,
    crop: Pair | float | None = (0.2, 1.0),
    jitter: float | Sequence[float] | None = 1.0,
    grayscale: float | None = 0.2,
    blur: float | None = 0.0,
    flip: float | None = 0.5,
    size: Size = None,
    generator: Generator = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two independent random views of every image.

    A view is cropped, mirrored, jittered in color, made gray and blurred, in this order. 0 or None
    switches a step off.

    Args:
        images: (N, 3, H, W).
        crop: Range of the crop's share of the area, as `scale` of `random_resized_crop`.
        jitter: The four strengths of `color_jitter`, or a number that multiplies its defaults
            (0.4, 0.4, 0.4, 0.1). Four of five images are jittered.
        grayscale: Probability of a gray image.
        blur: Probability of a blur, by a kernel of a tenth of the height and a sigma between 0.1
            and 2 pixels.
        flip: Probability of mirroring left to right.
        size: Side, or height and width, of the views. None keeps those of the images.
        generator: Source of the random numbers.

    Returns:
        Two tensors (N, 3, h, w); row i of both comes from image i.

    Raises:
        ValueError: A parameter is out of range.

    References:
        Chen et al. 2020, appendix A.

    Example:
        >>> images = torch.rand(8, 3, 32, 32)
        >>> first, second = two_views(images, blur=0.5, generator=torch.Generator().manual_seed(0))
        >>> first.shape, torch.equal(first, second)
        (torch.Size([8, 3, 32, 32]), False)
    """
    x = to_float(images)
    first = draw_views(len(x), blur=bool(blur), generator=generator)
    second = draw_views(len(x), blur=bool(blur), generator=generator)
    settings = _view_settings(x, crop, jitter, grayscale, blur, flip, size)
    if not _device.is_cpu(x.device):
        return _views_by_masks(x, torch.cat([first, second]), settings).chunk(2)
    if 2 * len(x) > PASS:
        return _views_by_rows(x, first, settings), _views_by_rows(x, second, settings)
    return _views_by_rows(torch.cat([x, x]), torch.cat([first, second]), settings).chunk(2)


def _strengths(jitter: float | Sequence[float] | None) -> Sequence[float]:
    """Return four strengths; one number multiplies the defaults."""
    if isinstance(jitter, tuple | list):
        return jitter
    multiplier = jitter or 0
    return [multiplier * strength for strength in STRENGTHS]


def _kernel_size(height: int) -> int:
    """Return the side of the window of a view's blur."""
    return 1 + 2 * max(1, height // 20)


def draw_views(n: int, *, blur: bool = False, generator: Generator = None) -> torch.Tensor:
    """Draw the random numbers of one view of each of n images, in the order of `two_views`.

    Two calls give the numbers of both views. With `views_from` the views of several steps can be
    made at once, although each step has a seed of its own.

    Args:
        n: Number of images.
        blur: Whether numbers for a blur are drawn as well.
        generator: Source of the random numbers.

    Returns:
        (n, 35) float64 numbers in [0, 1], on the CPU.

    Raises:
        ValueError: n is not a whole number of 1 or more.

    Example:
        >>> draw_views(8, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([8, 35])
    """
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"n: expected a whole number of 1 or more, found {n}")
    numbers = [
        torch.rand((n, CROP_NUMBERS), generator=generator, dtype=torch.float64),
        torch.rand((n, JITTER_NUMBERS), generator=generator),
        torch.rand((n, 1), generator=generator),  # gray
    ]
    if blur:
        numbers.append(torch.rand((n, 1), generator=generator))
        numbers.append(torch.rand((n, 1), generator=generator, dtype=torch.float64))  # its width
    else:
        numbers.append(torch.ones(n, 2))  # 1 is below no probability
    return torch.cat([one.double() for one in numbers], dim=1)


def views_from(
    images: torch.Tensor,
    numbers: torch.Tensor,
    *,
    crop: Pair | float | None = (0.2, 1.0),
    jitter: float | Sequence[float] | None = 1.0,
    grayscale: float | None = 0.2,
    blur: float | None = 0.0,
    flip: float | None = 0.5,
    size: Size = None,
) -> torch.Tensor:
    """Make views by random numbers that were drawn before, without waiting for the device.

    The views are those of `two_views` from the same numbers. On a CPU `two_views` is faster: it
    passes over the images that nothing was drawn for.

    Args:
        images: (N, 3, H, W).
        numbers: (V N, 35) from `draw_views`, on the CPU: for V views of each image, in turn.
        crop: As in `two_views`, and so are the others.
        jitter: See there.
        grayscale: See there.
        blur: See there.
        flip: See there.
        size: See there.

    Returns:
        (V N, 3, h, w).

    Raises:
        ValueError: A parameter is out of range, or the numbers are not of these images.

    Example:
        >>> images = torch.rand(8, 3, 32, 32)
        >>> numbers = torch.cat([draw_views(8), draw_views(8)])
        >>> views_from(images, numbers).shape
        torch.Size([16, 3, 32, 32])
    """
    x = to_float(images)
    _check_view_numbers(numbers, len(x))
    settings = _view_settings(x, crop, jitter, grayscale, blur, flip, size)
    return _views_by_masks(x, numbers, settings)


def _check_view_numbers(numbers: torch.Tensor, n: int) -> None:
    columns = CROP_NUMBERS + JITTER_NUMBERS + 3
    expected = f"numbers: expected a multiple of {n} rows of {columns}, from draw_views"
    if not isinstance(numbers, torch.Tensor):
        raise ValueError(f"{expected}, found {type(numbers).__name__}")
    shape = tuple(numbers.shape)
    if len(shape) != 2 or shape[1] != columns or shape[0] == 0 or shape[0] % n:
        raise ValueError(f"{expected}, found {shape}")
    if not _device.is_cpu(numbers.device) or numbers.dtype != torch.float64:
        raise ValueError(
            f"{expected} as float64 on the CPU, found {numbers.dtype} on {numbers.device}"
        )
    if not ((numbers >= 0) & (numbers <= 1)).all():
        raise ValueError(f"{expected} in [0, 1], found others")


class _View(NamedTuple):
    """How views are made: what `two_views` was told, checked."""

    crop: _Crop
    strengths: torch.Tensor  # (4,)
    jittered: torch.Tensor  # probability
    gray: torch.Tensor  # probability
    blur: torch.Tensor  # probability
    sigmas: tuple[torch.Tensor, torch.Tensor]
    kernel_size: int


def _view_settings(
    x: torch.Tensor,
    crop: Pair | float | None,
    jitter: float | Sequence[float] | None,
    grayscale: float | None,
    blur: float | None,
    flip: float | None,
    size: Size,
) -> _View:
    crop_settings = _crop_settings(x, size, crop, RATIO, flip)
    strengths, jittered = _jitter_settings(_strengths(jitter), JITTERED)
    gray_p = _numbers("p", grayscale, 0, 1)
    blur_p = _numbers("p", blur, 0, 1)
    sigmas = _range("sigma", SIGMA, 1e-3, 1e3)
    kernel_size = _kernel_size(crop_settings.size[0])
    if blur_p > 0:
        _check_kernel(kernel_size, min(crop_settings.size))
    return _View(crop_settings, strengths, jittered, gray_p, blur_p, sigmas, kernel_size)


class _ViewNumbers(NamedTuple):
    """Uniform numbers of N views, by what they decide."""

    crop: torch.Tensor  # (N, 23)
    jitter: torch.Tensor  # (N, 9)
    gray: torch.Tensor  # (N, 1)
    blur: torch.Tensor  # (N, 1)
    sigma: torch.Tensor  # (N, 1)


def _view_numbers(numbers: torch.Tensor) -> _ViewNumbers:
    """Split what `draw_views` returns, each part with the type in which it was drawn."""
    crop, jitter, gray, blur, sigma = numbers.split((CROP_NUMBERS, JITTER_NUMBERS, 1, 1, 1), dim=1)
    return _ViewNumbers(crop, jitter.float(), gray.float(), blur.float(), sigma)


def _views_by_masks(x: torch.Tensor, numbers: torch.Tensor, settings: _View) -> torch.Tensor:
    """Make views by steps that change all images and then keep what was drawn."""
    u = _view_numbers(numbers)
    steps = {"crop": _crop_parameters(u.crop, x, settings.crop)}
    if settings.strengths.any():
        steps["jitter"] = _jitter_parameters(u.jitter, settings.strengths, settings.jittered)
    if settings.gray > 0:
        steps["gray"] = (u.gray < settings.gray,)
    if settings.blur > 0:
        taps = _blur_taps(u.sigma, settings.sigmas, settings.kernel_size)
        steps["blur"] = (u.blur < settings.blur, taps)
    return _changed(torch.cat([x] * (len(numbers) // len(x))), **steps)


def _views_by_rows(x: torch.Tensor, numbers: torch.Tensor, settings: _View) -> torch.Tensor:
    """Make one view of each image on a CPU.

    Each step takes out the images that it changes, and puts them back.
    """
    u = _view_numbers(numbers)
    boxes, mirrored = _drawn_boxes(u.crop, x, settings.crop)
    view = _resized_crop(x, boxes, settings.crop.size, mirrored)
    if settings.strengths.any():
        _jitter_rows_(view, u.jitter, settings.strengths, settings.jittered)
    if settings.gray > 0:
        _gray_rows_(view, u.gray[:, 0] < settings.gray)
    if settings.blur > 0:
        chosen = u.blur[:, 0] < settings.blur
        _blur_rows_(view, chosen, u.sigma, settings.sigmas, settings.kernel_size)
    return view


def multi_crop(
    images: torch.Tensor,
    *,
    n_small: int = 4,
    small_size: int | tuple[int, int] = 16,
    small_crop: Pair | float = (0.05, 0.14),
    crop: Pair | float = (0.14, 1.0),
    **options: Any,
) -> list[torch.Tensor]:
    """Return two large views of every image and some small ones, which cost little to encode.

    Args:
        images: (N, 3, H, W).
        n_small: Number of small views.
        small_size: Side, or height and width, of the small views.
        small_crop: Range of the small views' share of the area.
        crop: Range of the large views' share of the area.
        options: The other arguments of `two_views`, for large and small views.

    Returns:
        2 + n_small tensors, the large views first.

    Raises:
        ValueError: A parameter is out of range.

    References:
        Caron et al. 2020, "Unsupervised Learning of Visual Features by Contrasting Cluster
        Assignments" (SwAV), section 3.3.

    Example:
        >>> views = multi_crop(torch.rand(8, 3, 32, 32), n_small=3)
        >>> [view.shape[2] for view in views]
        [32, 32, 16, 16, 16]
    """
    views = list(two_views(images, crop=crop, **options))
    small_options = {**options, "size": small_size}
    for _ in range(0, n_small, 2):
        views += two_views(images, crop=small_crop, **small_options)
    return views[: 2 + n_small]  # small views come in pairs: an odd one out is dropped
