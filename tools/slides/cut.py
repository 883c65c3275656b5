"""Slides of a lesson: its stored notebook, cut where its headings stand and where a screen is full.

Nothing is run. `cut` leaves out what is no use on a wall (set-up, hints, solutions, references),
folds the code above a result and shows the code that has none. `page` makes the HTML.
"""

import base64
import json
import math
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

# All sizes are in CSS pixels.
WIDTH = 1280  # of a slide
HEIGHT = 720
ROOM = 680  # of the height, for what is on it
LINE = 36  # height of a line of text
CODE_LINE = 24  # height of a line of code
LETTERS = 98  # in a line of text
CODE_LETTERS = 104  # in a line of output

# Figures are made for a page; on a wall they are enlarged, and within these bounds.
ENLARGE = 1.5
SMALLEST_WIDTH = 560
LARGEST_WIDTH = 1160
LARGEST_HEIGHT = 560
# How far a figure may shrink again, so that the sentences around it stay on its slide. It never
# becomes smaller than it was made.
SHRINK = 0.65

FRAMES_IMAGE = r'(<img src="data:image/png;base64,([^"]+)"[^>]*? width=")(\d+)'


class Block(NamedTuple):
    """What stays in one piece: a heading, a paragraph, a formula, a cell with its output.

    Attributes:
        cell: The cell of the slides.
        height: About how high it will be.
        level: Of a heading, 1 to 6; 0 for all else.
        figure: How much of the height is a figure.
        spare: How much of its height the figure may lose.
    """

    cell: NotebookNode
    height: float
    level: int = 0
    figure: float = 0.0
    spare: float = 0.0


class Slide(NamedTuple):
    """A slide: its kind, "slide" (to the right) or "subslide" (below), and its blocks."""

    kind: str
    blocks: list[Block]


class Height(NamedTuple):
    """About how high an output is: its figure, how much of that may go, and the rest of it."""

    figure: float
    spare: float
    rest: float


def cut(nb: NotebookNode) -> tuple[NotebookNode, int]:
    """Cut a lesson into slides.

    Args:
        nb: An executed notebook.

    Returns:
        A notebook with nbconvert's marks for slides, and the number of slides.
    """
    slides = pack(blocks(nb.cells))
    cells = []
    for slide in slides:
        _shrink(slide.blocks)
        for position, block in enumerate(slide.blocks):
            kind = slide.kind if position == 0 else "-"
            block.cell.metadata["slideshow"] = dict(slide_type=kind)
            block.cell.pop("id", None)
            cells.append(block.cell)
    # Cells of format 4.4 need no ids.
    made = nbformat.v4.new_notebook(cells=cells, metadata=nb.metadata, nbformat_minor=4)
    return made, len(slides)


def title_of(nb: NotebookNode) -> str:
    """Return the title of a lesson, "06 · Contrastive learning: SimCLR"."""
    return re.search(r"^# (.+)", nb.cells[0].source, re.MULTILINE)[1].strip()


# --- blocks onto slides ---


def pack(blocks: Iterable[Block]) -> list[Slide]:
    """Lay blocks onto slides: a new one at each heading and where the next block has no room."""
    slides: list[Slide] = []
    where = ""  # the heading that the next slide continues
    for block in blocks:
        here = slides[-1].blocks if slides else []
        only_headings = _only_headings(here)
        is_subheading = block.level > 2 and here and only_headings  # right under its heading
        if block.level and not is_subheading:
            where = block.cell.source.lstrip("# ")
            slides.append(Slide("slide" if block.level < 3 else "subslide", [block]))
        elif only_headings or least_height([*here, block]) <= ROOM:
            here.append(block)
        else:
            moved = [here.pop()] if _goes_along(here, block) else []
            continued = _text_block(f'<p class="where">{where}</p>', LINE)
            slides.append(Slide("subslide", [continued, *moved, block]))
    return slides


def _goes_along(here: Sequence[Block], block: Block) -> bool:
    """Say whether the last block of a slide goes to the next slide with a block that has no room.

    The sentence before a figure does, if both fit there and it does not leave its slide empty.
    """
    sentence = here[-1]
    if block.cell.cell_type != "code" or sentence.cell.cell_type != "markdown":
        return False
    both_fit = LINE + least_height([sentence, block]) <= ROOM
    return both_fit and not _only_headings(here[:-1])


def _only_headings(blocks: Iterable[Block]) -> bool:
    return all(block.level for block in blocks)


def least_height(blocks: Iterable[Block]) -> float:
    """Return the height of these blocks with their figures as small as they may be."""
    return sum(block.height - block.spare for block in blocks)


# --- cells into blocks ---


def blocks(cells: Iterable[NotebookNode]) -> Iterator[Block]:
    """Yield the blocks of a lesson that belong on slides, in order."""
    section = "title"  # to the first heading of rank 2
    for cell in cells:
        if cell.cell_type != "markdown":
            shown = section != "title" and not _is_left_out(section)
            block = _code_block(cell, section) if shown else None
            if block:
                yield block
            continue
        for block in markdown_blocks(cell.source):
            if block.level == 1:
                section = "title"
            elif block.level == 2:
                section = block.cell.source.lstrip("# ")
            is_preparation = re.match(r"\*\*(Prerequisites|Minutes)\.", block.cell.source)
            if section == "title" and is_preparation:
                section = "set-up"  # up to the next heading, "## Predict"
            elif not _is_left_out(section):
                yield block


def _is_left_out(section: str) -> bool:
    return section == "set-up" or section.startswith("References")


def markdown_blocks(text: str) -> list[Block]:
    """Return the top-level blocks of a text.

    Solutions, questions to check oneself, comments and the badge are left out.
    """
    from markdown_it import MarkdownIt

    generated = r"<!-- (solution \w+|badge) -->.*?<!-- /(solution|badge) -->"
    text = re.sub(generated, "", text, flags=re.DOTALL)
    # They end a section, so the next heading ends them.
    questions = r"^\*\*Check yourself\.\*\*.*?(?=^#|\Z)"
    text = re.sub(questions, "", text, flags=re.DOTALL | re.MULTILINE)
    # A formula of several lines is one block, blank lines or not.
    text = re.sub(r"\$\$.*?\$\$", _without_blank_lines, text, flags=re.DOTALL)
    lines = text.splitlines()
    made = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.level != 0 or not token.map or token.nesting < 0:
            continue
        source = "\n".join(lines[slice(*token.map)]).strip()
        if source and not re.fullmatch(r"<!--.*?-->", source, re.DOTALL):
            level = int(token.tag[1]) if token.type == "heading_open" else 0
            made.append(_text_block(source, _text_height(source, token.type), level))
    return made


def _without_blank_lines(match: re.Match) -> str:
    return re.sub(r"\n\s*\n", "\n", match[0])


def _text_block(source: str, height: float, level: int = 0) -> Block:
    return Block(new_markdown_cell(source), height, level)


def _code_block(cell: NotebookNode, section: str) -> Block | None:
    """Return the block of a code cell, or None if it does not belong on a slide.

    Code above a result is folded; exercises show their stub and no output.
    """
    source = re.sub(r"^#.*\n?", "", cell.source, flags=re.MULTILINE).strip()  # without comments
    if not source or "lesson.finish()" in source or "setup" in cell.metadata.get("tags", ()):
        return None
    cell = nbformat.from_dict(json.loads(json.dumps(cell)))  # a copy: figures are resized in it
    if section == "Exercises":
        if ".check(" not in source:
            return None
        cell.outputs = []
    elif section.startswith("On real photographs"):
        cell.outputs = [output for output in cell.outputs if "data" in output]
        if not cell.outputs:
            return None

    heights = [_output_height(output) for output in cell.outputs]
    figure = sum(height.figure for height in heights)
    spare = sum(height.spare for height in heights)
    if cell.outputs:
        code_height = 36  # folded
    else:
        code_height = CODE_LINE * (1 + source.count("\n")) + 24
    height = figure + sum(height.rest for height in heights) + code_height
    repeats_the_text = source.startswith("lesson.predict(")  # the code of a question
    cell.metadata = dict(fold=bool(cell.outputs), transient=dict(remove_source=repeats_the_text))
    return Block(cell, height, figure=figure, spare=spare)


# --- heights ---


def _text_height(source: str, kind: str) -> float:
    """Return about how high a piece of Markdown will be.

    Args:
        source: The Markdown.
        kind: What markdown-it calls it.
    """
    if kind == "heading_open":
        return 78
    if kind in ("fence", "code_block"):
        return CODE_LINE * source.count("\n") + 20

    formulas = re.findall(r"\$\$.*?\$\$", source, re.DOTALL)
    formula_rows = 0.0
    for formula in formulas:
        formula_rows += 1 + formula.count(r"\\")
        if re.search("sum|frac|max|min", formula):
            formula_rows += 0.5

    printed = re.sub(r"\$\$.*?\$\$", "", source, flags=re.DOTALL)
    # Roughly what is not printed: addresses, commands of formulas, braces.
    printed = re.sub(r"\]\(http[^)]*\)|\\[a-z]+|[{}$]", "", printed)
    if kind == "paragraph_open":
        items = [printed.replace("\n", " ")]
    else:
        items = re.split(r"\n(?=\s*(?:[-*|]|\d+\.) ?)", printed)
    lines = sum(math.ceil(len(item) / LETTERS) for item in items if item.strip())
    return LINE * lines + 64 * formula_rows + 16


def _output_height(output: NotebookNode) -> Height:
    """Enlarge the figure of an output, in place, and return about how high the output is now."""
    data = output.get("data", {})
    page = data.get("text/html", "")
    if "image/png" in data:  # a `Frames` has one too
        natural = _resize(output, 1)
        enlarged = _resize(output, ENLARGE)
        smallest = max(SHRINK * enlarged, min(enlarged, natural))
        return Height(enlarged, enlarged - smallest, 100 if page else 20)
    if page:
        rows = len(re.findall("<label|<p|<br|<legend|<summary", page))
        return Height(0, 0, 40 * rows + 40)
    text = output.get("text") or data.get("text/plain", "")
    rows = sum(math.ceil((len(line) + 1) / CODE_LETTERS) for line in text.splitlines())
    return Height(0, 0, CODE_LINE * rows + 20)


def _shrink(blocks: Sequence[Block]) -> None:
    """Make the figures of a slide smaller, in place, as far as they have to be and may be."""
    excess = sum(block.height for block in blocks) - ROOM
    spare = sum(block.spare for block in blocks)
    if excess <= 0 or spare == 0:
        return
    share = min(1, excess / spare)  # of what each figure may lose
    for block in blocks:
        if not block.spare:
            continue
        for output in block.cell.outputs:
            if "image/png" in output.get("data", {}):
                _resize(output, 1 - share * block.spare / block.figure)


def _resize(output: NotebookNode, scale: float) -> int:
    """Scale an output's figure in place, a PNG or a `Frames`, up to what a slide holds.

    Args:
        output: An output with a figure.
        scale: Times its size so far. More than 1 enlarges a small figure further.

    Returns:
        The new height.
    """
    page = output["data"].get("text/html", "")
    is_frames = "data-frames" in page
    if is_frames:
        _, image, shown_width = re.search(FRAMES_IMAGE, page).groups()
        made_width, made_height = _png_size(image)
        width = int(shown_width)
        height = width * made_height / made_width
    else:
        display = output.metadata.setdefault("image/png", {})
        made_width, made_height = _png_size(output["data"]["image/png"])
        width = display.get("width", made_width)
        height = display.get("height", made_height)

    if scale > 1:
        scale = max(scale, SMALLEST_WIDTH / width)
    scale = min(scale, LARGEST_WIDTH / width, LARGEST_HEIGHT / height)
    new_width = round(scale * width)
    new_height = round(scale * height)
    if is_frames:
        output["data"]["text/html"] = re.sub(
            FRAMES_IMAGE, lambda match: f"{match[1]}{new_width}", page, count=1
        )
    else:
        display.update(width=new_width, height=new_height)
    return new_height


def _png_size(text: str) -> tuple[int, int]:
    """Return width and height from the header of a PNG in base64."""
    header = base64.b64decode(text.replace("\n", "")[:64])
    return struct.unpack(">II", header[16:24])
