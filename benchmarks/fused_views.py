"""SimCLR views as torch.compile likes them: the draws of `replearn.augment.two_views`, the same pictures, no branches.

Not part of the package: benchmarks/augment.py measures what it would bring, tests/test_fused_views.py that it is exact.
The core picks the pictures that an adjustment falls to; their number is random, and a compiler wants fixed shapes. Here
every picture passes through everything, with neutral parameters where nothing was drawn (factor 1, turn 0, taps 0 1 0).
- Crop, flip and blur are products with small matrices, as in the core. Crop and blur cannot be merged into one product:
  the color adjustments between them clamp, so they are not linear.
- The 24 orders of brightness, contrast, saturation and hue have one frame, given that each comes once: s s hue s s
  contrast s s hue s s, where s is a blend c f + g gray(x), brightness with g = 0 or saturation with g = 1 - f. Contrast
  needs a mean over the picture, so there are two passes over its pixels; between them it stays in the cache.
- Rows carry all three channels, (N, H, 3, W), so that each of the four products is one matrix a picture.
- Pictures pass in blocks of 64: one fixed shape to compile whatever the batch, and a block stays in the cache.
"""

import functools

import torch

from replearn.augment import to_float

BLOCK = 64  # two views of 32 pictures
STRENGTHS = (0.4, 0.4, 0.4, 0.1)  # brightness, contrast, saturation, hue


def draw(n, generator=None, blur=True):
    """Return the random numbers of one view, in the order in which the core draws them; without blur it draws less."""
    shapes = (
        ((n, 23), torch.float64),
        ((n, 9), None),
        ((n, 1), None),
        ((n, 1), None),
        ((n, 1), torch.float64),
    )
    drawn = [
        torch.rand(shape, generator=generator, dtype=kind)
        for shape, kind in shapes[: 5 if blur else 3]
    ]
    return drawn + [torch.ones(n, 1)] * (5 - len(drawn))


def boxes(u, h, w, scale, ratio):
    """Return top, height, left, width of each crop, (N, 1): the first of ten tries that fits, else the largest box."""
    area = h * w * (scale[0] + (scale[1] - scale[0]) * u[:, :10])
    low, high = torch.tensor(ratio, dtype=torch.float64).log()
    aspect = (low + (high - low) * u[:, 10:20]).exp()
    heights, widths = (area / aspect).sqrt().round(), (area * aspect).sqrt().round()
    fits = (heights > 0) & (heights <= h) & (widths > 0) & (widths <= w)
    first = torch.where(fits, torch.arange(10), 10).amin(1, keepdim=True)
    none, chosen = first == 10, torch.arange(10) == first
    height = torch.where(none, min(h, round(w / ratio[0])), (heights * chosen).sum(1, keepdim=True))
    width = torch.where(none, min(w, round(h * ratio[1])), (widths * chosen).sum(1, keepdim=True))
    top = torch.where(none, (h - height) / 2, u[:, 20:21] * (h - height + 1)).floor()
    left = torch.where(none, (w - width) / 2, u[:, 21:22] * (w - width + 1)).floor()
    return top, height, left, width


def positions(start, length, size, mirror):
    """Return where the source pixels and the new ones lie, (N, size) each, in units of a triangle's width."""
    index, step = torch.arange(size) + 0.5, length / size
    width, center = step.clamp(min=1), start + step * torch.where(mirror, size - index, index)
    inside = (index >= start) & (index < start + length)
    return torch.where(inside, index / width, torch.inf).float(), (center / width).float()


def slots(u, strengths, p):
    """Return factor and gray share of the eight blends (N, 8), the turns before and after contrast, its factor."""
    factors = [
        1 - s + 2 * s * u[:, k : k + 1].double() - float(k == 3) for k, s in enumerate(strengths)
    ]
    bright, contrast, saturation, turn = (
        torch.where(u[:, 8:] < p, f, float(k < 3)).float() for k, f in enumerate(factors)
    )
    after = lambda a, b: u[:, 4 + a : 5 + a] > u[:, 4 + b : 5 + b]
    place = lambda a, other: after(a, 1) * 4 + after(a, 3) * 2 + after(a, other) == torch.arange(8)
    first, second, late = place(0, 2), place(2, 0), after(3, 1)
    factor = torch.where(first, bright, torch.where(second, saturation, 1.0))
    return (
        factor,
        torch.where(second, 1 - saturation, 0.0),
        torch.where(late, 0, turn),
        turn * late,
        contrast,
    )


def parameters(u, v, gray, blur, s, h, w, crop, flip, strengths, p_jitter, p_gray, p_blur, sigma):
    """Turn the random numbers of a view into what `view` needs, (N, 2 H + 2 W + 20 + taps)."""
    top, height, left, width = boxes(u, h, w, crop, (3 / 4, 4 / 3))
    mirror = u[:, 22:] < flip
    rows, columns = (
        positions(top, height, h, torch.zeros_like(mirror)),
        positions(left, width, w, mirror),
    )
    half = max(1, h // 20)
    taps = torch.exp(
        -0.5 * (torch.arange(-half, half + 1) / (sigma[0] + (sigma[1] - sigma[0]) * s)) ** 2
    )
    taps = torch.where(
        blur < p_blur, taps / taps.sum(1, keepdim=True), torch.arange(-half, half + 1) == 0
    )
    return torch.cat(
        (*rows, *columns, *slots(v, strengths, p_jitter), gray < p_gray, taps), 1
    ).float()


def triangles(pixel, center):
    """Bilinear, antialiased resizing as a matrix (N, new, old)."""
    weight = (1 - (pixel[:, None] - center[..., None]).abs()).relu()
    return weight / weight.sum(2, keepdim=True)


def reflecting(taps, size):
    """A blur with reflecting borders as a matrix (N, size, size); taps: (N, K)."""
    half, index = taps.shape[1] // 2, torch.arange(size)
    source = (index[:, None] + torch.arange(-half, half + 1)).abs()  # (size, K)
    source = size - 1 - (size - 1 - source).abs()
    return (taps @ (source.T[..., None] == index).float().flatten(1)).unflatten(1, (size, size))


def luma(x):
    return x[0] * 0.2989 + x[1] * 0.587 + x[2] * 0.114


def blend(x, factor, rest):
    return [(c * factor + rest).clamp(0, 1) for c in x]


def hue(x, turn):
    """As the core's adjust_hue; red, green and blue apart."""
    r, g, b = x
    low, high = torch.minimum(torch.minimum(r, g), b), torch.maximum(torch.maximum(r, g), b)
    chroma = high - low
    angle = torch.copysign((g - r + b - low) / chroma.clamp(min=1e-30) + 1, g - b) + 6 * turn
    angle = angle - 6 * (angle * (1 / 6)).round()
    shares = [(((angle - own).abs() - 3).abs() - 1).clamp(0, 1) for own in (0, 2, -2)]
    return [(share * chroma + low).clamp(0, 1) for share in shares]


def color(x, factor, share, turn, late_turn, contrast, gray):
    """Jitter and gray x, three times (N, H, W); the parameters are (N, 8) or (N, 1)."""

    def side(x, slots, turn):
        for j in slots:
            x = blend(x, factor[:, j, None, None], share[:, j, None, None] * luma(x))
            x = hue(x, turn[..., None]) if j % 4 == 1 else x
        return x

    x = side(x, range(4), turn)
    x = blend(
        x, contrast[..., None], (1 - contrast[..., None]) * luma(x).mean((1, 2), keepdim=True)
    )
    x = side(x, range(4, 8), late_turn)
    y = luma(x)
    return [torch.where(gray[..., None], y, c) for c in x]


def view(images, given):
    """Crop, flip, jitter, gray and blur images (N, 3, H, W), uint8 or floats in [0, 1]; given: from `parameters`."""
    n, _, h, w = images.shape
    taps = given.shape[1] - 2 * h - 2 * w - 20
    *sides, factor, share, turn, late_turn, contrast, gray, taps = given.split(
        [h, h, w, w, 8, 8, 1, 1, 1, 1, taps], 1
    )
    x = images.permute(0, 2, 1, 3).float().contiguous()
    x = x / 255 if images.dtype == torch.uint8 else x  # (N, H, 3, W)
    x = torch.bmm(triangles(*sides[:2]), x.view(n, h, 3 * w))
    x = torch.bmm(x.view(n, 3 * h, w), triangles(*sides[2:]).mT).view(n, h, 3, w).clamp(0, 1)
    x = torch.stack(color(x.unbind(2), factor, share, turn, late_turn, contrast, gray > 0), 2)
    x = torch.bmm(reflecting(taps, h), x.view(n, h, 3 * w))
    x = torch.bmm(x.view(n, 3 * h, w), reflecting(taps, w).mT).view(n, h, 3, w)
    return x.permute(0, 2, 1, 3).clamp(0, 1).contiguous()


@functools.cache
def compiled():
    """Compile `view`; what one process compiled, the next one on this machine loads."""
    return torch.compile(view, dynamic=False)


@torch.no_grad()
def two_views(
    images,
    *,
    crop=(0.2, 1.0),
    jitter=1.0,
    grayscale=0.2,
    blur=0.5,
    flip=0.5,
    generator=None,
    view=None,
):
    """Return what `replearn.augment.two_views` returns for the same generator, within 1e-5; `view`: `compiled()` or,
    to run it uncompiled, `view`."""
    view, n = view or compiled(), len(images)
    images = images if images.dtype == torch.uint8 else to_float(images)
    options = crop, flip, tuple(s * jitter for s in STRENGTHS), 0.8, grayscale, blur, (0.1, 2.0)
    drawn = map(torch.cat, zip(*(draw(n, generator, blur > 0) for _ in range(2)), strict=True))
    rows = torch.arange(-(-2 * n // BLOCK) * BLOCK) % (
        2 * n
    )  # the last block filled up from the start
    given = parameters(*drawn, *images.shape[2:], *options).index_select(0, rows).split(BLOCK)
    images, views = images.index_select(0, rows % n), torch.empty(2 * n, *images.shape[1:])
    for block, pictures, numbers in zip(
        views.split(BLOCK), images.split(BLOCK), given, strict=True
    ):
        block.copy_(view(pictures, numbers)[: len(block)])  # out while it is in the cache
    return views.split(n)
