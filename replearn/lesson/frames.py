"""`Frames`: figures computed in advance, with a slider, in plain HTML."""

import base64
import html
import io
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from replearn.lesson.display import KEEP_KEYS

# What the slider does when it moves. An inline handler, not a <script>: it works in a notebook, in
# Colab's frame, on the site and in a second view of the same output. The first frame stays; another
# one is laid over it, and holds only the pixels that differ.
_ON_INPUT = (
    "var f=this.closest('figure'),"
    "d=f.frames||(f.frames=JSON.parse(f.dataset.frames)),"  # read once, kept at the element
    "i=+this.value,"  # the number of the frame to show
    "p=f.querySelector('img'),q=p.nextElementSibling;"  # the first frame, the one laid over it
    "if(!q){"  # the slider moves for the first time
    "q=p.cloneNode();q.alt='';"
    "q.style.cssText+=';position:absolute;inset:0;width:100%;height:100%';"
    "p.after(q)}"
    "q.hidden=!d.sources[i];"  # null stands for the first frame itself
    "if(!q.hidden)q.src=d.sources[i];"
    "q.style.display=q.hidden?'none':'block';"
    "p.alt=d.alts[i];"
    "f.querySelector('output').textContent=d.labels[i];"
    "this.setAttribute('aria-valuetext',d.labels[i])"  # what a screen reader says
)


class Frames:
    """Figures with a slider in plain HTML: it needs no kernel and no network.

    Arrow keys move the slider; printing and PDF give the frame in view.

    Args:
        images: Matplotlib figures (closed here, so that they are not shown twice), PNG bytes, PIL
            images or uint8 arrays or tensors (H, W), (H, W, 3) or (3, H, W), all of one size.
        labels: One for each frame; None counts from 1.
        title: Stands above the figure.
        alt: One text, which the label completes, or one for each frame; "" takes the title.
        slider: What the slider changes, as in "angle".
        start: The frame that is shown first; None is the middle one.
        width: On the page, in pixels; None is the images' own, or more if they are tiny.
        dpi: Resolution of matplotlib figures, in dots per inch.
        colors: Size of the palette, at most 255; fewer colors make a smaller notebook.

    Attributes:
        labels (list): One text for each frame.
        alts (list): One alternative text for each frame.
        png (list): The frames as PNG bytes; all but the one at `start` are transparent where they
            do not differ from it.
        size (tuple): Width and height of the images, in pixels.

    Raises:
        ValueError: There is no image, the sizes differ, or the labels do not fit.
        TypeError: Something is not an image.
        IndexError: There is no frame `start`.

    Example:
        >>> images = [np.full((32, 32), gray, dtype=np.uint8) for gray in (0, 128, 255)]
        >>> Frames(images, title="Gray", slider="brightness", labels=["0", "0.5", "1"])
        Gray (brightness: 0, 0.5, 1)
    """

    def __init__(
        self,
        images: Iterable[Any],
        *,
        labels: Iterable[Any] | None = None,
        title: str = "",
        alt: str | Sequence[str] = "",
        slider: str = "frame",
        start: int | None = None,
        width: int | None = None,
        dpi: int = 100,
        colors: int = 64,
    ):
        images = [_to_pil(image, dpi) for image in images]
        count = len(images)
        if count == 0:
            raise ValueError("Frames: expected one picture or more, found none")
        sizes = sorted({image.size for image in images})
        if len(sizes) > 1:
            raise ValueError(
                f"Frames: expected pictures of one size, found {sizes}; give all one figsize"
            )
        if labels is None:
            labels = range(1, count + 1)
        self.labels = [str(label) for label in labels]
        if isinstance(alt, str):
            self.alts = [f"{alt or title}: {label}" for label in self.labels]
        else:
            self.alts = list(alt)
        if len(self.labels) != count or len(self.alts) != count:
            raise ValueError(
                f"Frames: expected {count} labels and alt texts, one a picture, "
                f"found {len(self.labels)} and {len(self.alts)}"
            )
        self.start = count // 2 if start is None else range(count)[start]
        self.title = title
        self.slider = slider
        self.size = sizes[0]
        # Tiny images (32 x 32) are enlarged by the page in whole steps, which costs no bytes.
        enlarged = self.size[0] * max(1, 256 // self.size[0])
        self.width = width or enlarged
        self.png = _encode(images, self.start, min(colors, 255))

    @classmethod
    def from_function(
        cls,
        fn: Callable[[Any], Any],
        values: Iterable[Any],
        *,
        labels: Iterable[Any] | None = None,
        **options: Any,
    ) -> "Frames":
        """Return the frames of `fn(value)`, one for each value.

        Args:
            fn: Returns a figure, axes or an image, or draws on pyplot's current figure.
            values: What `fn` is called with, in the order of the slider.
            labels: One for each frame; None shows the values, floats in three digits.
            **options: As in `Frames`.

        Example:
            >>> def image(gray):
            ...     return np.full((8, 8), gray, dtype=np.uint8)
            >>> Frames.from_function(image, [0, 100, 200], slider="gray")
            Frames (gray: 0, 100, 200)
        """
        values = list(values)
        if labels is None:
            labels = [f"{value:.3g}" if isinstance(value, float) else value for value in values]
        images = (_or_current_figure(fn(value)) for value in values)
        return cls(images, labels=labels, **options)

    def __len__(self) -> int:
        return len(self.png)

    def __repr__(self) -> str:
        return f"{self.title or 'Frames'} ({self.slider}: {', '.join(self.labels)})"

    def _repr_html_(self) -> str:
        first = self.start
        # The first frame stands in the <img>, so that it shows where no code runs.
        sources = [None if i == first else _data_uri(png) for i, png in enumerate(self.png)]
        data = json.dumps(dict(sources=sources, labels=self.labels, alts=self.alts))
        label = _safe(self.labels[first])
        caption = ""
        if self.title:
            style = "font-weight:600;margin-bottom:.4em"
            caption = f'<figcaption style="{style}">{_safe(self.title)}</figcaption>'
        pixelated = "image-rendering:pixelated;" if self.width >= 2 * self.size[0] else ""
        image = (
            '<div style="position:relative;display:inline-block;max-width:100%;background:#fff">'
            f'<img src="{_data_uri(self.png[first])}" alt="{_safe(self.alts[first])}" '
            f'width="{self.width}" '
            f'style="display:block;max-width:100%;height:auto;{pixelated}"></div><br>'
        )
        slider = (
            '<label style="display:inline-flex;align-items:center;gap:.6em;margin-top:.4em">'
            f"{_safe(self.slider)} "
            f'<input type="range" min="0" max="{len(self) - 1}" step="1" value="{first}" '
            f'autocomplete="off" aria-valuetext="{label}" oninput="{_safe(_ON_INPUT)}" '
            'style="width:16em;max-width:50vw"></label> '
        )
        output = (
            '<output aria-live="polite" '
            f'style="margin-left:.6em;font-variant-numeric:tabular-nums">{label}</output>'
        )
        return (
            f'<figure data-frames="{_safe(data)}" {KEEP_KEYS} style="margin:.5em 0">'
            f"{caption}{image}{slider}{output}</figure>"
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        # The PNG is for exports that have no HTML (PDF); every page prefers the HTML.
        png = base64.b64encode(self.png[self.start]).decode()
        return {"text/html": self._repr_html_(), "image/png": png, "text/plain": repr(self)}


def _safe(text: Any) -> str:
    return html.escape(str(text))


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _or_current_figure(result: Any) -> Any:
    """Return what a function drew: its result, the figure of its axes, or pyplot's figure."""
    if result is None:
        from matplotlib import pyplot as plt

        return plt.gcf()
    return getattr(result, "figure", result)


def _to_pil(image: Any, dpi: int) -> Any:
    """Return any kind of image as a PIL image in RGB."""
    from PIL import Image

    if hasattr(image, "savefig"):
        from matplotlib import pyplot as plt

        buffer = io.BytesIO()
        image.savefig(buffer, format="png", dpi=dpi, facecolor="white")
        plt.close(image)
        return Image.open(buffer).convert("RGB")
    if isinstance(image, bytes):
        return Image.open(io.BytesIO(image)).convert("RGB")
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    return Image.fromarray(_to_array(image)).convert("RGB")


def _to_array(image: Any) -> np.ndarray:
    """Return an array or a tensor as uint8, (H, W) or (H, W, 3)."""
    array = np.asarray(image.cpu() if hasattr(image, "cpu") else image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise TypeError(
            "Frames: expected figures, PNG bytes, PIL images or uint8 arrays (H,W), (H,W,3) or "
            f"(3,H,W), found {type(image).__name__} with {array.dtype} {array.shape}"
        )
    if array.ndim == 2:
        return array
    channels_first = array.shape[0] in (1, 3) and array.shape[2] not in (1, 3)
    if channels_first:
        array = array.transpose(1, 2, 0)
    if array.shape[2] == 1:
        return array[..., 0]
    return array


def _encode(images: list, start: int, colors: int) -> list[bytes]:
    """Return PNGs on one palette.

    Frame `start` is whole; of each other frame there is what differs from it, and the rest is
    transparent.
    """
    from PIL import Image, ImageFilter

    width, height = images[0].size
    sheet = Image.fromarray(np.concatenate([np.asarray(image) for image in images]))
    # This method keeps colors that are rare.
    sheet = sheet.quantize(colors, method=Image.Quantize.MAXCOVERAGE, dither=0)
    frames = np.asarray(sheet).reshape(len(images), height, width)  # indices into the palette
    transparent = colors  # one color more, after those of the images
    padded_palette = [*sheet.getpalette(), *[255] * 768]
    palette = padded_palette[: 3 * (colors + 1)]

    encoded = []
    for i, frame in enumerate(frames):
        options = {}
        if i != start:
            # Two pixels more on every side: a page that scales the images mixes neighbors, and the
            # edges must not show.
            differs = Image.fromarray(frame != frames[start]).convert("L")
            changed = np.asarray(differs.filter(ImageFilter.MaxFilter(5))) > 0
            frame = np.where(changed, frame, transparent)
            options = {"transparency": transparent}
        image = Image.fromarray(frame.astype(np.uint8))
        image.putpalette(palette)
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", optimize=True, **options)
        encoded.append(buffer.getvalue())
    return encoded
