"""The slides of a lesson as one HTML file: nbconvert's reveal.js slides with reveal.js and MathJax beside them.

FOLDER/06_simclr.html …    one file a lesson
FOLDER/index.html          the list
FOLDER/reveal, mathjax     what they load: no address on the web, so that they open from a USB stick
"""

import html
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from tools import notebooks as build
from tools.slides import cut as slides

REVEAL, MATHJAX = "reveal.js@4.6.1", "mathjax@3.2.2"  # nbconvert's template is made for reveal.js 4
WANTED = {
    REVEAL: (
        "LICENSE",
        "dist/reveal.js",
        "dist/reveal.css",
        "dist/theme/white.css",
        "dist/theme/fonts/source-sans-pro",
        "plugin/notes/notes.js",
        "plugin/notes/speaker-view.html",
    ),
    MATHJAX: ("LICENSE", "es5/tex-chtml-full.js", "es5/output/chtml/fonts"),
}
STYLE = """
.reveal .slides { text-align: left; }
.reveal .slides section:not(.stack) {
  height: 100%; box-sizing: border-box; padding: 14px 40px 0; overflow: hidden auto; }
.reveal .jp-RenderedHTMLCommon { font-family: var(--r-main-font); font-size: 26px; line-height: 1.35; padding: 0; }
.reveal .jp-RenderedHTMLCommon p, .reveal .jp-RenderedHTMLCommon ul { margin: 0 0 14px; }
.reveal .jp-RenderedHTMLCommon li { margin: 0 0 6px; }
.reveal .jp-RenderedHTMLCommon h1 { font-size: 58px; margin: 90px 0 40px; }
.reveal .jp-RenderedHTMLCommon h2 { font-size: 42px; margin: 0 0 22px; border: 0; }
.reveal .jp-RenderedHTMLCommon h3 { font-size: 34px; margin: 0 0 18px; }
.reveal h1, .reveal h2, .reveal h3 { text-transform: none; letter-spacing: 0; line-height: 1.15; }
.reveal .jp-RenderedHTMLCommon blockquote {
  width: auto; margin: 0 0 20px; padding: 6px 20px; border-left: 6px solid #0072b2; font-size: 30px;
  box-shadow: none; background: none; font-style: normal; }
.reveal .jp-RenderedHTMLCommon .where { color: #666; font-size: 20px; margin: 0 0 10px; }
.reveal .jp-RenderedHTMLCommon code { font-size: 0.85em; }
.reveal .jp-Cell { padding: 0; margin: 0; border: 0; }
.reveal .jp-CodeCell + .jp-Cell { margin-top: 12px; }
.reveal .jp-Cell-outputWrapper, .reveal .jp-Cell-inputWrapper { margin: 0; outline: none; }
.reveal .jp-Collapser { display: none; }
.reveal .jp-Cell .jp-InputArea-editor { border: 1px solid #ddd; background: #f7f7f7; flex: 1; }
.reveal .highlight { margin: 0 !important; background: none; }
.reveal .highlight pre, .reveal .jp-RenderedHTMLCommon pre {
  font-size: 18.5px !important; line-height: 24px; padding: 10px 14px !important; margin: 0; width: auto; }
.reveal .jp-RenderedHTMLCommon pre { background: #f7f7f7; border: 1px solid #ddd; margin-bottom: 14px; }
.reveal div.jp-OutputArea-output > pre {
  font-size: 18.5px !important; line-height: 24px; padding: 10px 0; margin: 0; width: auto;
  white-space: pre-wrap; word-break: normal; overflow-wrap: break-word; }
.reveal div.jp-OutputArea-output img { margin: 0; max-width: 100%; max-height: none; }
.reveal details.code { margin: 2px 0 8px; font-size: 18px; }
.reveal details.code > summary { color: #666; cursor: pointer; }
.reveal .slide-number { background: none; color: #666; right: auto; left: 8px; }
.reveal .jp-RenderedHTMLCommon table { font-size: 20px; }
.reveal input[type="range"] { vertical-align: middle; }
.reveal figure { font-size: 22px; }
"""
SCRIPT = """
// A formula too wide, or too much for one screen (code unfolded): smaller, down to 60 %; beyond that the slide scrolls.
function fit() {
  const slide = Reveal.getCurrentSlide();
  if (!slide) return;
  for (const formula of slide.querySelectorAll('mjx-container[display]')) {
    formula.style.fontSize = '';
    const share = formula.clientWidth / formula.scrollWidth;
    if (share < 1) formula.style.fontSize = `${Math.floor(96 * share)}%`;
  }
  const inner = [...slide.children].filter((part) => !part.matches('aside'));
  inner.forEach((part) => { part.style.zoom = 1; });
  for (let zoom = 1; zoom > 0.6 && slide.scrollHeight > slide.clientHeight + 1; zoom -= 0.05) {
    inner.forEach((part) => { part.style.zoom = zoom - 0.05; });
  }
}
function fold() {
  const codes = [...document.querySelectorAll('details.code')];
  const open = codes.some((code) => !code.open);
  codes.forEach((code) => { code.open = open; });
  fit();
}
Reveal.initialize({ controls: true, progress: true, hash: true, center: false, transition: 'none', slideNumber: 'c/t',
                    width: WIDTH, height: HEIGHT, margin: 0.03, pdfMaxPagesPerSlide: 1, plugins: [RevealNotes] });
Reveal.addKeyBinding({ keyCode: 67, key: 'C', description: 'Show or fold all code' }, fold);
for (const event of ['ready', 'slidechanged', 'resize']) Reveal.on(event, fit);
document.addEventListener('toggle', fit, true);
// A slider that was moved by mouse gives the keys back to the slides; one reached by Tab keeps its arrows.
document.addEventListener('pointerup', (event) => { if (event.target.type === 'range') event.target.blur(); });
MathJax.startup.promise.then(fit);
"""
# Blocks of nbconvert's own template; require.js, jQuery and mermaid, which it would load, are not needed.
TEMPLATE = (
    """{%- extends 'index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}
<script>
window.MathJax = { tex: { inlineMath: [['$', '$']], displayMath: [['$$', '$$']], processEscapes: true },
                   chtml: { matchFontHeight: false }, options: { enableMenu: false } };
</script>
<script src="mathjax/tex-chtml-full.js"></script>
{%- endblock -%}
{%- block body_header -%}<style>"""
    + STYLE
    + """</style>{{ super() }}{%- endblock -%}
{%- block input_group -%}
{%- if cell.metadata.fold -%}<details class="code"><summary>code</summary>{{ super() }}</details>
{%- else -%}{{ super() }}{%- endif -%}
{%- endblock -%}
{%- block data_png scoped -%}
{%- set about = output.metadata['image/png'] -%}
<div class="jp-RenderedImage jp-OutputArea-output"><img src="data:image/png;base64,{{ output.data['image/png'] }}"
alt="{{ about.alt | escape_html }}" width="{{ about.width }}" height="{{ about.height }}"></div>
{%- endblock -%}
{%- block footer_js -%}
<script src="reveal/dist/reveal.js"></script>
<script src="reveal/plugin/notes/notes.js"></script>
<script>const WIDTH = """
    + f"{slides.WIDTH}, HEIGHT = {slides.HEIGHT};"
    + SCRIPT
    + """</script>
{%- endblock -%}
"""
)
INDEX = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Slides of the lessons</title>
<style>body {{ font: 1.1rem/1.6 sans-serif; max-width: 42rem; margin: 3rem auto; padding: 0 1rem; }}</style></head>
<body><h1>Slides of the lessons</h1><ul>
{rows}
</ul><p>Space or the arrow keys go on; Esc shows all slides; C shows or folds all code; S opens the speaker's view;
F fills the screen. Tab reaches a slider, and then the arrows move it. To print, add <code>?print-pdf</code> to the
address of a lesson.</p></body></html>
"""


def write(sources, folder):
    """Write the slides of these lesson texts into a folder; yields (name, number of slides). SystemExit without npm."""
    import nbformat

    folder.mkdir(parents=True, exist_ok=True)
    _lay(_fetched(REVEAL, build.ROOT / "build" / "reveal"), folder / "reveal")
    _lay(
        _fetched(MATHJAX, build.ROOT / "build" / "mathjax" / "_static" / "mathjax"),
        folder / "mathjax",
    )
    for source in sources:
        path = build.NOTEBOOKS / f"{source.stem}.ipynb"
        if not path.exists():
            command = f"python -m tools.notebooks run {source.stem[:2]}"
            raise SystemExit(f"slides: no notebooks/{path.name}; make it first: {command}")
        page, count = page_of(nbformat.read(path, as_version=4))
        build.write_atomically(folder / f"{source.stem}.html", page)
        yield source.stem, count
    build.write_atomically(folder / "index.html", index(folder))


def page_of(nb):
    """(HTML, number of slides) of a lesson's executed notebook."""
    from nbconvert import SlidesExporter

    made, count = slides.cut(nb)
    made.metadata["title"] = title = slides.title_of(nb)
    exporter = SlidesExporter(
        raw_template=TEMPLATE,
        reveal_url_prefix="reveal",
        reveal_theme="white",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    page, _ = exporter.from_notebook_node(made, resources=dict(metadata=dict(name=title)))
    return page, count


def index(folder):
    """The list of the slides that are in a folder."""
    rows = []
    for path in sorted(folder.glob("[0-9][0-9]_*.html")):
        title = path.read_text("utf-8").split("<title>", 1)[1].split(" slides</title>", 1)[0]
        rows.append(f'<li><a href="{html.escape(path.name)}">{title}</a></li>')
    return INDEX.format(rows="\n".join(rows))


def _fetched(package, target):
    """The folder of an npm package's files that are needed; fetched once, with npm."""
    if target.exists():
        return target
    if not shutil.which("npm"):
        raise SystemExit(
            f"slides: {package} is not in {target}, and npm, which fetches it, is not installed"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as place:
        try:
            command = ["npm", "pack", "--silent", package]
            subprocess.run(command, cwd=place, check=True, timeout=120, capture_output=True)
        except (subprocess.SubprocessError, OSError) as error:
            raise SystemExit(
                f"slides: npm could not fetch {package} ({error}); it needs the network once"
            ) from None
        with tarfile.open(next(Path(place).glob("*.tgz"))) as archive:
            wanted = tuple(f"package/{name}" for name in WANTED[package])
            archive.extractall(
                place, members=[one for one in archive if one.name.startswith(wanted)]
            )
        root = Path(place, "package")
        if (root / "es5").exists():  # MathJax: as site/course.py lays it
            shutil.move(root / "LICENSE", root / "es5")
            root = root / "es5"
        shutil.move(root, target)
    return target


def _lay(source, target):
    """Copy a folder of files that never change once they are there."""
    if not target.exists():
        part = target.with_name(f".{target.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(source, part)
        part.rename(target)
