"""`Frames`: precomputed pictures with a slider, in plain HTML."""

import base64
import html
import io
import json

import numpy as np

from replearn.lesson.display import KEEP_KEYS

# An inline handler, not a <script>: it works in a notebook, in Colab's frame, on the site and in a second view.
# The first frame stays; another one is laid over it and holds only the pixels that differ.
_MOVE = (
    "var f=this.closest('figure'),d=f.frames||(f.frames=JSON.parse(f.dataset.frames)),i=+this.value,"
    "p=f.querySelector('img'),q=p.nextElementSibling;"
    "if(!q){q=p.cloneNode();q.alt='';q.style.cssText+=';position:absolute;inset:0;width:100%;height:100%';p.after(q)}"
    "q.hidden=!d.sources[i];if(!q.hidden)q.src=d.sources[i];q.style.display=q.hidden?'none':'block';"
    "p.alt=d.alts[i];f.querySelector('output').textContent=d.labels[i];this.setAttribute('aria-valuetext',d.labels[i])"
)


class Frames:
    """Pictures with a slider in plain HTML: no kernel, no network; arrow keys work; printing gives the frame in view.

    pictures: matplotlib figures (closed here, so they are not shown twice), PNG bytes, PIL images or uint8 arrays
    (H,W), (H,W,3) or (3,H,W), all of one size. labels: one a frame. slider: what the slider changes ("angle").
    alt: one text, completed by the label, or one a frame. start: the frame shown first (default: the middle one).
    width: on the page, in pixels. colors: palette size; fewer make a smaller notebook. Raises ValueError, TypeError.
    """

    def __init__(
        self,
        pictures,
        *,
        labels=None,
        title="",
        alt="",
        slider="frame",
        start=None,
        width=None,
        dpi=100,
        colors=64,
    ):
        pictures = [_to_pil(picture, dpi) for picture in pictures]
        count = len(pictures)
        if count == 0:
            raise ValueError("Frames: expected one picture or more, found none")
        sizes = sorted({picture.size for picture in pictures})
        if len(sizes) > 1:
            raise ValueError(
                f"Frames: expected pictures of one size, found {sizes}; give all one figsize"
            )
        self.labels = [str(label) for label in (range(1, count + 1) if labels is None else labels)]
        self.alts = (
            [f"{alt or title}: {label}" for label in self.labels]
            if isinstance(alt, str)
            else list(alt)
        )
        if len(self.labels) != count or len(self.alts) != count:
            raise ValueError(
                f"Frames: expected {count} labels and alt texts, one a picture, "
                f"found {len(self.labels)} and {len(self.alts)}"
            )
        self.start = count // 2 if start is None else range(count)[start]
        self.title, self.slider, self.size = title, slider, sizes[0]
        # Tiny pictures (32 x 32) are enlarged by the page in whole steps, which costs no bytes.
        self.width = width or self.size[0] * max(1, 256 // self.size[0])
        self.png = _encode(pictures, self.start, min(colors, 255))

    @classmethod
    def from_function(cls, fn, values, *, labels=None, **options):
        """Frames of `fn(value)` for each value; `fn` returns a figure, axes or picture, or draws on pyplot's figure."""
        values = list(values)
        if labels is None:
            labels = [f"{value:.3g}" if isinstance(value, float) else value for value in values]
        return cls((_or_current_figure(fn(value)) for value in values), labels=labels, **options)

    def __len__(self):
        return len(self.png)

    def __repr__(self):
        return f"{self.title or 'Frames'} ({self.slider}: {', '.join(self.labels)})"

    def _repr_html_(self):
        first = self.start
        # The first frame stands in the <img>, so that it shows where scripts do not run.
        sources = [None if i == first else _data_uri(png) for i, png in enumerate(self.png)]
        data = json.dumps(dict(sources=sources, labels=self.labels, alts=self.alts))
        safe = {
            name: html.escape(str(text))
            for name, text in dict(
                data=data,
                title=self.title,
                slider=self.slider,
                label=self.labels[first],
                alt=self.alts[first],
            ).items()
        }
        caption = (
            f'<figcaption style="font-weight:600;margin-bottom:.4em">{safe["title"]}</figcaption>'
        )
        pixelated = "image-rendering:pixelated;" if self.width >= 2 * self.size[0] else ""
        return (
            f'<figure data-frames="{safe["data"]}" {KEEP_KEYS} style="margin:.5em 0">{caption if self.title else ""}'
            '<div style="position:relative;display:inline-block;max-width:100%;background:#fff">'
            f'<img src="{_data_uri(self.png[first])}" alt="{safe["alt"]}" width="{self.width}" '
            f'style="display:block;max-width:100%;height:auto;{pixelated}"></div><br>'
            f'<label style="display:inline-flex;align-items:center;gap:.6em;margin-top:.4em">{safe["slider"]} '
            f'<input type="range" min="0" max="{len(self) - 1}" step="1" value="{first}" autocomplete="off" '
            f'aria-valuetext="{safe["label"]}" oninput="{html.escape(_MOVE)}" '
            f'style="width:16em;max-width:50vw"></label> <output aria-live="polite" '
            f'style="margin-left:.6em;font-variant-numeric:tabular-nums">{safe["label"]}</output>'
            "</figure>"
        )

    def _repr_mimebundle_(self, include=None, exclude=None):
        # The PNG is for exports that have no HTML (PDF); every page prefers the HTML.
        png = base64.b64encode(self.png[self.start]).decode()
        return {"text/html": self._repr_html_(), "image/png": png, "text/plain": repr(self)}


def _or_current_figure(result):
    if result is None:
        from matplotlib import pyplot as plt

        return plt.gcf()
    return getattr(result, "figure", result)


def _to_pil(picture, dpi):
    from PIL import Image

    if hasattr(picture, "savefig"):
        from matplotlib import pyplot as plt

        buffer = io.BytesIO()
        picture.savefig(buffer, format="png", dpi=dpi, facecolor="white")
        plt.close(picture)
        return Image.open(buffer).convert("RGB")
    if isinstance(picture, bytes):
        return Image.open(io.BytesIO(picture)).convert("RGB")
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    array = np.asarray(picture.cpu() if hasattr(picture, "cpu") else picture)
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise TypeError(
            "Frames: expected figures, PNG bytes, PIL images or uint8 arrays (H,W), (H,W,3) or (3,H,W), "
            f"found {type(picture).__name__} with {array.dtype} {array.shape}"
        )
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = array.transpose(1, 2, 0)
    return Image.fromarray(
        array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    ).convert("RGB")


def _encode(pictures, start, colors):
    """PNGs on one palette: frame `start` whole, of each other frame what differs from it, the rest transparent."""
    from PIL import Image, ImageFilter

    sheet = Image.fromarray(np.concatenate([np.asarray(picture) for picture in pictures]))
    sheet = sheet.quantize(
        colors, method=Image.Quantize.MAXCOVERAGE, dither=0
    )  # keeps colors that are rare
    frames = np.asarray(sheet).reshape(
        len(pictures), *pictures[0].size[::-1]
    )  # (frames, H, W) palette indices
    encoded, palette = [], [*sheet.getpalette(), *[255] * 768][: 3 * colors + 3]
    for i, frame in enumerate(frames):
        # Two pixels more on every side: a page that scales the pictures mixes neighbors, and the edges must not show.
        changed = (
            Image.fromarray(frame != frames[start]).convert("L").filter(ImageFilter.MaxFilter(5))
        )
        picture = Image.fromarray(
            np.where((np.asarray(changed) > 0) | (i == start), frame, colors).astype(np.uint8)
        )
        picture.putpalette(palette)
        buffer = io.BytesIO()
        picture.save(
            buffer, format="PNG", optimize=True, **({} if i == start else {"transparency": colors})
        )
        encoded.append(buffer.getvalue())
    return encoded


def _data_uri(png):
    return "data:image/png;base64," + base64.b64encode(png).decode()
