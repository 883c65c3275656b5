"""A bundle: the folder that `export` writes and that a service reads.

Besides the encoder in several forms it holds a linear head and some training images with their
features, and bundle.json, its manifest, with the SHA-256 of every file. Reading one needs numpy,
safetensors and onnxruntime but not torch, so that a service starts in a second and stays small.

N images, D features, C classes, M training images kept in the bundle.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = "replearn.bundle/1"
MANIFEST = "bundle.json"
INDEX = "index.safetensors"  # the linear head, and training images with their features
MODELS = {"fp32": "encoder.onnx", "int8": "encoder.int8.onnx"}
TORCH_PROGRAM = "encoder.pt2"
FILES = (  # besides the manifest
    "encoder.safetensors",
    "encoder.json",
    TORCH_PROGRAM,
    *MODELS.values(),
    INDEX,
)
MOST_POINTS_LOST = 2  # of accuracy, with which the INT8 form is still served by default
BATCH = 256  # images that go through the network at a time


@dataclass(frozen=True, eq=False)  # arrays do not compare to one bool
class Bundle:
    """An encoder ready to use, its linear head and some training images to compare with.

    The logits of the head are ``h @ weight.T + bias``; ``features @ h / |h|`` are cosines.

    Attributes:
        embed: From uint8 images (N, 3, side, side) to h, float32 (N, D), which is not normalized.
            Many threads may call it at a time.
        class_names: C names.
        weight: Of the head, float32 (C, D).
        bias: Of the head, float32 (C,).
        features: Of the training images, float32 (M, D), each of length 1.
        labels: Of the training images, int64 (M,).
        images: The training images, uint8 (M, 3, side, side).
        side: Height and width of an image, in pixels.
        card: What is known about the encoder, as `export` was told.
        precision: The form of the encoder that `embed` runs, "int8" or "fp32".
    """

    embed: Callable[[np.ndarray], np.ndarray]
    class_names: tuple[str, ...]
    weight: np.ndarray
    bias: np.ndarray
    features: np.ndarray
    labels: np.ndarray
    images: np.ndarray
    side: int
    card: dict[str, Any]
    precision: str = "int8"


def open_bundle(folder: str | Path, *, precision: str | None = None, threads: int = 1) -> Bundle:
    """Open a bundle, after checking every file of it.

    Args:
        folder: Where `export` wrote it.
        precision: The form of the encoder, "int8" or "fp32"; None for the one that `export`
            chose: "int8" unless it was measured to lose more than 2 points of accuracy.
        threads: CPU threads of one call of `embed`.

    Returns:
        The encoder, its head and the training images.

    Raises:
        ValueError: The bundle is damaged, incomplete or something else, or onnxruntime is not
            installed.
    """
    if precision is not None and precision not in MODELS:
        raise ValueError(f"precision: expected {' or '.join(MODELS)}, found {precision!r}")
    if not isinstance(threads, int) or threads < 1:
        raise ValueError(f"threads: expected a whole number of 1 or more, found {threads!r}")
    folder = _complete_folder(Path(folder).expanduser())
    manifest = read_manifest(folder)
    precision = precision or default_precision(manifest.get("measured"))[0]

    used = {}
    for name in FILES:  # the others are checked as well: a damaged bundle should not go unseen
        content = _read_checked(folder / name, manifest["files"][name])
        if name in (MODELS[precision], INDEX):
            used[name] = content

    side = manifest["side"]
    embed = embedder(used[MODELS[precision]], side, manifest["feature_dim"], threads)
    index = _read_index(folder / INDEX, used[INDEX], manifest)
    return Bundle(
        embed=embed,
        class_names=tuple(manifest["class_names"]),
        weight=index["head_weight"],
        bias=index["head_bias"],
        features=index["features"],
        labels=index["labels"],
        images=index["images"],
        side=side,
        card=manifest["card"],
        precision=precision,
    )


def default_precision(measured: dict[str, Any] | None) -> tuple[str, str]:
    """Return in which form a bundle is served unless somebody chooses, and why.

    Args:
        measured: From `replearn.serve.measure.measure_forms`, or None.

    Returns:
        "int8" or "fp32", and the reason in a few words.

    Example:
        >>> rows = {"INT8 ONNX": {"points": -67.0}}
        >>> default_precision({"rows": rows})
        ('fp32', 'INT8 loses 67.0 points of accuracy, more than 2')
    """
    if measured is None:
        return "int8", "the export measured nothing"
    points = measured["rows"]["INT8 ONNX"]["points"]
    if points < -MOST_POINTS_LOST:
        return "fp32", f"INT8 loses {-points:.1f} points of accuracy, more than {MOST_POINTS_LOST}"
    return "int8", f"{points:+.1f} points of accuracy"


def previous_folder(folder: Path) -> Path:
    """Return where the old bundle lies while `export` puts a new one in its place.

    Args:
        folder: The bundle's own folder.

    Returns:
        A hidden folder beside it.

    Example:
        >>> previous_folder(Path("runs/bundle")).name
        '.bundle.previous'
    """
    return folder.with_name(f".{folder.name}.previous")


def digest(manifest: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest, which is stored in the manifest itself.

    Args:
        manifest: With or without its entry "sha256", which does not count.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> digest({"side": 32}) == digest({"side": 32, "sha256": "anything"})
        True
    """
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the bundle.json of a bundle.

    Args:
        folder: The bundle's folder.

    Returns:
        What it says.

    Raises:
        ValueError: It is missing, damaged, changed afterwards, or of another format.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(
            f"{folder}: expected a bundle, found no {MANIFEST} in it; make one with "
            "python -m replearn export ENCODER FOLDER"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{path}: expected JSON, found it damaged ({error}); export again"
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(
            f"{path}: expected format {FORMAT}, found another; it is not a bundle, or one of "
            "another version: export again"
        )
    if manifest.get("sha256") != digest(manifest) or set(manifest["files"]) != set(FILES):
        raise ValueError(f"{path}: changed after it was written, its SHA-256 differs; export again")
    return manifest


def embedder(
    model: bytes, side: int, feature_dim: int, threads: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function `embed` of a bundle.

    Args:
        model: An ONNX file, whose input "images" is float32 in [0, 1], (N, 3, side, side).
        side: Height and width of an image, in pixels.
        feature_dim: D, which the network has to give.
        threads: CPU threads of one call.

    Returns:
        A function from uint8 images (N, 3, side, side) to h, float32 (N, D).

    Raises:
        ValueError: onnxruntime is not installed, or the network gives another D.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(
            'onnxruntime: expected it to be installed; run pip install "replearn[serve]"'
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A thread that waits for work would keep its core busy; this leaves the core to others.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def embed(images: np.ndarray) -> np.ndarray:
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != (3, side, side) or len(images) == 0:
            raise ValueError(
                f"images: expected uint8 (N, 3, {side}, {side}), "
                f"found {images.dtype} {images.shape}"
            )
        features = []
        for start in range(0, len(images), BATCH):
            x = images[start : start + BATCH].astype(np.float32) / 255
            features.append(session.run(None, {"images": x})[0])
        return np.concatenate(features)

    found = embed(np.zeros((1, 3, side, side), np.uint8)).shape
    if found != (1, feature_dim):
        raise ValueError(
            f"encoder: expected features of shape (1, {feature_dim}) for a picture, "
            f"found {found}; export again"
        )
    return embed


def _complete_folder(folder: Path) -> Path:
    """Return the folder, or the old bundle if an export was killed while it swapped the two."""
    previous = previous_folder(folder)
    if previous.exists() and not folder.exists():
        return previous
    return folder


def _read_checked(path: Path, sha256: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{path}: missing or not readable ({error.strerror}); export again, or copy the whole "
            "folder"
        ) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(
            f"{path}: damaged, its SHA-256 is not the one in {MANIFEST}; export again, or copy it "
            "anew"
        )
    return content


def _read_index(path: Path, content: bytes, manifest: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the arrays of the index by name; what was stored as float16 becomes float32."""
    from safetensors.numpy import load

    index = load(content)
    classes = len(manifest["class_names"])
    dim = manifest["feature_dim"]
    side = manifest["side"]
    kept = len(index["labels"])
    expected = {
        "head_weight": (classes, dim),
        "head_bias": (classes,),
        "features": (kept, dim),
        "labels": (kept,),
        "images": (kept, 3, side, side),
    }
    found = {name: array.shape for name, array in index.items()}
    if found != expected:
        raise ValueError(f"{path}: expected shapes {expected}, found {found}; export again")
    for name, array in index.items():
        if array.dtype == np.float16:
            index[name] = array.astype(np.float32)
    return index
