"""Carry the original CIFAR-10 to a machine without a network, in parts, without loss.

Run: python -m scripts.carry pack FOLDER          (two minutes; 12 parts of 8 to 9 MB)
     python -m scripts.carry unpack FOLDER TARGET (there; then REPLEARN_DATA=TARGET)
A part is a mosaic of 5,000 tiles of 32 x 32 pixels, as lossless WebP: 1,700 bytes an image, where
the raw pixels take 3,072. `parts.json` beside them holds the labels, the SHA-256 of each part, and
that of the arrays. The parts may arrive in several goes, from several folders: what is missing is
named. TARGET gets cifar10.npz, written whole or not at all, once all is there and right.
"""

import argparse
import base64
import hashlib
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from replearn.data.cifar10 import CACHE_FILE, CLASS_NAMES
from replearn.files import replacing, write_atomically, write_json

TILES = 5000  # in a part
COLUMNS = 50  # of tiles in a mosaic
SIDE = 32
MANIFEST = "parts.json"


def mosaic(images: np.ndarray) -> np.ndarray:
    """Lay images side by side.

    Args:
        images: uint8 (N, 3, 32, 32).

    Returns:
        uint8 (H, W, 3); black tiles fill up the last row.
    """
    rows = -(-len(images) // COLUMNS)
    tiles = np.zeros((rows * COLUMNS, 3, SIDE, SIDE), np.uint8)
    tiles[: len(images)] = images
    tiles = tiles.reshape(rows, COLUMNS, 3, SIDE, SIDE)
    return tiles.transpose(0, 3, 1, 4, 2).reshape(rows * SIDE, COLUMNS * SIDE, 3)


def tiles_of(picture: np.ndarray, count: int) -> np.ndarray:
    """Return the first images of a mosaic; the inverse of `mosaic`."""
    rows = picture.shape[0] // SIDE
    tiles = picture.reshape(rows, SIDE, COLUMNS, SIDE, 3).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(tiles.reshape(-1, 3, SIDE, SIDE)[:count])


def sha256(content: bytes | np.ndarray) -> str:
    """Return the SHA-256 of bytes, or of an array's bytes."""
    return hashlib.sha256(content).hexdigest()


def pack(archive: Path, folder: Path, tiles: int = TILES) -> dict[str, Any]:
    """Write the parts of a data set and their manifest.

    Args:
        archive: cifar10.npz, as the cache folder keeps it.
        folder: Where the parts go.
        tiles: Images in a part.

    Returns:
        The manifest.
    """
    from PIL import Image

    with np.load(archive, allow_pickle=False) as stored:
        images, labels, part = stored["images"], stored["labels"], stored["part"]
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for first in range(0, len(images), tiles):
        some = images[first : first + tiles]
        content = io.BytesIO()
        Image.fromarray(mosaic(some)).save(content, "WEBP", lossless=True, quality=100, method=4)
        name = f"cifar10_{first:05d}.webp"
        write_atomically(folder / name, content.getvalue())
        parts.append({"name": name, "images": len(some), "sha256": sha256(content.getvalue())})
        print(f"{name}: {len(content.getvalue()) / 1e6:.1f} MB", flush=True)
    labels = labels.astype(np.uint8)
    part = part.astype(np.uint8)
    manifest = {
        "images": len(images),
        "images_sha256": sha256(np.ascontiguousarray(images)),
        "labels": base64.b64encode(labels.tobytes()).decode(),
        "labels_sha256": sha256(labels),
        "part": base64.b64encode(part.tobytes()).decode(),
        "part_sha256": sha256(part),
        "parts": parts,
    }
    write_json(folder / MANIFEST, manifest)
    return manifest


def unpack(folders: Sequence[Path], target: Path) -> Path:
    """Write cifar10.npz from its parts; nothing is done if it is there already.

    Args:
        folders: Where the parts lie; they may lie in several.
        target: The folder for cifar10.npz.

    Returns:
        The file.

    Raises:
        ValueError: A part is missing or damaged, or what comes out is not what was packed.
    """
    from PIL import Image

    path = target / CACHE_FILE
    manifest = json.loads(_found(MANIFEST, folders).read_text("utf-8"))
    if path.exists() and _is_right(path, manifest):
        return path
    images = []
    for part in manifest["parts"]:
        source = _found(part["name"], folders)
        content = source.read_bytes()
        if sha256(content) != part["sha256"]:
            raise ValueError(
                f"{source}: expected SHA-256 {part['sha256']}, found another; send it again"
            )
        with Image.open(io.BytesIO(content)) as picture:
            images.append(tiles_of(np.asarray(picture.convert("RGB")), part["images"]))
    arrays = {
        "images": np.concatenate(images),
        "labels": np.frombuffer(base64.b64decode(manifest["labels"]), np.uint8),
        "part": np.frombuffer(base64.b64decode(manifest["part"]), np.uint8),
    }
    for name, array in arrays.items():
        if sha256(array) != manifest[f"{name}_sha256"]:
            raise ValueError(
                f"{name}: expected the SHA-256 of {MANIFEST}, found another; pack again"
            )
    target.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        np.savez(
            file,
            images=arrays["images"],
            labels=arrays["labels"].astype(np.int64),
            part=arrays["part"].astype(np.int64),
            names=CLASS_NAMES,
            key="",
        )
    return path


def _found(name: str, folders: Sequence[Path]) -> Path:
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    raise ValueError(
        f"{name}: expected in {', '.join(map(str, folders))}, not found; carry it there, then the "
        "same command goes on"
    )


def _is_right(path: Path, manifest: dict[str, Any]) -> bool:
    """Whether a file holds the images of a manifest."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return sha256(np.ascontiguousarray(stored["images"])) == manifest["images_sha256"]
    except Exception:  # a damaged file can raise anything
        return False


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="write the parts")
    packing.add_argument("folder", type=Path)
    packing.add_argument("--archive", type=Path, help="default: cifar10.npz of $REPLEARN_DATA")
    unpacking = commands.add_parser("unpack", help="write cifar10.npz")
    unpacking.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    unpacking.add_argument("target", type=Path)
    args = parser.parse_args(arguments)
    try:
        if args.command == "pack":
            from replearn.data import cache_folder

            manifest = pack(args.archive or cache_folder() / CACHE_FILE, args.folder)
            print(f"{manifest['images']:,} images in {len(manifest['parts'])} parts")
        else:
            print(unpack(args.folders, args.target))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
