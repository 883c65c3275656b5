"""The site builds twice without a warning and needs nothing from the web: read as files, and in a real browser."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "site"))
import course  # noqa: E402
import generated  # noqa: E402

LOADING = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "embed": "src"}
REMOTE = re.compile(r"(?:@import\s*|url\(\s*)[\"']?(?:https?:)?//[^)\"']+|unpkg\.com|cdn\.[\w.]+")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module", params=["jupyter-book", "sphinx"])
def site(request, tmp_path_factory):
    """The folder of a fresh build: a cached one would not repeat its warnings."""
    pytest.importorskip("sphinx_book_theme", reason="the site's packages are not installed: pip install -e .[site]")
    out = tmp_path_factory.mktemp(request.param)
    if request.param == "sphinx":
        html = out
        command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "site", ".", str(out)]
    else:
        html = out / "_build" / "html"
        command = [str(Path(sys.executable).with_name("jupyter-book")), "build", ".", "-W", "--keep-going"]
        command += ["--path-output", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, (done.stdout + done.stderr)[-4000:]
    return html


class Tags(HTMLParser):
    """All tags of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags = []
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, {name: value or "" for name, value in attributes}))


def pages(site):
    return sorted(path for path in site.rglob("*.html") if "_static" not in path.parts)


def test_every_page_is_there(site):
    names = {str(path.relative_to(site)) for path in pages(site)}
    stored = {f"notebooks/{path.stem}.html" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert stored and stored | {"index.html", "search.html", "site/index.html"} <= names
    assert not [name for name in names if "/src/" in name or name.startswith(("README", "CONTRIBUTING"))]


def test_nothing_comes_from_the_web(site):
    found = []
    for page in pages(site):
        for tag, attributes in Tags(page).tags:
            address = attributes.get(LOADING.get(tag, ""), "")
            if re.match(r"(https?:)?//", address):
                found.append(f"{page.name}: <{tag} {address}>")
    for path in [*pages(site), *site.rglob("*.css")]:
        if remote := REMOTE.findall(path.read_text("utf-8")):
            found.append(f"{path.name}: {remote[:3]}")
    assert not found


def test_math_is_local(site):
    if not course.fetch_mathjax():
        pytest.skip("MathJax has no local copy here: it is fetched with npm")
    for page in pages(site):
        text = page.read_text("utf-8")
        scripts = [attributes.get("src", "") for tag, attributes in Tags(page).tags if tag == "script"]
        mathjax = [script.split("?")[0] for script in scripts if "mathjax" in script.lower()]
        assert len(mathjax) == (1 if 'class="math' in text else len(mathjax)) <= 1
        assert all((page.parent / script).exists() for script in mathjax)
    assert len(list((site / "_static" / "mathjax" / "output" / "chtml" / "fonts").rglob("*.woff"))) > 20


def test_no_math_is_left_raw(site):
    for page in pages(site):
        text = re.sub(r'<(span|div)[^>]*class="math[^>]*>.*?</\1>', "", page.read_text("utf-8"), flags=re.DOTALL)
        text = re.sub(r"<(script|pre|code)\b.*?</\1>", "", text, flags=re.DOTALL)
        assert r"\(" not in text and r"\[" not in text and "$$" not in text, page.name


def test_colab_buttons_open_existing_notebooks(site):
    for page in sorted((site / "notebooks").glob("*.html")):
        links = {attributes.get("href", "") for tag, attributes in Tags(page).tags if tag == "a"}
        colab = {link for link in links if "colab.research.google.com" in link}
        assert {link.split("/blob/main/")[1] for link in colab} == {f"notebooks/{page.stem}.ipynb"}
        assert (ROOT / "notebooks" / f"{page.stem}.ipynb").exists()


def test_links_inside_the_site_resolve(site):
    broken = []
    for page in pages(site):
        for tag, attributes in Tags(page).tags:
            link = attributes.get("href" if tag == "a" else LOADING.get(tag, ""), "").split("#")[0].split("?")[0]
            if link and not re.match(r"\w+:|//", link) and not (page.parent / link).exists():
                broken.append(f"{page.relative_to(site)}: {link}")
    assert not broken


def test_every_figure_has_alt_text(site):
    for page in sorted((site / "notebooks").glob("*.html")):
        figures = [attributes for tag, attributes in Tags(page).tags if tag == "img" and "alt" in attributes]
        assert len(figures) == sum(tag == "img" for tag, _ in Tags(page).tags)
        # Without one of ours, myst-nb takes the file's name.
        assert not [f["src"] for f in figures if not f["alt"] or re.search(r"\.(png|jpe?g|svg)$", f["alt"])], page.name


def test_without_a_local_copy_math_comes_from_the_web(monkeypatch, tmp_path):
    monkeypatch.setattr(course, "EXTRA", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    config = SimpleNamespace(html_theme_options={}, html_extra_path=[], mathjax_path="the default")
    course.configure(None, config)
    assert config.mathjax_path == "the default" and config.html_extra_path == []


# --- in a browser, from file:// ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("no chromium with chromedriver on this machine")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = binary
        flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
        for flag in [*flags.split(), "disable-component-update", "disable-sync", f"user-data-dir={profile}"]:
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        yield chrome
        chrome.quit()


def errors(browser, address):
    """Open a page; return what its console complains about once math is typeset."""
    browser.get_log("browser")
    browser.get(address)
    deadline = time.monotonic() + 20
    ready = """return document.readyState == 'complete'
               && (!document.querySelector('.math') || !!document.querySelector('mjx-container'))"""
    while not browser.execute_script(ready) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.3)
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def test_pages_open_without_a_console_error(site, browser):
    if sys.version_info < (3, 11):
        pytest.skip("the last theme for Python 3.10 preloads its icons in a way that browsers refuse on file://")
    if not course.fetch_mathjax():
        pytest.skip("MathJax has no local copy here: it is fetched with npm")
    found = {}
    for page in [site / "index.html", *sorted((site / "notebooks").glob("*.html"))]:
        if complaints := errors(browser, page.as_uri()):
            found[page.name] = complaints
        text = browser.execute_script("return document.querySelector('article').innerText")
        assert r"\(" not in text and "$$" not in text and r"\frac" not in text
    assert not found


def test_the_console_is_really_read(tmp_path, browser):
    page = tmp_path / "planted.html"
    page.write_text("<article></article><script>nothing.here()</script><script src='missing.js'></script>", "utf-8")
    assert len(errors(browser, page.as_uri())) == 2


def test_search_finds_a_word(site, browser):
    assert not errors(browser, (site / "search.html").as_uri() + "?q=encoder")
    deadline = time.monotonic() + 10
    while not (hits := browser.execute_script("return document.querySelectorAll('ul.search li').length")):
        assert time.monotonic() < deadline, "no result"
        time.sleep(0.1)
    assert hits >= 1


def test_dark_mode_and_phone_width(site, browser):
    notebook = min((site / "notebooks").glob("*.html"))
    phone = dict(width=390, height=800, deviceScaleFactor=1, mobile=True)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        assert not errors(browser, notebook.as_uri())
        wide, seen = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= seen, "the page scrolls sideways on a phone"
    shades = []
    for mode in ("light", "dark"):
        browser.execute_script("document.documentElement.dataset.theme = arguments[0]", mode)
        shades.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    light, dark = (sum(map(float, re.findall(r"[\d.]+", shade)[:3])) for shade in shades)
    assert dark < light, json.dumps(shades)


def test_generated_tables_say_what_the_notebooks_printed():
    for stem, cells in generated.notebooks():
        printed = sum("".join(o.get("text", "")).count("✓ ") for c in cells for o in c.get("outputs", ()))
        assert 0 < printed == len(list(generated.printed_claims(cells))), stem
        assert f"/notebooks/{stem}.ipynb" in generated.lesson_map()
    text = generated.fill("".join(f"<!-- generated: {name} -->" for name in ("claims", "photographs", "speed")))
    assert "<!--" not in text and "✗" not in text
    with pytest.raises(KeyError):
        generated.fill("<!-- generated: nothing -->")


def test_a_claim_is_read_as_it_was_printed():
    cells = [{"outputs": [{"text": "✓ 10 % ± 3 (f(x) 2, b 3 %)\n✗ no numbers\nother (a 1)\n"}]}, {}]
    found = list(generated.printed_claims(cells))
    assert found == [("✓", "10 % ± 3", "f(x) 2, b 3 %"), ("✗", "no numbers", "")]
