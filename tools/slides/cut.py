"""Slides of a lesson: its stored notebook, cut where its headings stand and where a screen is full; nothing is run.

`cut` leaves out what is no use on a wall (set-up, hints, solutions, references), folds the code above a result and
shows the code that has none. `slides_page` makes the HTML.
"""

import base64
import json
import math
import re
import struct
from typing import NamedTuple

import nbformat
from nbformat.v4 import new_markdown_cell

WIDTH, HEIGHT = 1280, 720  # of a slide, in CSS pixels
ROOM = 680  # of the height, for what is on it
LINE, CODE_LINE, LETTERS = (
    36,
    24,
    98,
)  # height of a line of text and of code, letters in a line of text
ENLARGE, SMALL, WIDEST, HIGHEST = (
    1.5,
    560,
    1160,
    560,
)  # figures are made for a page; on a wall they may be larger
SHRINK = 0.65  # how far a figure may shrink, so that the sentences around it stay on its slide; never below its size


class Block(NamedTuple):
    """A piece that stays in one piece: a heading (level 1 to 6), a paragraph, a formula, a cell with its output."""

    cell: dict
    height: float
    level: int = 0
    figure: float = 0.0  # of the height
    spare: float = 0.0  # of the figure's: how much it may lose


def cut(nb):
    """(a notebook with nbconvert's marks for slides, the number of slides) of a lesson's executed notebook."""
    slides = pack(blocks(nb.cells))
    cells = []
    for kind, parts in slides:
        _shrink(parts)
        for position, part in enumerate(parts):
            part.cell.metadata["slideshow"] = dict(slide_type="-" if position else kind)
            cells.append(part.cell)
    for cell in cells:
        cell.pop("id", None)
    made = nbformat.v4.new_notebook(
        cells=cells, metadata=nb.metadata, nbformat_minor=4
    )  # whose cells need no ids
    return made, len(slides)


def title_of(nb):
    """The title of a lesson, "06 · Collapse"."""
    return re.search(r"^# (.+)", nb.cells[0].source, re.MULTILINE)[1].strip()


def pack(found):
    """[("slide" or "subslide", blocks)]: a new slide at each heading and wherever the next block has no room."""
    slides, where = [], ""
    for block in found:
        parts = slides[-1][1] if slides else []
        only_headings = all(part.level for part in parts)
        if block.level and not (block.level > 2 and parts and only_headings):
            where = block.cell.source.lstrip("# ")
            slides.append(("slide" if block.level < 3 else "subslide", [block]))
        elif only_headings or least([*parts, block]) <= ROOM:
            parts.append(block)
        else:
            # The sentence before a figure goes where the figure goes, if it does not leave its slide empty.
            last = (
                parts[-1]
                if block.cell.cell_type == "code" and parts[-1].cell.cell_type == "markdown"
                else None
            )
            fits = (
                last
                and LINE + least([last, block]) <= ROOM
                and not all(part.level for part in parts[:-1])
            )
            taken = [parts.pop()] if fits else []
            slides.append(
                ("subslide", [_text(f'<p class="where">{where}</p>', LINE), *taken, block])
            )
    return slides


def least(parts):
    """The height of these blocks with their figures as small as they may be."""
    return sum(part.height - part.spare for part in parts)


def blocks(cells):
    """The blocks of a lesson that belong on slides, in order."""
    section = "title"
    for cell in cells:
        pieces = markdown_blocks(cell.source) if cell.cell_type == "markdown" else [cell]
        for piece in pieces:
            if isinstance(piece, Block) and 0 < piece.level < 3:
                section = piece.cell.source.lstrip("# ") if piece.level == 2 else "title"
            if section.startswith("References"):
                continue
            if isinstance(piece, Block):
                if section == "title" and re.match(
                    r"\*\*(Prerequisites|Minutes)\.", piece.cell.source
                ):
                    section = "set-up"  # up to the next heading, "## Predict"
                elif section != "set-up":
                    yield piece
            elif section not in ("title", "set-up") and (shown := _code(piece, section)):
                yield shown


def markdown_blocks(text):
    """The top-level blocks of a text: solutions, comments and the badge are left out."""
    from markdown_it import MarkdownIt

    text = re.sub(
        r"<!-- (solution \w+|badge) -->.*?<!-- /(solution|badge) -->", "", text, flags=re.DOTALL
    )
    # A formula of several lines is one block, blank lines or not.
    text = re.sub(
        r"\$\$.*?\$\$", lambda match: re.sub(r"\n\s*\n", "\n", match[0]), text, flags=re.DOTALL
    )
    lines, found = text.splitlines(), []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.level == 0 and token.map and token.nesting >= 0:
            source = "\n".join(lines[slice(*token.map)]).strip()
            level = int(token.tag[1]) if token.type == "heading_open" else 0
            if source and not re.fullmatch(r"<!--.*?-->", source, re.DOTALL):
                found.append(_text(source, _text_height(source, token.type), level))
    return found


def _text(source, height, level=0):
    return Block(new_markdown_cell(source), height, level)


def _text_height(source, kind):
    """About how high a piece of Markdown will be, in pixels."""
    if kind == "heading_open":
        return 78
    if kind in ("fence", "code_block"):
        return CODE_LINE * source.count("\n") + 20
    formulas = re.findall(r"\$\$.*?\$\$", source, re.DOTALL)
    rows = sum(
        1 + one.count(r"\\") + 0.5 * bool(re.search("sum|frac|max|min", one)) for one in formulas
    )
    plain = re.sub(r"\$\$.*?\$\$", "", source, flags=re.DOTALL)
    plain = re.sub(r"\]\(http[^)]*\)|\\[a-z]+|[{}$]", "", plain)  # what is not printed, roughly
    items = (
        re.split(r"\n(?=\s*(?:[-*|]|\d+\.) ?)", plain)
        if kind != "paragraph_open"
        else [plain.replace("\n", " ")]
    )
    return (
        LINE * sum(math.ceil(len(item) / LETTERS) for item in items if item.strip())
        + 64 * rows
        + 16
    )


def _code(cell, section):
    """The block of a code cell, or None: code above a result is folded, exercises show their stub and no output."""
    source = re.sub(r"^#.*\n?", "", cell.source, flags=re.MULTILINE).strip()
    if not source or "lesson.finish()" in source or "setup" in cell.metadata.get("tags", ()):
        return None
    cell = nbformat.from_dict(json.loads(json.dumps(cell)))
    if section == "Exercises":
        cell.outputs = []
        if ".check(" not in source:
            return None
    elif section.startswith("On real photographs"):
        cell.outputs = [output for output in cell.outputs if "data" in output]
        if not cell.outputs:
            return None
    figure, spare, rest = map(sum, zip((0, 0, 0), *map(_output_height, cell.outputs), strict=True))
    asks = source.startswith("lesson.predict(")  # its code would give the answer away
    cell.metadata = dict(fold=bool(cell.outputs), transient=dict(remove_source=asks))
    rigid = 36 if cell.outputs else CODE_LINE * (1 + source.count("\n")) + 24
    return Block(cell, figure + rest + rigid, figure=figure, spare=spare)


def _output_height(output):
    """Enlarge the figure of an output; return about its new height, how much of it may go, the height of the rest."""
    data = output.get("data", {})
    if "image/png" in data:  # a `Frames` has one too
        natural, high = _resized(output, 1), _resized(output, ENLARGE)
        return (
            high,
            high - max(SHRINK * high, min(high, natural)),
            100 if "text/html" in data else 20,
        )
    if "text/html" in data:
        return 0, 0, 40 * len(re.findall("<label|<p|<br|<legend|<summary", data["text/html"])) + 40
    lines = (output.get("text") or data.get("text/plain", "")).splitlines()
    return 0, 0, CODE_LINE * sum(math.ceil((len(line) + 1) / 104) for line in lines) + 20


def _shrink(parts):
    """Make the figures of a slide smaller, as far as they have to be and may be."""
    excess, spare = sum(part.height for part in parts) - ROOM, sum(part.spare for part in parts)
    for part in parts:
        if excess > 0 and part.spare:
            scale = 1 - min(1, excess / spare) * part.spare / part.figure
            for output in part.cell.outputs:
                if "image/png" in output.get("data", {}):
                    _resized(output, scale)


def _resized(output, scale):
    """Scale an output's figure in place, a PNG or a `Frames`, up to what a slide holds; returns the new height."""
    page, frames = (
        output["data"].get("text/html", ""),
        r'(<img src="data:image/png;base64,([^"]+)"[^>]*? width=")(\d+)',
    )
    if "data-frames" in page:
        _, source, width = re.search(frames, page).groups()
        natural = _png_size(source)
        width, height = int(width), int(width) * natural[1] / natural[0]
    else:
        about = output.metadata.setdefault("image/png", {})
        width, height = _png_size(output["data"]["image/png"])
        width, height = about.get("width", width), about.get("height", height)
    scale = min(max(scale, SMALL / width) if scale > 1 else scale, WIDEST / width, HIGHEST / height)
    wide, high = round(scale * width), round(scale * height)
    if "data-frames" in page:
        output["data"]["text/html"] = re.sub(
            frames, lambda match: f"{match[1]}{wide}", page, count=1
        )
    else:
        about.update(width=wide, height=high)
    return high


def _png_size(text):
    """(width, height) from the header of a PNG in base64."""
    return struct.unpack(">II", base64.b64decode(text.replace("\n", "")[:64])[16:24])
