"""The live picture, on the first page and in two lessons: its HTML, and what its script needs.

The second is written when the site is built.

The shipped SimCLR encoder goes into the page as text, one character a weight, since a page that is
opened from the disk may not read files. Normalization is folded into the convolutions, and each
channel of weights is rounded to 91 steps of its own.
"""

import json
import math
from pathlib import Path

ENCODER = "shapes_simclr"
GALLERY_SIZE = 200
GALLERY_SEED = 3
MOST = 45  # weights are whole numbers from -45 to 45, times the step of their channel
# One character stands for each whole number. The quotation mark and the backslash, which a string
# of a script writes with two, and <, with which a browser could find a tag, are not among them.
CHARACTERS = "".join(chr(code) for code in range(33, 127) if chr(code) not in '"\\<')
TRIED_ROUNDINGS = 61


def rounded(weights):
    """Return weights as whole numbers from -45 to 45, and the step of each row.

    The step of a row is the one of several that changes its weights least: the largest weight need
    not be met where many small ones gain from it.

    Args:
        weights: A tensor (N, D), float32.

    Returns:
        Whole numbers (N, D), float32, and steps (N, 1).
    """
    import torch

    largest = weights.abs().amax(dim=1, keepdim=True)
    best = torch.full_like(largest, math.inf)
    steps = torch.zeros_like(largest)
    for share in torch.linspace(0.4, 1, TRIED_ROUNDINGS):
        step = share * largest / MOST
        changed = ((weights / step).round().clamp(-MOST, MOST) * step - weights) ** 2
        error = changed.sum(dim=1, keepdim=True)
        steps = torch.where(error < best, step, steps)
        best = torch.minimum(error, best)
    return (weights / steps).round().clamp(-MOST, MOST), steps


def layers() -> list[dict]:
    """Return the convolutions of the encoder, with their normalization inside, as tensors.

    Returns:
        A dict for each layer: `whole` (out, in * 9) with whole numbers, `step` (out, 1), `bias`
        (out,), and its `stride`.
    """
    from torch import nn

    from replearn import models

    encoder = models.load(ENCODER).eval()
    found = []
    for block in (encoder.block1, encoder.block2, encoder.block3, encoder.block4):
        convolution, norm, activation = block
        assert isinstance(activation, nn.ReLU) and convolution.bias is None
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        weights = (convolution.weight * scale[:, None, None, None]).flatten(1).detach()
        whole, step = rounded(weights)
        bias = (norm.bias - norm.running_mean * scale).detach()
        found.append(dict(whole=whole, step=step, bias=bias, stride=convolution.stride[0]))
    return found


def gallery() -> dict:
    """Return the pictures among which the neighbors are looked for: the names of their factors, and
    a row of numbers for each picture."""
    from replearn.data import shapes

    factors = shapes.render(GALLERY_SIZE, seed=GALLERY_SEED).factors
    names = ("shape", "hue", "size", "rotation", "x", "y", "background_hue", "texture")
    columns = [[round(value, 2) for value in factors[name].tolist()] for name in names]
    return dict(names=names, rows=list(zip(*columns, strict=True)))


def noise() -> dict:
    """Return what the change "noise" of the audit adds to one picture: `values`, whole numbers as
    characters, and their `step`."""
    import torch

    from replearn import audit
    from replearn.data import shapes

    gray = torch.full((1, 3, shapes.SIDE, shapes.SIDE), 0.5)
    added = (audit.CHANGES["noise"](gray) - gray).flatten()
    step = added.abs().max().item() / MOST
    values = "".join(CHARACTERS[int(whole) + MOST] for whole in (added / step).round().tolist())
    return dict(step=step, values=values)


def script() -> str:
    """Return the script with the encoder's weights, the gallery, the corners of the shapes, and
    what the changes of the audit need."""
    from replearn import augment
    from replearn.data import shapes

    encoder = []
    for layer in layers():
        weights = "".join(CHARACTERS[int(w) + MOST] for w in layer["whole"].flatten().tolist())
        encoder.append(
            dict(
                stride=layer["stride"],
                step=[float(f"{step:.5g}") for step in layer["step"].flatten().tolist()],
                bias=[float(f"{bias:.5g}") for bias in layer["bias"].tolist()],
                weights=weights,
            )
        )
    corners = dict(
        square=shapes._SQUARE,
        triangle=shapes._TRIANGLE,
        star=shapes._STAR,
        heart=shapes._HEART,
        cross=shapes._CROSS,
        arrow=shapes._ARROW,
    )
    data = dict(
        characters=CHARACTERS,
        encoder=encoder,
        gallery=gallery(),
        shapes=shapes.SHAPES,
        textures=shapes.TEXTURES,
        corners=corners,
        luma=augment.LUMA,
        noise=noise(),
    )
    return f"window.liveData = {json.dumps(data, separators=(',', ':'))};\n"


def write(path: Path) -> None:
    """Write the script for the site."""
    from replearn.files import write_atomically

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, script())


# --- the figure ---

SLIDERS = (  # name, label, least, most, step, start
    ("shape", "shape", 0, 9, 1, 3),
    ("hue", "color", 0, 0.99, 0.01, 0.08),
    ("size", "size", 0.45, 0.85, 0.01, 0.65),
    ("rotation", "turn", 0, 6.28, 0.02, 0),
    ("x", "across", -0.35, 0.35, 0.01, 0),
    ("y", "down", -0.35, 0.35, 0.01, 0),
)
SPACES = (
    ("pixels", "The nearest of 200 other pictures, pixel by pixel"),
    ("z", "The nearest of 200 other pictures, by their z"),
)
NEIGHBORS = 5


BACKGROUND_SLIDERS = (
    ("background_hue", "background", 0, 0.99, 0.01, 0.6),
    ("texture", "texture", 0, 3, 1, 1),
)
WORDS = {"shape": "star", "texture": "striped"}  # what a slider shows beside its label, at first
YOUR_CHANGE = "your change"
REDRAWN = ("other background", "other texture")  # the audit redraws factors, too

CAPTION = """\
Drag the object, change its <b>color</b>: in pixels it is another picture. In <i>z</i>, what a
network has learned without labels, it is nearly the same. Then change the <b>shape</b>.
100&nbsp;% is as far as two pictures are apart; a frame below marks the same shape."""
AUDIT_CAPTION = """\
An audit of one picture. Each row changes it in one way, and the bar says how far that moves what
SimCLR has learned: 100&nbsp;% is as far as another picture is away. (Distances are squared, as in
this lesson, whose score is 1 minus this number, over many pictures.) Which changes does the network
ignore? Choose another <b>shape</b>, or <b>turn</b> it: does it ignore the same ones?"""


def figure(static: str) -> str:
    """Return the live picture with its neighbors as HTML, for the first page and lesson 01.

    Args:
        static: The path from the page to the folder `_static`.
    """
    rows = []
    canvas = '<canvas width="32" height="32"></canvas>'
    for name, alt in SPACES:
        rows.append(
            f'<div class="live-space" data-space="{name}">'
            f'<div class="live-moved"><span>moved in {name}</span><output>…</output></div>'
            '<div class="live-bar" aria-hidden="true"><div data-bar></div></div>'
            f'<div class="live-near" role="img" aria-label="{alt}">{canvas * NEIGHBORS}</div></div>'
        )
    beside = f'<div class="live-spaces">{"".join(rows)}</div>'
    return _figure("neighbors", SLIDERS, beside, CAPTION, static)


def audit_figure(static: str) -> str:
    """Return the live picture with the changes of the audit as HTML, for lesson 11.

    Args:
        static: The path from the page to the folder `_static`.
    """
    from replearn import audit

    rows = []
    for name in (YOUR_CHANGE, *audit.CHANGES, *REDRAWN):
        rows.append(
            f'<li data-change="{name}"><canvas width="32" height="32" aria-hidden="true"></canvas>'
            f'<div><div class="live-moved"><span>{name}</span><span data-moved>…</span></div>'
            '<div class="live-bar" aria-hidden="true"><div data-bar></div></div></div></li>'
        )
    beside = f'<ul class="live-changes">{"".join(rows)}</ul>'
    sliders = SLIDERS + BACKGROUND_SLIDERS
    return _figure("audit", sliders, beside, AUDIT_CAPTION, static, more_scripts=("live-audit.js",))


def _figure(
    kind: str,
    sliders: tuple,
    beside: str,
    caption: str,
    static: str,
    *,
    more_scripts: tuple[str, ...] = (),
) -> str:
    """Return the picture, its sliders, what stands beside it, and the scripts."""
    controls = []
    for name, label, least, most, step, start in sliders:
        word = ""
        if name in WORDS:
            word = f': <span data-word="{name}" aria-hidden="true">{WORDS[name]}</span>'
        controls.append(
            f'<label><span>{label}{word}</span><input type="range" name="{name}" min="{least}" '
            f'max="{most}" step="{step}" value="{start}" autocomplete="off"></label>'
        )
    scripts = ""
    for script in ("live-data.js", "live.js", *more_scripts):
        scripts += f'<script defer src="{static}/{script}"></script>\n'
    return f"""\
<figure data-live="{kind}" class="live">
<div class="live-top">
<div class="live-picture">
<canvas data-picture width="32" height="32" role="img"
 aria-label="The picture: drag the object, or use the controls"></canvas>
<canvas data-start width="32" height="32" role="img"
 aria-label="The picture as it was at first"></canvas>
</div>
<fieldset class="live-controls"><legend>Change the picture</legend>{"".join(controls)}</fieldset>
</div>
{beside}
<p class="live-status" role="status"></p>
<figcaption>{caption}</figcaption>
<noscript>The live picture needs JavaScript. All other pages can be read without.</noscript>
</figure>
{scripts.rstrip()}"""
