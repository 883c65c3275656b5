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


def plain_images(count, size=(40, 30)):
    """Images of one color each: red 0, 10, 20, ..."""
    return [Image.new("RGB", size, (10 * i, 200 - 10 * i, 50)) for i in range(count)]


def plot(k, size=(5, 3)):
    """A figure with curves such as the lessons have."""
    figure, ax = plt.subplots(figsize=size)
    x = np.linspace(0, 20, 100)
    for name, rate in dict(pixels=0.1, HOG=0.3, learned=0.05).items():
        ax.plot(x, 1 - np.exp(-rate * x), label=name)
    ax.axvline(k, color="black", linestyle=":")
    ax.legend()
    ax.set_title(f"Turned by {k} degrees")
    ax.set_xlabel("angle (degrees)")
    ax.set_ylabel("relative distance")
    ax.set_ylim(0, 1)
    return figure


class Tags(HTMLParser):
    """All tags of a page with their attributes: tags["img"] is a list of dicts."""

    def __init__(self, page):
        super().__init__()
        self.tags = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def __getitem__(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def decoded(uri):
    """The image in a data URI."""
    head, data = uri.split(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def opened(png, mode):
    return Image.open(io.BytesIO(png)).convert(mode)


# --- the page ---


@pytest.fixture
def five_colors():
    return Frames(
        plain_images(5),
        labels=list("abcde"),
        title="Colors <&>",
        alt="A color",
        slider="red",
        start=1,
    )


def test_the_page_has_every_frame_once(five_colors):
    tags = Tags(five_colors._repr_html_())
    (figure,) = tags["figure"]
    (img,) = tags["img"]
    data = json.loads(figure["data-frames"])
    sources = data["sources"]
    assert [source is None for source in sources] == [False, True, False, False, False]
    assert data["labels"] == list("abcde")
    assert data["alts"][1] == img["alt"] == "A color: b"
    sources[1] = img["src"]
    for i, source in enumerate(sources):
        image = decoded(source).convert("RGB")
        assert image.size == (40, 30)
        assert image.getpixel((0, 0)) == (10 * i, 200 - 10 * i, 50)


def test_the_page_has_a_labelled_slider(five_colors):
    tags = Tags(five_colors._repr_html_())
    (slider,) = tags["input"]
    assert slider["type"] == "range"
    assert (slider["min"], slider["max"], slider["value"]) == ("0", "4", "1")
    assert slider["aria-valuetext"] == "b"
    assert tags["output"][0]["aria-live"] == "polite"
    assert len(tags["label"]) == 1
    assert "red" in tags.text


def test_the_page_shows_texts_as_texts(five_colors):
    page = five_colors._repr_html_()
    assert "Colors &lt;&amp;&gt;" in page
    assert "Colors <&>" in Tags(page).text


def test_the_page_keeps_its_keys(five_colors):
    (figure,) = Tags(five_colors._repr_html_())["figure"]
    assert "event.stopPropagation()" in figure["onkeydown"]
    assert figure["data-lm-suppress-shortcuts"] == "true"


def test_the_page_needs_nothing_from_outside():
    page = Frames(plain_images(3))._repr_html_()
    assert not Tags(page)["script"]
    assert not Tags(page)["link"]
    assert "http" not in page
    assert "url(" not in page
    assert "id=" not in page.split("<img")[0], "no ids, so two outputs never collide"


@pytest.mark.parametrize("count, middle", [(1, 0), (2, 1), (3, 1), (20, 10)])
def test_the_middle_frame_comes_first_unless_told_otherwise(count, middle):
    frames = Frames(plain_images(count))
    assert frames.start == middle
    (img,) = Tags(frames._repr_html_())["img"]
    red, _, _ = decoded(img["src"]).convert("RGB").getpixel((0, 0))
    assert red == 10 * middle


def test_another_frame_may_come_first():
    assert Frames(plain_images(3), start=-1).start == 2
    with pytest.raises(IndexError):
        Frames(plain_images(3), start=3)


def test_there_is_a_text_and_an_image_for_other_outputs():
    frames = Frames(plain_images(3), labels=[1, 2, 3], title="Colors", slider="step")
    bundle = frames._repr_mimebundle_()
    assert set(bundle) == {"text/html", "image/png", "text/plain"}
    assert bundle["text/plain"] == "Colors (step: 1, 2, 3)"
    png = base64.b64decode(bundle["image/png"])
    assert Image.open(io.BytesIO(png)).size == (40, 30)


def test_twenty_plots_take_about_100_kilobytes():
    frames = Frames.from_function(plot, range(20), title="Steps", alt="Two components")
    assert len(frames._repr_html_()) < 100_000
    assert frames.size == (500, 300)
    assert frames.labels[3] == "3"


# --- the frames ---


@pytest.fixture(scope="module")
def four_plots():
    """Four figures as arrays, and the PNGs of their Frames, of which number 2 is whole."""
    originals = [np.asarray(_to_pil(plot(k), 100), dtype=int) for k in range(4)]
    frames = Frames.from_function(plot, range(4), colors=255)
    assert frames.start == 2
    return originals, frames.png


def test_a_frame_laid_over_the_first_is_the_figure(four_plots):
    originals, pngs = four_plots
    base = opened(pngs[2], "RGBA")
    for original, png in zip(originals, pngs, strict=True):
        whole = Image.alpha_composite(base, opened(png, "RGBA")).convert("RGB")
        error = np.abs(np.asarray(whole, dtype=int) - original).max()
        assert error <= 6, "255 colors are nearly all of them"


def test_a_frame_holds_what_differs_and_two_pixels_around_it(four_plots):
    originals, pngs = four_plots
    alpha = np.asarray(opened(pngs[0], "RGBA"))[..., 3]
    assert set(np.unique(alpha)) == {0, 255}
    assert alpha.mean() < 60, "most is transparent"
    changed = np.abs(originals[0] - originals[2]).max(-1) > 12
    grown = np.zeros_like(changed)
    for rows in range(-2, 3):
        for columns in range(-2, 3):
            grown |= np.roll(changed, (rows, columns), (0, 1))
    assert (alpha[grown] == 255).all()


def coarse_array():
    """A random image (12, 16, 3) of few colors, so that the palette holds them all."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (12, 16, 3), dtype=np.uint8) // 64 * 64


def png_bytes(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


KINDS = {
    "bytes": png_bytes,
    "pil": Image.fromarray,
    "gray": lambda array: array[..., 0],
    "rgb": lambda array: array,
    "chw": lambda array: array.transpose(2, 0, 1),
    "torch": lambda array: torch.from_numpy(array).permute(2, 0, 1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_of_images(kind):
    array = coarse_array()
    frames = Frames([KINDS[kind](array)] * 2)
    assert frames.size == (16, 12)
    expected = np.repeat(array[..., :1], 3, 2) if kind == "gray" else array
    assert np.array_equal(np.asarray(opened(frames.png[1], "RGB")), expected)


def test_figures_are_images_too():
    assert Frames([plot(0, (2, 1))] * 2).size == (200, 100)


def test_tiny_images_are_enlarged_without_blur():
    frames = Frames([coarse_array()])
    assert frames.width == 256
    assert "image-rendering:pixelated" in frames._repr_html_()


def test_figures_are_closed_so_that_they_are_not_shown_twice():
    def axes(k):
        return plot(k, (2, 1)).axes[0]

    def on_the_current_figure(k):
        plt.figure(figsize=(2, 1))
        plt.plot([0, k])

    plt.close("all")
    Frames([plot(k, (2, 1)) for k in range(3)])
    Frames.from_function(axes, [0.25, 0.5])
    drawn = Frames.from_function(on_the_current_figure, [0.25, 1 / 3])
    assert drawn.labels == ["0.25", "0.333"]
    assert plt.get_fignums() == []


def test_bad_labels_are_named():
    sentence = "expected 3 labels and alt texts, one a picture, found 2 and 2"
    with pytest.raises(ValueError, match=sentence):
        Frames(plain_images(3), labels=["a", "b"])
    with pytest.raises(ValueError, match="one a picture, found 3 and 1"):
        Frames(plain_images(3), alt=["a"])


def test_bad_images_are_named():
    with pytest.raises(ValueError, match="expected one picture or more, found none"):
        Frames([])
    sizes = r"expected pictures of one size, found \[\(10, 10\), \(40, 30\)\]"
    with pytest.raises(ValueError, match=sizes):
        Frames([*plain_images(1), *plain_images(1, (10, 10))])
    with pytest.raises(TypeError, match=r"uint8 arrays .*found ndarray with float64 \(4, 4\)"):
        Frames([np.zeros((4, 4))])
    with pytest.raises(TypeError, match="found str"):
        Frames(["picture.png"])


# --- live outside a kernel ---


def test_live_draws_once_with_the_defaults():
    seen = []

    def draw(**values):
        seen.append(values)

    live(
        draw,
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


def test_live_names_a_bad_control():
    with pytest.raises(ValueError, match=r"live: a: expected \(min, max, step\), a list"):
        live(print, a=(3, 1))


# --- in a browser ---

EATS_ARROW_KEYS = """<script>
document.body.addEventListener('keydown', event => event.preventDefault())
</script>"""
STATE = """
const figure = arguments[0];
const alts = [...figure.querySelectorAll('img')].map(image => image.alt);
return [alts.join(''),
        figure.querySelector('output').textContent,
        figure.querySelector('input').getAttribute('aria-valuetext')];
"""
FITS = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
COLORS_IN_THE_DARK = """
document.body.style.background = '#111';
document.body.style.color = '#eee';
const figure = document.querySelector('figure');
return ['output', 'label', 'figcaption'].map(
    name => getComputedStyle(figure.querySelector(name)).color);
"""


@pytest.fixture(scope="module")
def browser(chromium):
    return chromium()


@pytest.fixture
def page(browser, tmp_path):
    """Two Frames on one page that eats arrow keys, as JupyterLab does, opened from disk."""
    first = Frames(
        plain_images(5), labels=list("abcde"), alt="A color", slider="red", title="First"
    )
    second = Frames(
        plain_images(3, (20, 20)), labels=["x", "$y$", "<z>"], slider="step", title="Second"
    )
    path = tmp_path / "page.html"
    path.write_text(
        f"<!doctype html><meta charset='utf-8'><title>t</title><body>{first._repr_html_()}"
        f"{second._repr_html_()}{EATS_ARROW_KEYS}</body>",
        "utf-8",
    )
    browser.get_log("browser")  # what it said before does not count
    browser.get(path.as_uri())
    return browser


def state(browser, which):
    """Red of the image in view (from a screenshot), alt texts, label and spoken value."""
    figure = browser.find_elements("css selector", "figure")[which]
    screenshot = figure.find_element("css selector", "div").screenshot_as_png
    red, _, _ = opened(screenshot, "RGB").getpixel((20, 20))
    return [red, *browser.execute_script(STATE, figure)]


def test_browser_arrow_keys_move_the_frame(page):
    from selenium.webdriver.common.keys import Keys

    slider = page.find_element("css selector", "input[type=range]")
    seen = [state(page, 0)]
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.HOME, Keys.ARROW_UP, Keys.ARROW_RIGHT):
        slider.send_keys(key)
        seen.append(state(page, 0))
    expected = []
    for name in "cdeabc":
        expected.append([10 * "abcde".index(name), f"A color: {name}", name, name])
    assert seen == expected
    assert state(page, 1)[2] == "$y$", "the other one stays"
    assert severe(page) == []


def test_browser_two_frames_do_not_disturb_each_other(page):
    from selenium.webdriver.common.keys import Keys

    _, slider = page.find_elements("css selector", "input[type=range]")
    slider.send_keys(Keys.END)
    assert state(page, 1) == [20, "Second: <z>", "<z>", "<z>"]
    assert state(page, 0)[2] == "c"
    assert severe(page) == []


def severe(browser):
    """Errors in the browser's log."""
    return [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_browser_fits_a_phone_and_reads_in_the_dark(page):
    page.set_window_size(360, 700)
    assert page.execute_script(FITS)
    assert set(page.execute_script(COLORS_IN_THE_DARK)) == {"rgb(238, 238, 238)"}
