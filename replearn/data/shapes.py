"""`shapes`: images drawn from known factors.

An object is given by its signed distance: how far a point is from the object's edge, negative
inside. A pixel whose distance is within half a pixel of 0 is blended, which makes edges smooth.

Shapes: N images of S pixels a side, 32 if nothing else is asked for. Coordinates run from -1 to 1,
x to the right and y down. An object is drawn in coordinates of its own, centered, upright and with
a radius of about 1.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from replearn.data.imageset import SIDE, ImageSet

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "moon", "arrow", "bar")
COLORS = ("red", "yellow", "green", "cyan", "blue", "magenta")  # hue = index / 6
TEXTURES = ("plain", "striped", "checked", "dotted")
MOST = 2_000_000  # images drawn at once
CHUNK = 2000  # images of 32 pixels drawn at a time, so that drawing needs little memory
LARGE = 0.65  # an object of a larger size is called large

# --- polygons -------------------------------------------------------------------------------------


def _polygon(x: Tensor, y: Tensor, corners: Sequence[tuple[float, float]]) -> Tensor:
    """Return the signed distance to a polygon.

    Its size is the distance to the nearest edge. A point is inside if a ray to its right crosses
    an odd number of edges.
    """
    squared_distance = torch.full_like(x, math.inf)
    inside = torch.zeros_like(x, dtype=torch.bool)
    next_corners = [*corners[1:], corners[0]]
    for (start_x, start_y), (end_x, end_y) in zip(corners, next_corners, strict=True):
        edge_x = end_x - start_x
        edge_y = end_y - start_y
        from_x = x - start_x
        from_y = y - start_y
        # The nearest point of the edge, as a fraction of its length.
        t = (from_x * edge_x + from_y * edge_y) / (edge_x * edge_x + edge_y * edge_y)
        t = t.clamp(0, 1)
        to_edge = (from_x - t * edge_x) ** 2 + (from_y - t * edge_y) ** 2
        squared_distance = torch.minimum(squared_distance, to_edge)
        if start_y != end_y:  # a ray to the right does not cross a horizontal edge
            spans_height = (start_y > y) != (end_y > y)
            inside ^= spans_height & (x < start_x + from_y * edge_x / edge_y)
    distance = squared_distance.sqrt()
    return torch.where(inside, -distance, distance)


def _on_circle(radius: float, angle: float) -> tuple[float, float]:
    return radius * math.cos(angle), radius * math.sin(angle)


def _regular(n: int, turn: float = -math.pi / 2) -> list[tuple[float, float]]:
    """Return the corners of a regular polygon of radius 1, the first one at the angle `turn`."""
    return [_on_circle(1.0, turn + math.tau * i / n) for i in range(n)]


def _star_corners(n: int, inner: float) -> list[tuple[float, float]]:
    """Return the corners of a star with `n` points of radius 1 and notches of radius `inner`."""
    corners = []
    for i in range(2 * n):
        radius = 1.0 if i % 2 == 0 else inner
        corners.append(_on_circle(radius, -math.pi / 2 + math.tau * i / (2 * n)))
    return corners


def _heart_corners(n: int) -> list[tuple[float, float]]:
    """Return points on the curve known as the heart, scaled to a radius of about 1."""
    corners = []
    for i in range(n):
        a = math.tau * i / n
        x = 16 * math.sin(a) ** 3
        y = 5 * math.cos(2 * a) + 2 * math.cos(3 * a) + math.cos(4 * a) - 13 * math.cos(a)
        corners.append((x / 17, y / 17))
    return corners


_SQUARE = _regular(4, turn=math.pi / 4)
_TRIANGLE = _regular(3)
_STAR = _star_corners(5, inner=0.42)
_HEART = _heart_corners(24)
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
_ARROW = [
    (0, -1),
    (0.85, 0),
    (0.3, 0),
    (0.3, 1),
    (-0.3, 1),
    (-0.3, 0),
    (-0.85, 0),
]

# --- signed distances of the ten shapes -----------------------------------------------------------


def _circle(x: Tensor, y: Tensor) -> Tensor:
    """Return the signed distance to a disk of radius 0.8."""
    return torch.hypot(x, y) - 0.8


def _square(x: Tensor, y: Tensor) -> Tensor:
    """Return the signed distance to a square with its corners at radius 1."""
    return _polygon(x, y, _SQUARE)


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    """Return the signed distance to an equilateral triangle that points up."""
    return _polygon(x, y, _TRIANGLE)


def _star(x: Tensor, y: Tensor) -> Tensor:
    """Return the signed distance to a star with five points."""
    return _polygon(x, y, _STAR)


def _cross(x: Tensor, y: Tensor) -> Tensor:
    """Return the signed distance to a cross of four equal arms."""
    return _polygon(x, y, _CROSS)


def _ring(x: Tensor, y: Tensor) -> Tensor:
    """Return the signed distance to a ring between the radii 0.48 and 0.88."""
    return (torch.hypot(x, y) - 0.68).abs() - 0.2


def _heart(x: Tensor, y: Tensor) -> Tensor:
    """Return the signed distance to a heart."""
    return _polygon(x, y, _HEART)


def _moon(x: Tensor, y: Tensor) -> Tensor:
    """Return a bound of the signed distance to a crescent: a disk less a second one beside it."""
    disk = torch.hypot(x, y) - 0.9
    outside_second = 0.75 - torch.hypot(x - 0.5, y)
    return torch.maximum(disk, outside_second)


def _arrow(x: Tensor, y: Tensor) -> Tensor:
    """Return the signed distance to an arrow that points up."""
    return _polygon(x, y, _ARROW)


def _bar(x: Tensor, y: Tensor) -> Tensor:
    """Return a bound of the signed distance to an upright rectangle."""
    return torch.maximum(x.abs() - 0.35, y.abs() - 1.0)


_DISTANCE = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "heart": _heart,
    "moon": _moon,
    "arrow": _arrow,
    "bar": _bar,
}

# --- drawing --------------------------------------------------------------------------------------


def _rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Convert HSV, each (N,) in [0, 1], to RGB (N, 3)."""
    sextant = (torch.tensor([5.0, 3.0, 1.0]) + 6 * hue[..., None]) % 6  # of red, green, blue
    missing = torch.minimum(sextant, 4 - sextant).clamp(0, 1)
    return value[..., None] * (1 - saturation[..., None] * missing)


def _rotated(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Return the coordinates of the same points on axes that are turned by `angle`, in radians."""
    cos = angle.cos()
    sin = angle.sin()
    return x * cos + y * sin, y * cos - x * sin


def _texture(
    name: str, x: Tensor, y: Tensor, frequency: Tensor, angle: Tensor, phase: Tensor
) -> Tensor:
    """Return the pattern of one background texture, in [0, 1], at the coordinates x, y."""
    along, across = _rotated(x, y, angle)
    wave = torch.sin(math.pi * frequency * along + phase)
    other_wave = torch.sin(math.pi * frequency * across + phase)
    if name == "plain":
        return torch.zeros_like(wave)
    if name == "striped":
        pattern = wave
    elif name == "checked":
        pattern = wave * other_wave * 2
    else:
        pattern = (wave + other_wave - 0.9) * 1.5
    return torch.sigmoid(4 * pattern)


def _cover(factors: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Return (N, S, S): how much of each pixel the object covers, in [0, 1]."""
    names = ("size", "rotation", "x", "y")
    size, angle, center_x, center_y = (factors[name][:, None, None] for name in names)
    along, across = _rotated(x - center_x, y - center_y, angle)
    cover = torch.empty(len(size), *x.shape)
    for index, name in enumerate(SHAPES):
        rows = factors["shape"] == index
        radius = size[rows]
        distance = _DISTANCE[name](along[rows] / radius, across[rows] / radius) * radius
        distance_in_pixels = distance * len(x) / 2
        cover[rows] = (0.5 - distance_in_pixels).clamp(0, 1)
    return cover


def _background_pattern(
    texture: Tensor, x: Tensor, y: Tensor, frequency: Tensor, angle: Tensor, phase: Tensor
) -> Tensor:
    """Return (N, S, S): the pattern of each background, in [0, 1]."""
    pattern = torch.empty(len(texture), *x.shape)
    for index, name in enumerate(TEXTURES):
        rows = texture == index
        parameters = (values[rows, None, None] for values in (frequency, angle, phase))
        pattern[rows] = _texture(name, x, y, *parameters)
    return pattern


def draw(factors: dict[str, Tensor], generator: torch.Generator, *, side: int = SIDE) -> Tensor:
    """Draw images of given factors.

    Saturation and brightness of both colors, the pattern's frequency, angle and phase, and some
    noise are drawn from the generator.

    Args:
        factors: As in the result of `render`; "color" and "background" are not used. Each is (N,).
        generator: On the CPU.
        side: Height and width of the images in pixels.

    Returns:
        (N, 3, side, side), uint8.

    Example:
        >>> factors = render(2, seed=0).factors
        >>> draw(factors, torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 32, 32])
    """
    n = len(factors["shape"])
    axis = (torch.arange(side) + 0.5) * 2 / side - 1  # centers of the pixels
    x = axis[None, :].expand(side, side)
    y = axis[:, None].expand(side, side)

    # The eighth number is not used. Without it, other images would come from the same seed.
    uniform = torch.rand(8, n, generator=generator)
    u_frequency, u_angle, u_phase = uniform[:3]
    u_saturation, u_value = uniform[3:5]  # of the object
    u_background_saturation, u_background_value = uniform[5:7]

    cover = _cover(factors, x, y)
    pattern = _background_pattern(
        factors["texture"],
        x,
        y,
        frequency=2.5 + 2 * u_frequency,
        angle=math.pi * u_angle,
        phase=math.tau * u_phase,
    )
    color = _rgb(factors["hue"], 0.6 + 0.4 * u_saturation, 0.75 + 0.25 * u_value)
    background_color = _rgb(
        factors["background_hue"],
        0.4 + 0.4 * u_background_saturation,
        0.1 + 0.15 * u_background_value,
    )
    color = color[:, :, None, None]  # (N, 3, 1, 1)
    background_color = background_color[:, :, None, None]

    background = background_color * (1 - 0.5 * pattern[:, None])
    image = background + cover[:, None] * (color - background)
    image += 0.02 * torch.randn(n, 3, side, side, generator=generator)
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


def _captions(factors: dict[str, Tensor]) -> tuple[str, ...]:
    """Return one sentence for each image, such as "a small red star on a plain blue background"."""

    def words(name: str, kinds: Sequence[str]) -> list[str]:
        return [kinds[index] for index in factors[name].tolist()]

    colors = words("color", COLORS)
    shapes = words("shape", SHAPES)
    textures = words("texture", TEXTURES)
    backgrounds = words("background", COLORS)
    captions = []
    for i, size in enumerate(factors["size"].tolist()):
        adjective = "large" if size > LARGE else "small"
        front = f"a {adjective} {colors[i]} {shapes[i]}"
        captions.append(f"{front} on a {textures[i]} {backgrounds[i]} background")
    return tuple(captions)


def render(size: int, *, seed: int = 0, spurious: float = 0.0, side: int = SIDE) -> ImageSet:
    """Draw images with random factors, the same for the same seed.

    Args:
        size: How many, 1 to 2,000,000, which take 6 GB of memory.
        seed: Of all random choices.
        spurious: In [0, 1], the probability that the class sets the background's hue and texture.
            Such a background is a shortcut: it tells the class, and has nothing to do with it.
            Lesson 11 finds it out.
        side: Height and width of the images in pixels, 1 or more.

    Returns:
        An ImageSet whose labels are the shapes. Its factors, each (N,): shape, color, background
        and texture (indexes into `SHAPES`, `COLORS`, `COLORS`, `TEXTURES`); hue and
        background_hue in [0, 1); size (the radius, 0.5 to 0.8, where the image is 2 wide);
        rotation in radians; x and y (the center, -0.25 to 0.25).

    Raises:
        ValueError: `size`, `spurious` or `side` is out of range.

    Example:
        >>> images = render(3, seed=0)
        >>> images.captions[0]
        'a large red cross on a dotted yellow background'
    """
    if not 1 <= size <= MOST or not 0 <= spurious <= 1:
        raise ValueError(
            f"expected size from 1 to {MOST:,} and spurious in [0, 1], found size={size}, "
            f"spurious={spurious}"
        )
    if side < 1:
        raise ValueError(f"side: expected a number of pixels of 1 or more, found {side}")
    # As many images at a time as need the memory of CHUNK small ones.
    chunk = max(1, CHUNK * SIDE**2 // max(SIDE, side) ** 2)
    generator = torch.Generator().manual_seed(seed)
    factors = _random_factors(size, spurious, generator)
    chunks = []
    for start in range(0, size, chunk):
        part = {name: values[start : start + chunk] for name, values in factors.items()}
        chunks.append(draw(part, generator, side=side))
    images = torch.cat(chunks)
    return ImageSet(images, factors["shape"], SHAPES, factors, _captions(factors))


def _random_factors(size: int, spurious: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw the factors of `size` images."""

    def choose(kinds: Sequence[str]) -> Tensor:
        return torch.randint(len(kinds), (size,), generator=generator)

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(size, generator=generator)

    shape = choose(SHAPES)
    color = choose(COLORS)
    background = choose(COLORS)
    texture = choose(TEXTURES)
    # With 6 colors and 4 textures, each of the 10 classes has a pair of its own.
    shortcut = between(0, 1) < spurious
    background = torch.where(shortcut, shape % len(COLORS), background)
    texture = torch.where(shortcut, shape % len(TEXTURES), texture)
    return dict(
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
