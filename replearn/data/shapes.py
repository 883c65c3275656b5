"""`shapes`: pictures drawn from known factors by signed distance: below 0 is inside, one pixel is blended."""

import math

import torch

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "moon", "arrow", "bar")
COLORS = ("red", "yellow", "green", "cyan", "blue", "magenta")  # hue = index / 6
TEXTURES = ("plain", "striped", "checked", "dotted")
SIDE = 32


def _polygon(x, y, corners):
    """Signed distance to a polygon: nearest edge, and the sign flips each time a ray to the right crosses an edge."""
    distance, inside = torch.full_like(x, math.inf), torch.zeros_like(x, dtype=torch.bool)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        ex, ey = bx - ax, by - ay
        t = (((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey)).clamp(0, 1)
        distance = torch.minimum(distance, (x - ax - t * ex) ** 2 + (y - ay - t * ey) ** 2)
        if ay != by:
            inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * ex / ey)
    return torch.where(inside, -distance.sqrt(), distance.sqrt())


def _regular(n, inner=None, turn=-math.pi / 2):
    """Corners of a regular polygon, or of a star when `inner` gives the radius of its notches."""
    steps = n if inner is None else 2 * n
    polar = [
        (1.0 if inner is None or i % 2 == 0 else inner, turn + math.tau * i / steps)
        for i in range(steps)
    ]
    return [(radius * math.cos(angle), radius * math.sin(angle)) for radius, angle in polar]


def _heart(a):
    y = 5 * math.cos(2 * a) + 2 * math.cos(3 * a) + math.cos(4 * a) - 13 * math.cos(a)
    return 16 * math.sin(a) ** 3 / 17, y / 17


_HEART = [_heart(math.tau * i / 24) for i in range(24)]
_CROSS = [
    (-0.3, -1),
    (0.3, -1),
    (0.3, -0.3),
    (1, -0.3),
    (1, 0.3),
    (0.3, 0.3),
    (0.3, 1),
    (-0.3, 1),
    (-0.3, 0.3),
    (-1, 0.3),
    (-1, -0.3),
    (-0.3, -0.3),
]
_ARROW = [(0, -1), (0.85, 0), (0.3, 0), (0.3, 1), (-0.3, 1), (-0.3, 0), (-0.85, 0)]
_DISTANCE = {
    "circle": lambda x, y: torch.hypot(x, y) - 0.8,
    "square": lambda x, y: _polygon(x, y, _regular(4, turn=math.pi / 4)),
    "triangle": lambda x, y: _polygon(x, y, _regular(3)),
    "star": lambda x, y: _polygon(x, y, _regular(5, inner=0.42)),
    "cross": lambda x, y: _polygon(x, y, _CROSS),
    "ring": lambda x, y: (torch.hypot(x, y) - 0.68).abs() - 0.2,
    "heart": lambda x, y: _polygon(x, y, _HEART),
    "moon": lambda x, y: torch.maximum(torch.hypot(x, y) - 0.9, 0.75 - torch.hypot(x - 0.5, y)),
    "arrow": lambda x, y: _polygon(x, y, _ARROW),
    "bar": lambda x, y: torch.maximum(x.abs() - 0.35, y.abs() - 1.0),
}


def _rgb(hue, saturation, value):
    """HSV to RGB, broadcasting; returns (..., 3)."""
    k = (torch.tensor([5.0, 3.0, 1.0]) + 6 * hue[..., None]) % 6
    return value[..., None] * (1 - saturation[..., None] * torch.minimum(k, 4 - k).clamp(0, 1))


def _texture(kind, x, y, frequency, angle, phase):
    """Pattern in [0, 1] of one background kind at pixel coordinates x, y in [-1, 1]."""
    u, v = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    wave_u, wave_v = (
        torch.sin(math.pi * frequency * u + phase),
        torch.sin(math.pi * frequency * v + phase),
    )
    pattern = (
        torch.zeros_like(wave_u),
        wave_u,
        wave_u * wave_v * 2,
        (wave_u + wave_v - 0.9) * 1.5,
    )[kind]
    return torch.sigmoid(4 * pattern) if kind else pattern


def draw(factors, generator):
    """Draw pictures of given factors (a dict as `render` returns it); returns uint8 (N, 3, 32, 32)."""
    n = len(factors["shape"])
    axis = (torch.arange(SIDE) + 0.5) * 2 / SIDE - 1
    y, x = axis[:, None].expand(SIDE, SIDE), axis[None, :].expand(SIDE, SIDE)
    size, angle, cx, cy = (factors[name][:, None, None] for name in ("size", "rotation", "x", "y"))
    u = (
        (x - cx) * angle.cos() + (y - cy) * angle.sin()
    ) / size  # (N, 32, 32), the object's own axes
    v = ((y - cy) * angle.cos() - (x - cx) * angle.sin()) / size
    uniform = torch.rand(8, n, generator=generator)
    cover, pattern = torch.empty(n, SIDE, SIDE), torch.empty(n, SIDE, SIDE)
    for kind, name in enumerate(SHAPES):
        rows = factors["shape"] == kind
        distance = _DISTANCE[name](u[rows], v[rows]) * size[rows]
        cover[rows] = (0.5 - distance * SIDE / 2).clamp(0, 1)
    frequency, turn, phase = 2.5 + 2 * uniform[0], math.pi * uniform[1], math.tau * uniform[2]
    for kind in range(len(TEXTURES)):
        rows = factors["texture"] == kind
        pattern[rows] = _texture(
            kind, x, y, *(f[rows, None, None] for f in (frequency, turn, phase))
        )
    front = _rgb(factors["hue"], 0.6 + 0.4 * uniform[3], 0.75 + 0.25 * uniform[4])[
        :, :, None, None
    ]  # (N, 3, 1, 1)
    back = _rgb(factors["background_hue"], 0.4 + 0.4 * uniform[5], 0.1 + 0.15 * uniform[6])[
        :, :, None, None
    ]
    image = back * (1 - 0.5 * pattern[:, None])
    image = (
        image
        + cover[:, None] * (front - image)
        + 0.02 * torch.randn(n, 3, SIDE, SIDE, generator=generator)
    )
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


def _caption(shape, color, size, background, texture):
    big, ground = "large" if size > 0.65 else "small", f"{TEXTURES[texture]} {COLORS[background]}"
    return f"a {big} {COLORS[color]} {SHAPES[shape]} on a {ground} background"


def render(size, *, seed=0, spurious=0.0):
    """Draw `size` pictures with random factors, the same for the same seed.

    With probability `spurious` the class sets the background's hue and texture: a shortcut, found out in lesson 11.
    Factors: shape, color, background, texture (integers); hue, background_hue, size, rotation (radians), x, y.
    """
    from replearn.data import ImageSet

    if size < 1 or not 0 <= spurious <= 1:
        raise ValueError(
            f"expected size >= 1 and spurious in [0, 1], found size={size}, spurious={spurious}"
        )
    generator = torch.Generator().manual_seed(seed)
    choose = lambda high: torch.randint(high, (size,), generator=generator)
    between = lambda low, high: low + (high - low) * torch.rand(size, generator=generator)
    shape, color, background, texture = (
        choose(len(kinds)) for kinds in (SHAPES, COLORS, COLORS, TEXTURES)
    )
    shortcut = between(0, 1) < spurious
    background = torch.where(
        shortcut, shape % len(COLORS), background
    )  # with 6 and 4 each class has its own pair
    texture = torch.where(shortcut, shape % len(TEXTURES), texture)
    factors = dict(
        shape=shape,
        color=color,
        background=background,
        texture=texture,
        hue=(color + between(-0.3, 0.3)) / 6 % 1,
        background_hue=(background + between(-0.3, 0.3)) / 6 % 1,
        size=between(0.5, 0.8),
        rotation=between(0, math.tau),
        x=between(-0.25, 0.25),
        y=between(-0.25, 0.25),
    )
    parts = (
        {name: f[i : i + 2000] for name, f in factors.items()} for i in range(0, size, 2000)
    )  # little memory
    images = torch.cat([draw(part, generator) for part in parts])
    named = (factors[name].tolist() for name in ("shape", "color", "size", "background", "texture"))
    return ImageSet(
        images, shape, SHAPES, factors, tuple(_caption(*row) for row in zip(*named, strict=True))
    )
