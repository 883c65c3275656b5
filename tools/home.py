"""`make home URL=https://…`: one command gives the course its address on the web.

The address stands in `[project.urls]` of pyproject.toml and nowhere else. From there it goes to
badges, set-up cells, README.md and the launch buttons of the site, pinned to the tag of this
version. An empty address (`make home URL=`) takes it out of all of them again.
"""

import argparse
import re
import sys
from collections.abc import Sequence

from replearn.files import write_atomically
from replearn.lesson.lesson import EVERY_LESSON
from tools import notebooks, project

ADDRESS = re.compile(r"https://[\w.-]+(?::\d+)?(?:/[\w.~-]+)+/?")
TABLE = re.compile(r"^\[project\.urls\]\n(?:(?!\[).*\n)*", re.MULTILINE)
NEXT_TABLE = "[tool.setuptools.dynamic]\n"  # the table is written before this one
BLOCK = re.compile(r"<!-- home -->.*?<!-- /home -->", re.DOTALL)


def with_address(text: str, address: str) -> str:
    """Return the text of pyproject.toml with this address, or with none if it is empty.

    Args:
        text: Of pyproject.toml.
        address: Of the repository.

    Raises:
        SystemExit: The address is none that pip and a browser can open, or the text has no place
            for it.
    """
    if address and not ADDRESS.fullmatch(address):
        raise SystemExit(
            f"home: expected an address such as https://github.com/ACCOUNT/NAME, found {address!r}"
        )
    text = TABLE.sub("", text)
    if not address:
        return text
    if text.count(NEXT_TABLE) != 1:
        raise SystemExit(f"home: expected one line {NEXT_TABLE.strip()} in pyproject.toml")
    table = f'[project.urls]\nRepository = "{address.rstrip("/").removesuffix(".git")}"\n\n'
    return text.replace(NEXT_TABLE, table + NEXT_TABLE)


def readme_block() -> str:
    """Return the part of README.md that has addresses in it; nothing while there is none."""
    address = project.address()
    if address is None:
        return "<!-- home -->\n<!-- /home -->"
    name = address.rsplit("/", 1)[1]
    branch = f"--branch {project.tag()} "
    lines = [
        "<!-- home -->",
        "",
        "```sh",
        f"git clone {branch}{address}",
        f"cd {name}",
        "```",
        "",
    ]
    for place, address_of in {"Colab": project.colab, "Kaggle": project.kaggle}.items():
        links = []
        for source in notebooks.sources():
            number = source.stem[:2]
            link = address_of(source.stem)
            if link:
                links.append(f'[{number}]({link} "{EVERY_LESSON[number][0]}")')
        if links:
            lines += [f"Or open a lesson in {place}: {', '.join(links)}.", ""]
    everything = project.binder("01_representations")
    if everything:
        lines += [f"Or [all of it in Binder]({everything}), which takes some minutes to start.", ""]
    return "\n".join([*lines, "<!-- /home -->"])


def readme_is_current(text: str) -> bool:
    """Say whether README.md has the block of the address that pyproject.toml has."""
    return BLOCK.findall(text) == [readme_block()]


def set_address(address: str) -> None:
    """Write an address, or none, everywhere it belongs.

    Args:
        address: Of the repository; empty takes it away.

    Raises:
        SystemExit: The address cannot be used, and nothing has been written; or a notebook has
            edits that its text does not have.
    """
    pyproject = project.ROOT / "pyproject.toml"
    write_atomically(pyproject, with_address(pyproject.read_text("utf-8"), address))
    for source in notebooks.sources():
        notebooks.sync(source)
    readme = project.ROOT / "README.md"
    text = readme.read_text("utf-8")
    write_atomically(readme, BLOCK.sub(lambda _: readme_block(), text))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="make home URL=…", description=__doc__.splitlines()[0])
    parser.add_argument("address", help="https://github.com/ACCOUNT/NAME; empty takes it away")
    address = parser.parse_args(arguments).address.strip()
    set_address(address)
    if not address:
        print("The course has no address: no badges, no launch buttons, nothing to install from.")
        return 0
    tag = project.tag()
    print(
        f"The course's address is {address}, at the tag {tag}. Commit the changes, then\n"
        f"  git tag {tag}\n  git push {address} HEAD {tag}\n"
        "Until the tag is there, badges and set-up cells lead nowhere."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
