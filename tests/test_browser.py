"""In a real browser with the network off: every page of the site, and notebook 01 in JupyterLab.

Chromium is driven by selenium; without it the tests are skipped. The accessibility rules are those
of axe-core, fetched once with npm; without npm their test is skipped.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from test_site import LISTED, ROOT, built, course, live, pages, served

from tools import npm, project

PATIENCE = 120  # seconds for what takes one or two on a quiet machine
PHONE = dict(width=390, height=844, deviceScaleFactor=1, mobile=True)
# Rules of axe that the theme breaks and we cannot mend: {rule: (selector of the elements, reason)}.
EXCEPTIONS = {}
SLIDERS = "figure[data-frames] input[type=range]"


@pytest.fixture(scope="module")
def site():
    """The published build, shared with test_site.py in one run."""
    return built("jupyter-book")[0]


@pytest.fixture(scope="module")
def browser(chromium):
    chrome = chromium(
        "window-size=1280,800", "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    )
    chrome.command_executor._client_config.timeout = 5 * PATIENCE
    chrome.set_page_load_timeout(PATIENCE)
    chrome.set_script_timeout(4 * PATIENCE)
    return chrome


def until(condition, what, seconds=PATIENCE):
    """The first true value of `condition()`; an element that was just replaced is not there yet."""
    from selenium.common.exceptions import WebDriverException

    deadline, value = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        try:
            value = condition()
        except WebDriverException as error:
            value = None if error else value
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"after {seconds} s not yet: {what}")


READY = """if (document.readyState != 'complete') return false;
if (!document.querySelector('.math') || !window.MathJax) return true;
if (!MathJax.startup || !MathJax.startup.promise) return false;
if (!window.typeset) {
  window.typeset = 1;
  MathJax.startup.promise.then(() => { window.typeset = 2; });
}
return window.typeset == 2 && [...document.images].every(image => image.complete);"""


def errors(browser, address):
    """Open a page; return what its console complains about once math is typeset."""
    browser.get_log("browser")
    browser.get(address)
    until(lambda: browser.execute_script(READY), f"{address} is ready")
    return [
        entry["message"]
        for entry in browser.get_log("browser")
        if entry["level"] in ("SEVERE", "WARNING")
    ]


# --- every page, once ---


def axe_script():
    """The text of axe-core, or None where it cannot be had."""
    try:
        folder = npm.fetch(npm.AXE, ROOT / "build" / npm.AXE.name)
    except npm.NotFetched:
        return None
    return (folder / "axe.min.js").read_text("utf-8")


# All rules that axe runs unless told otherwise: WCAG 2.x A and AA, and its best practices.
# The inside of a typeset formula is MathJax's, and thousands of elements: left out.
RUN_AXE = """const [options, done] = arguments;
const wanted = {resultTypes: ['violations'], preload: false, iframes: false, ...options};
const node = n => [n.target.join(' '), n.html.slice(0, 200)];
axe.run({exclude: ['mjx-container']}, wanted)
   .then(found => done(found.violations.map(v => [v.id, v.nodes.map(node)])),
         error => done([[String(error), []]]))"""


def violations(browser, **options):
    """[rule, [[selector, element], …]] for each rule that a page breaks, exceptions aside."""
    found = []
    for rule, nodes in browser.execute_async_script(RUN_AXE, options):
        allowed = EXCEPTIONS.get(rule, (None, ""))[0]
        nodes = [node for node in nodes if not (allowed and re.search(allowed, node[0]))]
        found += [[rule, nodes]] if nodes or rule not in EXCEPTIONS else []
    return found


def theme(browser, mode):
    """Light or dark, at once: a color on its way to another is no color to judge."""
    browser.execute_script(
        """document.documentElement.dataset.theme = arguments[0];
        document.head.insertAdjacentHTML(
            'beforeend', '<style>* { transition: none !important }</style>')""",
        mode,
    )


VIEW = """const f = arguments[0].closest('figure');
const images = [...f.querySelectorAll('img')].filter(i => i.offsetParent);
return [images.map(i => i.src.length + i.src.slice(-80)).join(' '),
        f.querySelector('output').textContent, f.querySelector('img').alt]"""


def moved(browser, slider):
    """What one slider shows: at first, after a click at its other end, after an arrow key there."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser.execute_script(
        "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", slider
    )
    seen = [browser.execute_script(VIEW, slider)]
    right = slider.get_property("value") == slider.get_attribute("min")
    end = (slider.size["width"] // 2 - 4) * (1 if right else -1)
    ActionChains(browser, duration=0).move_to_element_with_offset(slider, end, 0).click().perform()
    seen.append(browser.execute_script(VIEW, slider))
    slider.send_keys(Keys.ARROW_LEFT if right else Keys.ARROW_RIGHT)
    seen.append(browser.execute_script(VIEW, slider))
    return seen


TEXT = """const page = (document.querySelector('article') || document.body).cloneNode(true);
page.querySelectorAll('pre, code, script').forEach(e => e.remove());
return page.textContent;"""


@pytest.fixture(scope="module")
def visits(site, browser):
    """What was found on each page, opened once from file://."""
    if sys.version_info < (3, 11):
        pytest.skip(
            "the last theme for Python 3.10 preloads its icons in a way that browsers refuse on file://"
        )
    if not course.has_mathjax():
        pytest.skip("MathJax has no local copy here: it is fetched with npm")
    axe, found = axe_script(), {}
    for page in pages(site):
        name = page.relative_to(site).as_posix()
        if name == "index.html":  # leads on to site/index.html
            assert "site/index.html" in page.read_text("utf-8")
            continue
        visit = found[name] = SimpleNamespace(console=errors(browser, page.as_uri()))
        visit.text = browser.execute_script(TEXT)
        visit.broken = browser.execute_script(
            "return [...document.images].filter(i => !i.width).map(i => i.src)"
        )
        visit.icons = browser.execute_script(
            "return document.querySelectorAll('.theme-switch-button svg path').length"
        )
        theme(browser, "light")
        if axe:
            browser.execute_script(axe)
            visit.light = violations(browser)
            theme(browser, "dark")
            visit.dark = violations(browser, runOnly=["color-contrast"])
            theme(browser, "light")
        visit.sliders = [
            moved(browser, slider) for slider in browser.find_elements("css selector", SLIDERS)
        ]
    return found


def test_no_page_complains_with_the_network_off(visits):
    assert len(visits) > 15 and not {
        name: visit.console for name, visit in visits.items() if visit.console
    }
    assert not {name: visit.broken for name, visit in visits.items() if visit.broken}


def test_no_formula_is_left_raw(visits):
    raw = {
        name: re.findall(r"\\[(\[]|\$\$|\\frac|\{\w+\}`|\]\(", visit.text)
        for name, visit in visits.items()
    }
    assert not {name: found for name, found in raw.items() if found}


def test_icons_are_drawn(visits):
    assert {visit.icons for visit in visits.values()} == {3}


def test_every_slider_moves_by_mouse_and_by_keyboard(visits):
    lessons = {
        name: visit.sliders for name, visit in visits.items() if name.startswith("notebooks/")
    }
    stored = {
        f"notebooks/{project.place(path.stem)}.html": path.read_text("utf-8").count(
            "<figure data-frames="
        )
        for path in (ROOT / "notebooks").rglob("*.ipynb")
    }
    assert {name: len(sliders) for name, sliders in lessons.items()} == {
        name: stored[name] for name in lessons
    }
    assert lessons and all(lessons.values()), "each lesson has a figure to move"
    for name, sliders in lessons.items():
        for number, (first, clicked, keyed) in enumerate(sliders):
            for part, what in enumerate(("picture", "label", "alt text")):
                assert first[part] != clicked[part], (name, number, "mouse", what)
                assert clicked[part] != keyed[part], (name, number, "keyboard", what)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_axe_finds_nothing(visits, mode):
    if not axe_script():
        pytest.skip("axe-core has no local copy here: it is fetched with npm")
    found = {name: getattr(visit, mode) for name, visit in visits.items()}
    assert not {name: problems for name, problems in found.items() if problems}


def test_what_looks_for_faults_finds_them(tmp_path, browser):
    page = tmp_path / "planted.html"
    page.write_text(
        """<!doctype html><title>t</title><main><h1>a</h1><h4>b</h4><img src="x.gif">
        <p style="color:#bbb;background:#fff">pale</p><input type="range"></main>
        <script>nothing.here()</script><script src="missing.js"></script><img alt="x" src="https://example.org/x.png">
        <figure data-frames="{}"><img alt="a" src="data:,"><output>1</output>
        <input type="range"></figure>""",
        "utf-8",
    )
    console = errors(browser, page.as_uri())
    assert len(console) >= 3 and any("example.org" in line for line in console)
    still = moved(browser, browser.find_element("css selector", SLIDERS))
    assert still[0] == still[1] == still[2], "a slider without a script moves nothing"
    if script := axe_script():
        browser.execute_script(script)
        rules = {rule for rule, _ in violations(browser)}
        assert {"color-contrast", "heading-order", "image-alt", "label"} <= rules


def test_plain_sphinx_opens_too(browser):
    site = built("sphinx")[0]
    assert not errors(browser, sorted((site / "notebooks").glob("*.html"))[0].as_uri())
    assert all(
        first != clicked != keyed
        for first, clicked, keyed in (
            moved(browser, slider) for slider in browser.find_elements("css selector", SLIDERS)
        )
    )


# --- size, search, paper ---


@contextmanager
def phone(browser):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_no_page_scrolls_sideways_on_a_phone(site, browser):
    with phone(browser):
        for page in pages(site):
            errors(browser, page.as_uri())
            wide, seen = browser.execute_script(
                "return [document.documentElement.scrollWidth, window.innerWidth]"
            )
            assert wide <= seen == PHONE["width"], f"{page.name} is {wide} pixels wide"


FIGURES = """return [...document.querySelectorAll('.cell_output .output > img')].map(image => [
    image.classList.contains('drawing'), image.getBoundingClientRect().width / image.naturalWidth,
    getComputedStyle(image).filter, image.parentElement.scrollWidth,
    image.parentElement.tabIndex])"""


def test_figures_on_a_phone_at_night(site, browser):
    """Not smaller than their words can be read; what scrolls is reached by the keyboard; lines and
    bars are light on dark, and pictures are no negatives."""
    with phone(browser):
        errors(browser, sorted((site / "notebooks").glob("*.html"))[0].as_uri())
        theme(browser, "dark")
        shown = browser.execute_script(FIGURES)
    theme(browser, "light")
    assert len(shown) > 8 and {is_drawing for is_drawing, *_ in shown} == {True, False}
    for is_drawing, scale, style, width, tab in shown:
        assert scale > 0.7 and ("invert" in style) == is_drawing
        assert (tab == 0) == (width > PHONE["width"])


def test_first_page_has_the_picture_and_the_button_on_one_screen(site, browser):
    address = (site / "site" / "index.html").as_uri()
    errors(browser, address)
    bottom = "return document.querySelector('article .start a').getBoundingClientRect().bottom"
    assert browser.execute_script(bottom) < browser.execute_script("return window.innerHeight")
    with phone(browser):
        errors(browser, address)
        assert browser.execute_script(bottom) < PHONE["height"]
        assert browser.find_element("css selector", "figure.live").rect["y"] < PHONE["height"] / 3


# --- the live picture ---

DRAWN_AND_ENCODED = """const [factors, random] = arguments;
const image = replearnLive.draw(factors, random);
return [Array.from(image), Array.from(replearnLive.encode(image))];"""
RANDOM = "frequency angle phase saturation value backgroundSaturation backgroundValue".split()


@pytest.fixture
def opened(site, browser):
    """The first page, from the disk, once its gallery is measured."""
    assert not errors(browser, (site / "site" / "index.html").as_uri())
    ready = "return document.querySelector('figure.live').dataset.ready"
    until(lambda: browser.execute_script(ready), "the gallery of the live picture")
    return browser


def test_the_live_picture_computes_what_the_package_computes(opened, monkeypatch):
    """The same drawing to one step of brightness, and the same z to 1e-3 with the same weights.

    Rounding the weights changes z by less than 3 %.
    """
    import torch
    from torch.nn import functional as F

    from replearn import models
    from replearn.data import shapes

    count = 20  # every shape is among them
    factors = shapes.render(count, seed=2).factors
    factors["shape"] = torch.arange(count) % len(shapes.SHAPES)
    uniform = torch.rand(8, count, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(shapes.torch, "randn", lambda *shape, generator: torch.zeros(*shape))
    expected = shapes.draw(factors, torch.Generator().manual_seed(1)) / 255
    images, codes = [], []
    for i in range(count):
        one = {name: values[i].item() for name, values in factors.items()}
        random = dict(zip(RANDOM, uniform[:7, i].tolist(), strict=True))
        image, code = opened.execute_script(DRAWN_AND_ENCODED, one, random)
        images.append(image)
        codes.append(code)
    images = torch.tensor(images).view(-1, 3, shapes.SIDE, shapes.SIDE)
    codes = torch.tensor(codes)
    assert (images - expected).abs().max() < 1.01 / 255
    assert (images - expected).abs().gt(1e-4).float().mean() < 1e-3

    values = (images - 0.5) * 4
    for layer in live.layers():
        weights = layer["whole"] * layer["step"]
        weights = weights.view(len(weights), -1, 3, 3)
        values = F.relu(F.conv2d(values, weights, layer["bias"], layer["stride"], 1))
    rounded = F.adaptive_avg_pool2d(values, 2).flatten(1)
    assert (codes - rounded).abs().max() < 1e-3
    with torch.no_grad():
        shipped = models.load(live.ENCODER).eval()(images)
    assert ((codes - shipped).norm(dim=1) / shipped.norm(dim=1)).max() < 0.03


MOVED = """return ['pixels', 'z'].map(space => parseInt(
    document.querySelector(`[data-space=${space}] output`).textContent))"""
NEAR = """return [...document.querySelectorAll('[data-space] canvas, canvas[data-picture]')]
    .map(canvas => canvas.toDataURL()).join()"""


def test_the_live_picture_answers_to_keys_and_to_the_pointer(opened):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    assert opened.execute_script(MOVED) == [0, 0]
    before = opened.execute_script(NEAR)
    hue = opened.find_element("css selector", "figure.live input[name=hue]")
    for _ in range(5):
        hue.send_keys(Keys.PAGE_UP)
    status = opened.find_element("css selector", "figure.live [role=status]")

    def status_says_what_is_drawn():  # the keys are answered one after the other
        pixels, z = opened.execute_script(MOVED)
        return pixels > 30 and f"{pixels} % in pixels, {z} % in z" in status.get_attribute(
            "textContent"
        )

    until(status_says_what_is_drawn, "the picture moves in pixels, and the status says how far")
    pixels, z = opened.execute_script(MOVED)
    assert pixels > 3 * z, "color is what the encoder was trained to ignore"
    assert hue.get_attribute("aria-valuetext") not in ("", "red")
    assert opened.execute_script(NEAR) != before

    shape = opened.find_element("css selector", "figure.live input[name=shape]")
    shape.send_keys(Keys.ARROW_RIGHT)
    until(lambda: opened.execute_script(MOVED)[1] > z, "another shape moves z")
    assert shape.get_attribute("aria-valuetext") == "cross"

    before = opened.execute_script(NEAR)
    canvas = opened.find_element("css selector", "canvas[data-picture]")
    drag = ActionChains(opened, duration=0).move_to_element(canvas).click_and_hold()
    drag.move_by_offset(30, 10).release().perform()
    places = [
        float(opened.find_element("css selector", f"input[name={axis}]").get_property("value"))
        for axis in "xy"
    ]
    assert places[0] > 0.1 and 0 < places[1] < places[0]
    until(lambda: opened.execute_script(NEAR) != before, "the object follows the pointer")
    print(f"one answer took {opened.execute_script('return replearnLive.milliseconds'):.0f} ms")


# --- the same in lesson 11, with the changes of the audit ---

CHANGED = """const [factors, name] = arguments, image = replearnLive.draw(factors);
return Array.from(replearnAudit.changes[name](image));"""
ANSWERED = "return document.querySelector('figure.live').dataset.answered"
DRAWN = "return arguments[0].map(factors => Array.from(replearnLive.draw(factors)))"


@pytest.fixture
def audited(site, browser):
    """Lesson 11, from the disk, once every change of its first picture is measured."""
    (lesson,) = (site / "notebooks").glob("11_*.html")
    assert not errors(browser, lesson.as_uri())
    until(lambda: browser.execute_script(ANSWERED) == "1", "an answer for every change")
    return browser


MOVED_BY = """return Object.fromEntries([...document.querySelectorAll('[data-change]')].map(row =>
    [row.dataset.change, parseInt(row.querySelector('[data-moved]').textContent)]))"""
START = dict(
    shape=3, hue=0.08, size=0.65, rotation=0, x=0, y=0, background_hue=0.6, texture=1
)  # as in live.js


def drawn(browser, pictures):
    """The pictures (N, 3, 32, 32) of a list of factors, as the browser draws them."""
    import torch

    return torch.tensor(browser.execute_script(DRAWN, pictures)).view(-1, 3, 32, 32)


def test_the_changes_in_the_browser_are_those_of_the_audit(audited):
    import torch

    from replearn import audit

    names = audited.execute_script("return Object.keys(replearnAudit.changes)")
    assert names == list(audit.CHANGES)
    pictures = live.gallery()["rows"][:12]
    pictures = [dict(zip(live.gallery()["names"], row, strict=True)) for row in pictures]
    images = drawn(audited, pictures)
    for name, change in audit.CHANGES.items():
        # Noise is rounded to steps of a hundredth.
        limit = 0.006 if name == "noise" else 1e-5
        for factors, image in zip(pictures, images, strict=True):
            here = torch.tensor(audited.execute_script(CHANGED, factors, name)).view(1, 3, 32, 32)
            assert (here - change(image[None])).abs().max() < limit, name


def test_the_audit_of_one_picture_says_what_the_package_says(audited):
    """1 minus the score, in percent, with the shipped weights, which are not rounded."""
    import torch

    from replearn import audit, models

    names = live.gallery()["names"]
    others = [dict(zip(names, row, strict=True)) for row in live.gallery()["rows"]]
    encoder = models.load(live.ENCODER).eval()
    with torch.no_grad():
        apart = 2 * encoder(drawn(audited, others)).var(0).sum()
        image = drawn(audited, [START])
        changed = {name: change(image) for name, change in audit.CHANGES.items()}
        changed["other background"] = drawn(audited, [START | dict(background_hue=0.1)])
        changed["other texture"] = drawn(audited, [START | dict(texture=2)])
        changed["your change"] = image
        expected = {
            name: (100 * (encoder(other) - encoder(image)).square().sum() / apart).item()
            for name, other in changed.items()
        }
    shown = audited.execute_script(MOVED_BY)
    assert shown.keys() == expected.keys()
    assert not {n: (shown[n], expected[n]) for n in shown if abs(shown[n] - expected[n]) > 2}
    assert shown["your change"] == 0 and max(shown.values()) > 15


def test_the_audit_follows_the_sliders(audited):
    from selenium.webdriver.common.keys import Keys

    before = audited.execute_script(MOVED_BY)
    status = audited.find_element("css selector", "figure.live [role=status]")
    assert "Your change: 0 %. Farthest: " in status.get_attribute("textContent")
    shape = audited.find_element("css selector", "figure.live input[name=shape]")
    shape.send_keys(Keys.ARROW_RIGHT)
    until(lambda: audited.execute_script(ANSWERED) == "2", "a second answer")
    after = audited.execute_script(MOVED_BY)
    assert after["your change"] > 10 and after != before
    ground = audited.find_element("css selector", "figure.live input[name=texture]")
    ground.send_keys(Keys.ARROW_RIGHT)
    assert ground.get_attribute("aria-valuetext") == "checked"
    word = audited.find_element("css selector", "figure.live [data-word=texture]")
    assert word.text == "checked"
    took = audited.execute_script("return replearnLive.milliseconds")
    print(f"one answer took {took:.0f} ms")


# --- predictions and progress ---


def test_a_prediction_is_a_conversation_and_is_kept(site, browser):
    address = sorted((site / "notebooks").glob("*.html"))[0].as_uri()
    errors(browser, address)
    browser.execute_script("localStorage.clear()")
    errors(browser, address)
    question = browser.find_element("css selector", "fieldset[id^=predict-]")
    choice = question.find_elements("css selector", "input[type=radio]")[1]
    choice.click()
    words = choice.find_element("xpath", "..").text.strip()
    said = question.find_element("css selector", "[role=status]")
    assert said.text == f"You said: {words}. What was measured"
    measured = browser.find_element("css selector", "[id^=measured-]").text
    assert measured.startswith(f"You said: {words}. Measured: ")
    mark, *_ = browser.find_elements("css selector", "[data-exercise] input")
    mark.click()
    browser.find_element("css selector", ".progress-done input").click()

    errors(browser, address)
    said = browser.find_element("css selector", "fieldset[id^=predict-] [role=status]")
    assert said.text.startswith(f"You said: {words}.")
    errors(browser, (site / "site" / "progress.html").as_uri())
    row = browser.find_element("css selector", "[data-progress] tbody tr").text
    assert f"You said: {words}. Measured: " in row and "1 of " in row and "✓" in row
    summary = browser.find_element("css selector", "[data-progress] [role=status]").text
    done = rf"1 of {len(LISTED)} lessons done, 1 of \d\d exercises right\."
    assert re.match(done, summary)
    kept = browser.execute_script("return replearnProgress.read()")
    assert kept["lessons"] == {"01": True} and len(kept["exercises"]) == 1
    assert kept["predictions"]["01-1"]["choice"] == words


@pytest.mark.parametrize("stored", ["no JSON", "[]", '{"predictions": {"01-1": null}}', "null"])
def test_what_else_lies_in_the_browser_breaks_nothing(site, browser, stored):
    lesson = sorted((site / "notebooks").glob("*.html"))[0].as_uri()
    for address in (lesson, (site / "site" / "progress.html").as_uri()):
        errors(browser, address)
        browser.execute_script("localStorage.setItem('replearn-progress', arguments[0])", stored)
        assert not errors(browser, address)
    browser.execute_script("localStorage.clear()")
    assert len(browser.find_elements("css selector", "[data-progress] tbody tr")) == len(LISTED)


def test_a_field_leaves_the_rows_with_some_words(site, browser):
    assert not errors(browser, (site / "site" / "claims.html").as_uri())
    rows = "return document.querySelectorAll('tbody tr:not([hidden])').length"
    every = browser.execute_script(rows)
    field = browser.find_element("css selector", "[data-filter] input")
    field.send_keys("temperature")
    few = browser.execute_script(rows)
    assert 0 < few < every / 4
    said = browser.find_element("css selector", "[data-filter] output")
    assert said.text == f"{few} of {every} rows"
    field.clear()
    field.send_keys(" ")
    assert browser.execute_script(rows) == every


# --- the rest of a page ---


def test_dark_mode_follows_the_button(site, browser):
    errors(browser, (site / "site" / "how-to-use.html").as_uri())
    shades = {}
    for _ in range(3):
        browser.find_element("css selector", ".theme-switch-button").click()
        mode, shade = browser.execute_script("""return [document.documentElement.dataset.theme,
            getComputedStyle(document.body).backgroundColor]""")
        shades[mode] = sum(map(float, re.findall(r"[\d.]+", shade)[:3]))
    assert shades["dark"] < 150 < 600 < shades["light"], json.dumps(shades)


def test_search_finds_a_word_from_a_usb_stick(site, browser):
    assert not errors(browser, (site / "search.html").as_uri() + "?q=encoder")
    until(lambda: browser.find_elements("css selector", "ul.search li"), "a result")


def test_a_lesson_on_paper_shows_all_its_text_and_figures(site, browser):
    errors(browser, sorted((site / "notebooks").glob("*.html"))[0].as_uri())
    theme(browser, "dark")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        shown = (
            "return [...document.querySelectorAll(arguments[0])].filter(e => e.offsetParent).length"
        )
        for selector in (
            ".bd-sidebar-primary",
            ".bd-sidebar-secondary",
            ".bd-header-article",
            ".prev-next-footer",
        ):
            assert not browser.execute_script(shown, selector), selector
        assert browser.execute_script(shown, "article h1") == 1
        assert browser.execute_script(shown, ".cell_output img") > 8
        color = browser.execute_script(
            "return getComputedStyle(document.querySelector('article p')).color"
        )
        assert color == "rgb(0, 0, 0)"
        code = "[...document.querySelectorAll('article pre')]"
        assert (
            browser.execute_script(
                f"return {code}.filter(e => e.scrollWidth > e.clientWidth).length"
            )
            == 0
        )
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
        theme(browser, "light")


@pytest.mark.skipif(
    sys.version_info < (3, 11), reason="the last theme for Python 3.10 is not slimmed"
)
def test_from_a_host_the_first_page_is_light_and_nothing_is_missing(site, browser):
    """Counted: whatever the browser asks for on a first visit, fonts too; aside are pictures and
    the weights of the live one, which test_site.py counts."""
    with served(site) as address:
        browser.get(address)
        until(lambda: browser.current_url.endswith("site/index.html"), "the first page")
        assert not errors(browser, f"{address}site/index.html")
        sizes = dict(
            browser.execute_script("""return [...performance.getEntriesByType('navigation'),
            ...performance.getEntriesByType('resource')]
            .filter(e => !/\\.(png|svg|jpg|ico)|live-data/.test(e.name))
            .map(e => [e.name, e.decodedBodySize])""")
        )
        # As unpacked: over a line that compresses it is a quarter. Without our hooks: 2.5 MB.
        assert 100_000 < sum(sizes.values()) < 500_000, sizes
        lesson = sorted((site / "notebooks").glob("*.html"))[0].name
        assert not errors(browser, f"{address}notebooks/{lesson}")
        assert browser.execute_script("return !!document.querySelector('mjx-container')")
        assert not errors(browser, f"{address}search.html?q=encoder")
        until(lambda: browser.find_elements("css selector", "ul.search li"), "a result")


# --- JupyterLab ---

LIVE = """\
from replearn.lesson import live


def draw(angle):
    plt.figure(figsize=(2, 1.5))
    plt.plot([0, angle])


live(draw, angle=(0, 90, 10))"""
ANSWERS = {  # of the exercise cosine_similarity_matrix
    "✗ wrong": "def cosine_similarity_matrix(x):\n    return x @ x.T\n\n",
    "✓ right": "def cosine_similarity_matrix(x):\n    z = F.normalize(x)\n    return z @ z.T\n\n",
}
CHECK = 'lesson.check("cosine_similarity_matrix", cosine_similarity_matrix);'


def notebook_in(folder):
    """Write notebook 01 without outputs, plus a cell with `live`; return its cells' sources."""
    import nbformat

    for path in (ROOT / "notebooks").glob("*.ipynb"):
        shutil.copy(path, folder)
    path = folder / "01_representations.ipynb"
    nb = nbformat.read(path, as_version=4)
    nb.cells.append(nbformat.v4.new_code_cell(LIVE))
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(nb, path)
    return [cell.source if cell.cell_type == "code" else "" for cell in nb.cells]


@pytest.fixture
def lab(tmp_path):
    """(Address of a real JupyterLab with its token, sources of the cells of its notebook 01)."""
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed: pip install -e .[lab]")
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    sources = notebook_in(notebooks)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "apputils-extension/notification": dict(fetchNews="false", checkForUpdates=False),
        "notebook-extension/tracker": dict(windowingMode="none"),  # all cells are on the page
    }
    for name, values in settings.items():
        path = tmp_path / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), "utf-8")
    folders = dict(
        JUPYTER_CONFIG_DIR="config",
        JUPYTER_RUNTIME_DIR="runtime",
        JUPYTERLAB_SETTINGS_DIR="settings",
        JUPYTERLAB_WORKSPACES_DIR="workspaces",
        IPYTHONDIR="ipython",
        REPLEARN_DATA="no-data",
    )
    variables = {**os.environ, **{name: str(tmp_path / folder) for name, folder in folders.items()}}
    variables |= dict(
        REPLEARN_STATIC="0",
        REPLEARN_STRICT="0",
        REPLEARN_PROFILE="cpu",
        JUPYTER_TOKEN="open-sesame",
    )
    command = [
        sys.executable,
        "-m",
        "jupyter",
        "lab",
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={notebooks}",
    ]
    with open(tmp_path / "lab.log", "w") as log:
        server = subprocess.Popen(command, cwd=notebooks, env=variables, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            until(
                lambda: (
                    answers(f"{address}/api/status?token=open-sesame") or server.poll() is not None
                ),
                "a server",
            )
            assert server.poll() is None, (tmp_path / "lab.log").read_text()[-2000:]
            yield f"{address}/lab/tree/01_representations.ipynb?token=open-sesame", sources
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()


def answers(address):
    try:
        return urllib.request.urlopen(address, timeout=10).status == 200
    except OSError:
        return False


def menu(browser, *words):
    """Choose from a menu of JupyterLab."""
    for kind, word in zip(("lm-MenuBar-itemLabel", "lm-Menu-itemLabel"), words, strict=True):
        path = f"//div[contains(@class, '{kind}') and text()='{word}']"
        until(
            lambda path=path: browser.find_element("xpath", path).click() or True,
            f"a menu with {word}",
        )


STATE = """const cells = [...document.querySelectorAll('.jp-Notebook .jp-Cell')];
return cells.map(c => [c.classList.contains('jp-CodeCell'),
  (c.querySelector('.jp-InputPrompt') || c).textContent,
                       (c.querySelector('.jp-Cell-outputArea') || {}).innerText || '',
                       !!c.querySelector('[data-mime-type="application/vnd.jupyter.error"]')])"""


def edit(browser, cell, text):
    """Replace the text of a cell through its editor, as a keyboard does, and run it."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser.execute_script(
        "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", cell
    )
    until(lambda: cell.find_element("css selector", ".cm-content").click() or True, "an editor")
    ActionChains(browser).key_down(Keys.CONTROL).send_keys("a").key_up(Keys.CONTROL).perform()
    browser.execute_cdp_cmd("Input.insertText", {"text": text})
    until(
        lambda: (
            text.split("\n")[1].strip() in cell.find_element("css selector", ".cm-content").text
        ),
        "the new text",
    )
    ActionChains(browser).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(
        Keys.CONTROL
    ).perform()


@pytest.mark.seconds
def test_notebook_01_in_jupyterlab(lab, browser):
    from selenium.webdriver.common.keys import Keys

    address, sources = lab
    code = [i for i, source in enumerate(sources) if source]
    browser.get(address)
    until(
        lambda: len(browser.execute_script(STATE)) == len(sources),
        "all cells of the notebook",
        2 * PATIENCE,
    )
    idle = ".jp-Notebook-ExecutionIndicator[data-status=idle]"
    until(lambda: browser.find_elements("css selector", idle), "a kernel")
    menu(browser, "Run", "Run All Cells")
    ran = re.compile(r"\[\d+\]")

    def finished():
        state = browser.execute_script(STATE)
        assert not [sources[i] for i in code if state[i][3]], "a cell failed"
        return all(ran.search(state[i][1]) for i in code) and state

    state = until(finished, "every cell has run", 10 * PATIENCE)
    assert re.search(r"Lesson 01: (\d+) of \1 claims held", state[code[-2]][2])
    assert not [text for _, _, text, _ in state if "✗" in text]
    assert (
        state[sources.index(next(s for s in sources if s.endswith(CHECK)))][2].count(
            "not attempted"
        )
        == 1
    )

    sliders = browser.find_elements("css selector", f".jp-OutputArea {SLIDERS}")
    assert sliders
    for slider in sliders:
        first, clicked, keyed = moved(
            browser, slider
        )  # JupyterLab must not take the arrow keys for itself
        assert first[0] != clicked[0] != keyed[0]

    cells = browser.find_elements("css selector", ".jp-Notebook .jp-Cell")
    last = cells[code[-1]]

    def picture():
        return last.find_element("css selector", ".jupyter-widgets img").get_attribute("src")

    before = until(picture, "a figure under the control")
    handle = last.find_element("css selector", ".noUi-handle, .ui-slider-handle")
    browser.execute_script(
        "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", handle
    )
    handle.send_keys(Keys.ARROW_RIGHT)
    until(lambda: picture() != before, "the control redraws the figure")

    exercise = next(i for i, source in enumerate(sources) if source.endswith(CHECK))
    for verdict, answer in ANSWERS.items():
        edit(browser, cells[exercise], answer + CHECK)
        until(
            lambda verdict=verdict: verdict in browser.execute_script(STATE)[exercise][2], verdict
        )
