"""SimCLR's augmentations (Chen et al. 2020, appendix A) for a whole batch: every image draws its own parameters.
Images are (N, 3, H, W), uint8 or floats in [0, 1]; results are new float32 images in [0, 1] on the same device, without
gradient. Given the same parameters they equal torchvision's within 1e-5 (coarser on a GPU allowed TF32); bad parameters
raise ValueError. Draws come from `generator`, a CPU one for images on any device (None: torch's global one).
"""

import functools

import torch
from torch.nn.functional import pad


def to_float(images):
    """Return images (N, 3, H, W) as contiguous float32 in [0, 1]: uint8 is divided by 255, floats have to be there."""
    images = torch.as_tensor(() if images is None else images).to_dense()
    if images.ndim != 4 or images.shape[1] != 3 or images.numel() == 0 or images.is_meta:
        raise ValueError(
            f"images: expected shape (N, 3, H, W), not empty, found {(*images.shape,)} on {images.device}"
        )
    x = images.detach().float().contiguous()
    if images.dtype == torch.uint8:
        return x.div_(255)
    low, high = torch.stack(x.aminmax()).tolist()
    if not (images.is_floating_point() and low >= 0 and high <= 1):  # NaN fails every comparison
        raise ValueError(
            f"images: expected uint8 or floats in [0, 1], found {images.dtype}, {low:.8g} to {high:.8g}"
        )
    return x


def _on_copy(
    change,
):  # `change` works in place on checked floats; this is for any images, `.__wrapped__` for our own
    return functools.wraps(change)(
        lambda images, *args, **kw: change(to_float(images).clone(), *args, **kw)
    )


def _within(name, value, low, high, shape=(), rising=False):
    value = torch.as_tensor(0 if value is None else value, dtype=torch.float64, device="cpu")
    fits = value.shape in ((), shape) and ((value >= low) & (value <= high)).all()
    if not fits or (rising and value.expand(shape).diff().lt(0).any()):
        what = f"{'rising ' * rising}numbers {tuple(shape)}" if shape else "a number"
        raise ValueError(f"{name}: expected {what} in [{low}, {high}], found {value.tolist()}")
    return value.expand(shape)


def _chosen(images, p, generator):
    return (
        (torch.rand(len(images), generator=generator) < _within("p", p, 0, 1))
        .nonzero()[:, 0]
        .to(images.device)
    )


def _separable(x, rows, columns):  # (N, 3, H, W), (N, h, H), (N, w, W) -> (N, 3, h, w)
    with torch.autocast(x.device.type, enabled=False):
        return (
            rows[:, None] @ torch.bmm(x.flatten(1, 2), columns.mT).unflatten(1, (3, -1))
        ).clamp_(0, 1)


@_on_copy
def resized_crop(images, boxes, size=None, *, flip=False):
    """Resize a box (top, left, height, width) of each image, (N, 4), to `size` (int or (h, w); None keeps the size).
    Bilinear, antialiased: Y = A X B^T, triangle weights in A and B; `flip`, one bool or (N,), mirrors B for free."""
    (n, _, *full), weights = images.shape, []
    size = _within("size", full if size is None else size, 1, 1e5, (2,)).int().tolist()
    boxes = _within("boxes", boxes, torch.tensor((0, 0, 1, 1)), torch.tensor(full * 2), (n, 4))
    _within("boxes (bottom, right)", boxes[:, :2] + boxes[:, 2:], 1, torch.tensor(full), (n, 2))
    flips = torch.tensor(False), _within("flip", flip, 0, 1, (n,))[:, None] > 0
    for start, length, old, new, mirror in zip(
        *boxes.T[..., None].split(2), full, size, flips, strict=True
    ):
        step, pixel, index = length / new, torch.arange(old) + 0.5, torch.arange(new) + 0.5
        center = start + step * torch.where(mirror, new - index, index)  # (N, h)
        width = step.clamp(min=1)  # wider than a pixel when shrinking: antialias
        pixel = (pixel / width).masked_fill(
            (pixel < start) | (pixel >= start + length), torch.inf
        )  # weight 0 outside
        weight = (
            (pixel.to(images)[:, None] - (center / width).to(images)[..., None])
            .abs_()
            .sub_(1)
            .clamp_(max=0)
        )
        weights.append(weight.div_(weight.sum(2, keepdim=True)))  # (N, h, H)
    return _separable(images, *weights)


@_on_copy
def random_resized_crop(
    images, *, size=None, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3), flip=0.0, generator=None
):
    """Crop `scale` of the area (None: all) at log-uniform `ratio` width / height, resize, `flip` with that probability.
    As torchvision's RandomResizedCrop: the first of 10 tries that fits, else the largest box, centered."""
    n, _, h, w = images.shape
    u, full = torch.rand((n, 23), generator=generator, dtype=torch.float64), torch.tensor((h, w))
    low, high = _within("ratio", ratio if scale else w / h, 1e-6, 1e6, (2,), rising=True)
    area = (
        h
        * w
        * torch.lerp(*_within("scale", scale or 1, 1e-6, 1, (2,), rising=True), u[:, None, :10])
    )
    aspect = torch.lerp(low.log(), high.log(), u[:, None, 10:20]).exp()
    largest = torch.minimum(full, torch.stack((w / low, h * high))).expand(n, 2)[..., None]
    tries = torch.cat(
        (torch.cat((area / aspect, area * aspect), 1).sqrt(), largest), 2
    ).round()  # (N, 2, 11)
    first = ((tries > 0) & (tries <= full[:, None])).all(1).int().argmax(1)[:, None]
    sides = tries.take_along_dim(first[..., None], 2)[..., 0]  # height, width (N, 2)
    corner = torch.where(first < 10, u[:, 20:22] * (full - sides + 1), (full - sides) / 2).floor()
    boxes, flip = torch.cat((corner, sides), 1), u[:, 22] < _within("flip", flip, 0, 1)
    return resized_crop.__wrapped__(images, boxes, size, flip=flip)


def random_horizontal_flip(images, *, p=0.5, generator=None):
    """Mirror each image left to right with probability `p`."""
    return random_resized_crop(images, scale=None, flip=p, generator=generator)


def _gray(x):  # luma, rounded as in torchvision: (N, 3, H, W) -> (N, 1, H, W)
    return (x[:, :1] * 0.2989).add_(x[:, 1:2], alpha=0.587).add_(x[:, 2:], alpha=0.114)


def _blend(other):
    def adjust(images, factor):
        """Return clamp(f x + (1 - f) y), y black (brightness), mean gray (contrast) or gray; f >= 0, one or (N,)."""
        factor = _within("factor", factor, 0, torch.inf, images.shape[:1]).to(images)[
            :, None, None, None
        ]
        rest = (1 - factor) * other(images)
        return images.mul_(factor).add_(rest).clamp_(0, 1)

    return _on_copy(adjust)


adjust_brightness, adjust_saturation = _blend(lambda x: 0), _blend(_gray)
adjust_contrast = _blend(lambda x: _gray(x.mean((2, 3), keepdim=True)))


@_on_copy
def adjust_hue(images, factor):
    """Turn the hue, as through HSV, by `factor`, a number or (N,) in [-0.5, 0.5]; 1 would be once around."""
    turn = _within("factor", factor, -0.5, 0.5, images.shape[:1]).to(images)[:, None, None]
    (r, g, b), low = images.unbind(1), images.amin(1)
    chroma = images.amax(1).sub_(low)
    # Hue in sextants, 0 red, 2 green, -2 blue. With r, g, b stretched to [0, 1] its size is 1 - r + g + b in every
    # sextant and its sign that of g - b: no branches. A gray pixel gets any hue, multiplied by its chroma of 0.
    hue = (
        (g - r)
        .add_(b)
        .sub_(low)
        .div_(chroma.clamp(min=1e-30))
        .add_(1)
        .copysign_(g - b)
        .add_(turn, alpha=6)
    )
    hue.sub_(hue.div(6).round_(), alpha=6)  # back to [-3, 3]
    torch.sub(hue[:, None], hue.new_tensor((0, 2, -2))[:, None, None], out=images)
    images.abs_().sub_(3).abs_().sub_(1).clamp_(
        0, 1
    )  # share of the chroma: 1 within a sextant of a channel's own hue
    return images.mul_(chroma[:, None]).add_(low[:, None]).clamp_(0, 1)


@_on_copy
def color_jitter(
    images, *, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, p=0.8, generator=None
):
    """With probability `p` adjust all four in random order, by factors uniform in 1 -/+ strength (hue: 0 -/+)."""
    u, most = (
        torch.rand((len(images), 9), generator=generator),
        torch.tensor((torch.inf, torch.inf, torch.inf, 0.5)),
    )
    spread = _within("strengths", (brightness, contrast, saturation, hue), 0, most, (4,))
    factors = torch.lerp((1 - spread).clamp(min=0), 1 + spread, u[:, :4].double()) - torch.tensor(
        (0, 0, 0, 1)
    )
    order = torch.where(
        u[:, 8:] < _within("p", p, 0, 1), u[:, 4:8].argsort(1), -1
    )  # (N, 4): 1st, 2nd, ... adjustment
    for step in order.T:
        for k, adjust in enumerate(
            (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
        ):
            rows = ((step == k) & (spread[k] > 0)).nonzero()[:, 0]
            there = rows.to(images.device)
            images.index_copy_(
                0, there, adjust.__wrapped__(images.index_select(0, there), factors[rows, k])
            )
    return images


@_on_copy
def random_grayscale(images, *, p=0.2, generator=None):
    """Replace each image by its gray version with probability `p`."""
    rows = _chosen(images, p, generator)
    return images.index_copy_(0, rows, _gray(images.index_select(0, rows)).expand(-1, 3, -1, -1))


@_on_copy
def gaussian_blur(images, *, p=0.5, sigma=(0.1, 2.0), kernel_size=3, generator=None):
    """Blur with probability `p` by a Gaussian of `sigma` pixels, a number or a range to draw from; borders reflect."""
    rows, half, limit = _chosen(images, p, generator), kernel_size // 2, 2 * min(images.shape[2:])
    if kernel_size not in range(1, limit, 2):
        raise ValueError(f"kernel_size: expected an odd number below {limit}, found {kernel_size}")
    ends = _within("sigma", sigma, 1e-3, 1e3, (2,), rising=True)
    sigma = torch.lerp(
        *ends, torch.rand((len(images), 1), generator=generator, dtype=torch.float64)
    )[rows.cpu()]
    taps = torch.softmax(-0.5 * (torch.arange(-half, half + 1) / sigma) ** 2, 1)  # (n, K)
    eyes = {
        k: pad(torch.eye(k, dtype=taps.dtype)[None], (half, half), mode="reflect")[0]
        for k in images.shape[2:]
    }
    weights = {
        k: torch.einsum("nk,jki->nij", taps, eye.unfold(1, k, 1)).to(images)
        for k, eye in eyes.items()
    }
    return images.index_copy_(
        0, rows, _separable(images.index_select(0, rows), *map(weights.get, images.shape[2:]))
    )


def two_views(
    images,
    *,
    crop=(0.2, 1.0),
    jitter=1.0,
    grayscale=0.2,
    blur=0.0,
    flip=0.5,
    size=None,
    generator=None,
):
    """Return two independent views of every image: crop, flip, color jitter, grayscale, blur, in this order.
    `crop` is the range of areas, `jitter` the four strengths of `color_jitter`, or a number that multiplies (0.4, 0.4,
    0.4, 0.1); the others are probabilities; 0 or None switches one off. The blur's kernel is 10 % of the height."""
    jitter = (
        jitter
        if isinstance(jitter, tuple | list)
        else [v * (jitter or 0) for v in (0.4, 0.4, 0.4, 0.1)]
    )
    strengths = dict(zip(("brightness", "contrast", "saturation", "hue"), jitter, strict=True))
    images, views = to_float(images), []
    for _ in range(2):
        x = random_resized_crop.__wrapped__(
            images, size=size, scale=crop, flip=flip, generator=generator
        )
        color_jitter.__wrapped__(x, **strengths, generator=generator)
        random_grayscale.__wrapped__(x, p=grayscale, generator=generator)
        kernel_size = 1 + 2 * max(1, x.shape[2] // 20)
        views.append(
            gaussian_blur.__wrapped__(x, p=blur, kernel_size=kernel_size, generator=generator)
            if blur
            else x
        )
    return tuple(views)


def multi_crop(
    images, *, n_small=4, small_size=16, small_crop=(0.05, 0.14), crop=(0.14, 1.0), **options
):
    """Return 2 large and `n_small` small views, `options` as in `two_views` (SwAV, Caron et al. 2020, section 3.3)."""
    small = (
        two_views(images, crop=small_crop, **options | {"size": small_size})
        for _ in range(0, n_small, 2)
    )
    return [view for pair in (two_views(images, crop=crop, **options), *small) for view in pair][
        : 2 + n_small
    ]
