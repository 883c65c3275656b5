"""Draw which room of the project imports which, from the source: `python -m tools.architecture`.

The picture is `site/_static/architecture.svg`, which ARCHITECTURE.md shows: a row and a column for
each room (a file of the core, or a folder), and a dot where the room of the row imports the room of
the column. The rooms are ordered such that every dot lies left of the diagonal; a dot to its right
would be an import against the order. The picture holds the imports as text, too, so that the linter
of the course can tell whether it is current.
"""

import argparse
import ast
import io
import re
from pathlib import Path

from replearn.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "site" / "_static" / "architecture.svg"

CORE = (
    "files",
    "image_file",
    "plot",
    "losses",
    "augment",
    "data",
    "train",
    "probe",
    "models",
    "metrics",
    "audit",
)
ABOVE = ("lesson", "pretrain", "serve")
AROUND = ("notebooks", "tools", "scripts", "benchmarks")
ROOMS = (*CORE, *ABOVE, *AROUND)
FOLDERS = ("data", *ABOVE, *AROUND)
COLORS = {"core": "#009E73", "above": "#0072B2", "around": "#D55E00"}  # Okabe & Ito 2008


def imported(source: str, package: str = "replearn") -> set[str]:
    """Return the rooms of the package that a Python source imports, wherever in it.

    Args:
        source: The text of a file.
        package: The package whose submodules count.

    Returns:
        The names of its direct submodules: `from replearn.data import shapes` gives {"data"}.
    """
    rooms = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module == package:
            names = [f"{package}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        else:
            continue
        parts = [name.split(".") for name in names]
        rooms |= {part[1] for part in parts if part[0] == package and len(part) > 1}
    return rooms


def code_of_lesson(text: str) -> str:
    """Return the code cells of a lesson's text, without the lines that only IPython knows."""
    cells = re.findall(r"^```\{code-cell\}[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    code = []
    for cell in cells:
        lines = [line for line in cell.splitlines() if not re.match(r"\s*[:%!]", line)]
        code.append("\n".join(lines))
    return "\n".join(code)


def sources_of(room: str) -> list[str]:
    """Return the Python sources of a room: of its folder or file, or of the lessons' code cells."""
    if room == "notebooks":
        paths = sorted((ROOT / "notebooks").glob("**/src/*.md"))
        return [code_of_lesson(path.read_text("utf-8")) for path in paths]
    if room in ("tools", "scripts", "benchmarks"):
        folder = ROOT / room
    else:
        folder = ROOT / "replearn" / room
    if folder.is_dir():
        paths = sorted(folder.glob("**/*.py"))
    else:
        paths = [folder.with_suffix(".py")]
    return [path.read_text("utf-8") for path in paths]


def imports() -> dict[str, set[str]]:
    """Return {room: the other rooms that it imports}."""
    result = {}
    for room in ROOMS:
        rooms = set()
        for source in sources_of(room):
            rooms |= imported(source)
        result[room] = rooms & set(ROOMS) - {room}
    return result


def color_of(room: str) -> str:
    """Return the color of a room: of the core, of what is built on it, or of what is around."""
    if room in CORE:
        return COLORS["core"]
    return COLORS["above"] if room in ABOVE else COLORS["around"]


def draw() -> str:
    """Return the picture as SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    graph = imports()
    columns = [*CORE, *ABOVE]
    names = {room: f"{room}/" if room in FOLDERS else f"{room}.py" for room in ROOMS}

    with matplotlib.rc_context({"svg.hashsalt": "replearn", "svg.fonttype": "none"}):
        figure = Figure(figsize=(7.2, 6.6), layout="constrained")
        axes = figure.subplots()
        for row, room in enumerate(ROOMS):
            used = [column for column, other in enumerate(columns) if other in graph[room]]
            axes.scatter(used, [row] * len(used), s=90, color=color_of(room), zorder=3)
        end = len(columns) - 0.5
        axes.plot([-0.5, end], [-0.5, end], color="black", linewidth=1)
        axes.set_xticks(range(len(columns)), [names[room] for room in columns], rotation=90)
        axes.set_yticks(range(len(ROOMS)), [names[room] for room in ROOMS])
        axes.set(xlim=(-0.5, end), ylim=(len(ROOMS) - 0.5, -0.5))
        axes.set_title("A dot: the room of the row imports the room of the column", loc="left")
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.grid(color="#DDDDDD", zorder=0)
        for label, room in zip(axes.get_yticklabels(), ROOMS, strict=True):
            label.set_color(color_of(room))
        text = io.StringIO()
        metadata = {"Date": None, "Creator": None, "Description": in_words(graph)}
        figure.savefig(text, format="svg", metadata=metadata)
    return text.getvalue()


def in_words(graph: dict[str, set[str]]) -> str:
    """Return the imports as text: "audit: augment, metrics; augment: nothing; …"."""
    parts = []
    for room, others in graph.items():
        parts.append(f"{room}: {', '.join(sorted(others)) or 'nothing'}")
    return "; ".join(parts)


def is_current() -> bool:
    """Return whether the stored picture shows the imports of the source as it is now."""
    return PICTURE.exists() and in_words(imports()) in PICTURE.read_text("utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Write the picture."""
    description = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m tools.architecture", description=description)
    parser.parse_args(arguments)
    write_atomically(PICTURE, draw())
    print(PICTURE.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
