"""Frames: what the page contains, and what a browser makes of it; `live` outside a kernel."""

import base64
import io
import json
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image

from replearn.lesson import Frames, live
from replearn.lesson.frames import _to_pil


def pictures(count, size=(40, 30)):
    """One plain color a picture."""
    return [Image.new("RGB", size, (10 * i, 200 - 10 * i, 50)) for i in range(count)]


def figure(k, size=(5, 3)):
    """Curves such as the lessons have."""
    fig, ax = plt.subplots(figsize=size)
    x = np.linspace(0, 20, 100)
    for name, rate in dict(pixels=0.1, HOG=0.3, learned=0.05).items():
        ax.plot(x, 1 - np.exp(-rate * x), label=name)
    ax.axvline(k, color="black", linestyle=":")
    ax.legend()
    ax.set(
        title=f"Turned by {k} degrees",
        xlabel="angle (degrees)",
        ylabel="relative distance",
        ylim=(0, 1),
    )
    return fig


class Tags(HTMLParser):
    """All tags of a page with their attributes."""

    def __init__(self, page):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def __getitem__(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def decoded(uri):
    head, data = uri.split(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_has_a_labelled_slider_and_every_frame_once():
    frames = Frames(
        pictures(5), labels=list("abcde"), title="Colors <&>", alt="A color", slider="red", start=1
    )
    page = frames._repr_html_()
    tags = Tags(page)
    (img,), (slider,), (fig,) = tags["img"], tags["input"], tags["figure"]
    data = json.loads(fig["data-frames"])
    assert [source is None for source in data["sources"]] == [False, True, False, False, False]
    assert data["labels"] == list("abcde") and data["alts"][1] == "A color: b" == img["alt"]
    assert (slider["type"], slider["min"], slider["max"], slider["value"]) == (
        "range",
        "0",
        "4",
        "1",
    )
    assert (
        slider["aria-valuetext"] == "b"
        and tags["output"][0]["aria-live"] == "polite"
        and len(tags["label"]) == 1
    )
    assert "Colors <&>" in tags.text and "Colors &lt;&amp;&gt;" in page and "red" in tags.text
    assert (
        "event.stopPropagation()" in fig["onkeydown"]
        and fig["data-lm-suppress-shortcuts"] == "true"
    )
    for i, source in enumerate([data["sources"][0], img["src"], *data["sources"][2:]]):
        picture = decoded(source).convert("RGB")
        assert picture.size == (40, 30) and picture.getpixel((0, 0)) == (10 * i, 200 - 10 * i, 50)


def test_the_page_needs_nothing_from_outside():
    page = Frames(pictures(3))._repr_html_()
    assert (
        not Tags(page)["script"]
        and not Tags(page)["link"]
        and "http" not in page
        and "url(" not in page
    )
    assert "id=" not in page.split("<img")[0], "no ids, so two outputs never collide"


def test_the_middle_frame_comes_first_unless_told_otherwise():
    assert [Frames(pictures(n)).start for n in (1, 2, 3, 20)] == [0, 1, 1, 10]
    assert Frames(pictures(3), start=-1).start == 2
    assert (
        decoded(Tags(Frames(pictures(3))._repr_html_())["img"][0]["src"])
        .convert("RGB")
        .getpixel((0, 0))[0]
        == 10
    )
    with pytest.raises(IndexError):
        Frames(pictures(3), start=3)


def test_there_is_a_text_and_a_picture_for_other_outputs():
    bundle = Frames(
        pictures(3), labels=[1, 2, 3], title="Colors", slider="step"
    )._repr_mimebundle_()
    assert set(bundle) == {"text/html", "image/png", "text/plain"}
    assert bundle["text/plain"] == "Colors (step: 1, 2, 3)"
    assert Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).size == (40, 30)


def test_twenty_plots_take_about_100_kilobytes():
    frames = Frames.from_function(figure, range(20), title="Steps", alt="Two components")
    assert len(frames._repr_html_()) < 100_000
    assert frames.size == (500, 300) and frames.labels[3] == "3"


def test_a_frame_laid_over_the_first_is_the_picture():
    originals = [np.asarray(_to_pil(figure(k), 100), dtype=int) for k in range(4)]
    frames = Frames.from_function(figure, range(4), colors=255)
    base = Image.open(io.BytesIO(frames.png[2])).convert("RGBA")
    for original, png in zip(originals, frames.png, strict=True):
        whole = Image.alpha_composite(base, Image.open(io.BytesIO(png)).convert("RGBA")).convert(
            "RGB"
        )
        assert np.abs(np.asarray(whole, dtype=int) - original).max() <= 6, (
            "255 colors are nearly all of them"
        )
    overlay = np.asarray(Image.open(io.BytesIO(frames.png[0])).convert("RGBA"))[..., 3]
    changed = np.abs(originals[0] - originals[2]).max(-1) > 12
    assert set(np.unique(overlay)) == {0, 255} and overlay.mean() < 60, "most is transparent"
    grown = np.zeros_like(changed)
    for rows in range(-2, 3):
        for columns in range(-2, 3):
            grown |= np.roll(changed, (rows, columns), (0, 1))
    assert (overlay[grown] == 255).all(), "two pixels more on every side"


@pytest.mark.parametrize("kind", ["figure", "bytes", "pil", "gray", "rgb", "chw", "torch"])
def test_all_kinds_of_pictures(kind):
    rng = np.random.default_rng(0)
    array = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8) // 64 * 64
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    made = dict(
        bytes=buffer.getvalue(),
        pil=Image.fromarray(array),
        gray=array[..., 0],
        rgb=array,
        chw=array.transpose(2, 0, 1),
        torch=torch.from_numpy(array).permute(2, 0, 1),
    )
    frames = Frames([figure(0, (2, 1)) if kind == "figure" else made[kind]] * 2)
    assert frames.size == ((200, 100) if kind == "figure" else (16, 12))
    if kind != "figure":
        shown = np.asarray(Image.open(io.BytesIO(frames.png[1])).convert("RGB"))
        expected = np.repeat(array[..., :1], 3, 2) if kind == "gray" else array
        assert np.array_equal(shown, expected)
        assert frames.width == 256 and "image-rendering:pixelated" in frames._repr_html_()


def test_figures_are_closed_so_that_they_are_not_shown_twice():
    plt.close("all")
    Frames([figure(k, (2, 1)) for k in range(3)])
    Frames.from_function(lambda k: figure(k, (2, 1)).axes[0], [0.25, 0.5])
    drawn = Frames.from_function(
        lambda k: (plt.figure(figsize=(2, 1)), plt.plot([0, k]), None)[-1], [0.25, 1 / 3]
    )
    assert drawn.labels == ["0.25", "0.333"] and plt.get_fignums() == []


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="expected one picture or more, found none"):
        Frames([])
    with pytest.raises(
        ValueError, match=r"expected pictures of one size, found \[\(10, 10\), \(40, 30\)\]"
    ):
        Frames([*pictures(1), *pictures(1, (10, 10))])
    with pytest.raises(
        ValueError, match="expected 3 labels and alt texts, one a picture, found 2 and 2"
    ):
        Frames(pictures(3), labels=["a", "b"])
    with pytest.raises(ValueError, match="found 3 and 1"):
        Frames(pictures(3), alt=["a"])
    with pytest.raises(TypeError, match=r"uint8 arrays .*found ndarray with float64 \(4, 4\)"):
        Frames([np.zeros((4, 4))])
    with pytest.raises(TypeError, match="found str"):
        Frames(["picture.png"])


# --- live outside a kernel --------------------------------------------------------------------------------------------


def test_live_draws_once_with_the_defaults():
    seen = []
    live(
        lambda **values: seen.append(values),
        a=(0, 10),
        b=(0.0, 1.0, 0.25),
        c=["x", "y"],
        d=True,
        e="red",
        f=dict(min=1, max=9, value=3),
        g=dict(options=[1, 2]),
        h=(1, 6),
    )
    assert seen == [dict(a=5, b=0.5, c="x", d=True, e="red", f=3, g=1, h=3)]
    with pytest.raises(ValueError, match=r"live: a: expected \(min, max, step\), a list"):
        live(print, a=(3, 1))


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(chromium):
    return chromium()


@pytest.fixture
def page(browser, tmp_path):
    """Two Frames on one page that eats arrow keys, as JupyterLab does, opened from disk."""
    first = Frames(pictures(5), labels=list("abcde"), alt="A color", slider="red", title="First")
    second = Frames(
        pictures(3, (20, 20)), labels=["x", "$y$", "<z>"], slider="step", title="Second"
    )
    eater = "<script>document.body.addEventListener('keydown', event => event.preventDefault())</script>"
    path = tmp_path / "page.html"
    path.write_text(
        f"<!doctype html><meta charset='utf-8'><title>t</title><body>{first._repr_html_()}"
        f"{second._repr_html_()}{eater}</body>",
        "utf-8",
    )
    browser.get_log("browser")
    browser.get(path.as_uri())
    return browser


def state(browser, which):
    """Red of the picture in view (from a screenshot), alt texts, label and spoken value of one Frames."""
    fig = browser.find_elements("css selector", "figure")[which]
    shot = Image.open(
        io.BytesIO(fig.find_element("css selector", "div").screenshot_as_png)
    ).convert("RGB")
    return [
        shot.getpixel((20, 20))[0],
        *browser.execute_script(
            "const f = arguments[0];"
            "return [[...f.querySelectorAll('img')].map(i => i.alt).join(''), f.querySelector('output').textContent,"
            " f.querySelector('input').getAttribute('aria-valuetext')]",
            fig,
        ),
    ]


def test_browser_arrow_keys_move_the_frame(page):
    from selenium.webdriver.common.keys import Keys

    first, second = page.find_elements("css selector", "input[type=range]")
    seen = [state(page, 0)]
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.HOME, Keys.ARROW_UP, Keys.ARROW_RIGHT):
        first.send_keys(key)
        seen.append(state(page, 0))
    assert seen == [[10 * "abcde".index(name), f"A color: {name}", name, name] for name in "cdeabc"]
    assert state(page, 1)[2] == "$y$", "the other one stays"
    second.send_keys(Keys.END)
    assert state(page, 1) == [20, "Second: <z>", "<z>", "<z>"] and state(page, 0)[2] == "c"
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_browser_fits_a_phone_and_reads_in_the_dark(page):
    page.set_window_size(360, 700)
    fits = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert page.execute_script(fits)
    colors = """document.body.style.background = '#111'; document.body.style.color = '#eee';
                const f = document.querySelector('figure');
                return [f.querySelector('output'), f.querySelector('label'), f.querySelector('figcaption')]
                    .map(e => getComputedStyle(e).color)"""
    assert set(page.execute_script(colors)) == {"rgb(238, 238, 238)"}
