"""The encoders that have a name: small ones in the package, large ones in a release of the course.

A small encoder lies in `checkpoints/`, weights and card. Of a large one only the card is there, in
`checkpoints/released/`: its weights are too large for a repository. They are looked for in the data
folder, and otherwise fetched from the release of the course's home that the card names. This module
loads no PyTorch, so that the service can know the names, too.
"""

import importlib.metadata
import json
import re
from pathlib import Path
from typing import Any

from replearn._folders import cache_folder

SHIPPED = Path(__file__).parent / "checkpoints"
RELEASED = SHIPPED / "released"
REPOSITORY = re.compile(
    r'^\[project\.urls\]\n(?:(?!\[).*\n)*?Repository = "([^"\n]+)"', re.MULTILINE
)


def names() -> list[str]:
    """Return the names of all encoders: of those in the package, then of those in a release."""
    return [path.stem for folder in (SHIPPED, RELEASED) for path in sorted(folder.glob("*.json"))]


def sha256(name: str) -> str:
    """Return the SHA-256 of an encoder's weights, as its card says it."""
    in_package = SHIPPED / f"{name}.json"
    card = in_package if in_package.exists() else RELEASED / f"{name}.json"
    return json.loads(card.read_text("utf-8"))["sha256"]


def is_released(stem: Path) -> bool:
    """Return whether this path without a suffix is that of a released encoder's card."""
    return stem.parent == RELEASED


def released_weights(name: str) -> Path:
    """Return where the weights of a released encoder are looked for; they need not be there."""
    return cache_folder() / f"{name}.safetensors"


def fetch(name: str) -> Path:
    """Fetch the weights of a released encoder, unless they are in the data folder and whole.

    Args:
        name: Of the encoder.

    Returns:
        The path of the weights, which have the SHA-256 of the card.

    Raises:
        OSError: They are not there, and there is nowhere to fetch them from, or it does not serve.
            The message says which command trains an equal encoder.
    """
    from replearn.data import download

    card = json.loads((RELEASED / f"{name}.json").read_text("utf-8"))
    path = released_weights(name)
    advice = (
        f"train one like it with: {card['command']}, and load it by its path, or copy a whole "
        f"{path.name} into that folder"
    )
    base = release_address(card)
    if base is None:
        return _whole(path, card, advice)
    return download.download_file(
        path.parent,
        path.name,
        size=card["bytes"],
        sha256=card["sha256"],
        base=base,
        advice=f"{advice[0].upper()}{advice[1:]}.",
    )


def _whole(path: Path, card: dict[str, Any], advice: str) -> Path:
    """Return the path of weights that are whole, or raise with the advice."""
    from replearn.data import download

    if download.is_whole(path, card["sha256"]):
        return path
    state = "is damaged" if path.exists() else "is missing"
    raise OSError(
        f"{path.name} {state} in {path.parent}, and this course has no address on the web that it "
        f"could be fetched from; {advice}"
    )


def release_address(card: dict[str, Any]) -> str | None:
    """Return where the files of the release are that a card names, or None without a home.

    The path is that of GitHub, which Gitea and Forgejo have, too. The tag is the card's own and not
    that of the present version: a file that was released once is found by every later version.

    Args:
        card: Of a released encoder.
    """
    home = repository()
    return None if home is None else f"{home}/releases/download/{card['release']}"


def repository() -> str | None:
    """Return the address of the course's home, or None if it has none.

    In a checkout it is the one in pyproject.toml, where `make home` writes it; in an installed
    package the one in the metadata, where pip has written it.
    """
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    text = pyproject.read_text("utf-8") if pyproject.is_file() else ""
    if '\nname = "replearn"\n' in text:
        found = REPOSITORY.search(text)
        return found[1].rstrip("/") if found else None
    try:
        urls = importlib.metadata.metadata("replearn").get_all("Project-URL") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for url in urls:
        label, _, address = url.partition(", ")
        if label == "Repository":
            return address.rstrip("/")
    return None
