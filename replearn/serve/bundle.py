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

from replearn import _schema

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
FORM = _schema.Record(  # of the manifest, as far as it is read
    needed={
        "sha256": _schema.SHA256,
        "class_names": _schema.Names(),
        "side": _schema.Whole(1, 4096),
        "feature_dim": _schema.Whole(1, 1_000_000),
        "files": _schema.Record(needed=dict.fromkeys(FILES, _schema.SHA256)),
        "card": _schema.Record(
            optional={
                "architecture": _schema.Row(
                    (_schema.Text(), _schema.Whole(1, 10**9)), "a pair of network and width"
                )
            }
        ),
    },
    optional={
        "measured": _schema.Record(
            {
                "rows": _schema.Record(
                    {"INT8 ONNX": _schema.Record({"points": _schema.Number(-100, 100)})}
                )
            }
        ),
        "precision": _schema.Choice(tuple(MODELS)),
        "precision_reason": _schema.Text(),
        "versions": _schema.Record(),
    },
)
LENGTH_TOLERANCE = 0.01  # of the features in the index, which are stored as float16


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
        ValueError: It is missing, damaged, changed afterwards, or of another format or form.
    """
    path = _complete_folder(folder) / MANIFEST
    try:
        manifest = _schema.parse(path.read_bytes())
    except OSError as error:
        raise ValueError(
            f"{folder}: expected a bundle, found no {MANIFEST} in it; make one with "
            "python -m replearn export ENCODER FOLDER"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{path}: expected JSON, found it damaged ({str(error)[:120]}); export again"
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(
            f"{path}: expected format {FORMAT}, found another; it is not a bundle, or one of "
            "another version: export again"
        )
    try:
        is_unchanged = manifest.get("sha256") == digest(manifest)
    except (RecursionError, UnicodeEncodeError):  # JSON can spell half a character
        is_unchanged = False
    if not is_unchanged:
        raise ValueError(f"{path}: changed after it was written, its SHA-256 differs; export again")
    _schema.check(path, manifest, FORM, remedy=f"this is no manifest of {FORMAT}: export again")
    return manifest


def embedder(
    model: bytes, side: int, feature_dim: int, threads: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function `embed` of a bundle.

    Args:
        model: An ONNX file, whose input "images" is float32 in [0, 1], (N, 3, side, side). It has
            to hold its weights itself: other files would not have been checked.
        side: Height and width of an image, in pixels.
        feature_dim: D, which the network has to give.
        threads: CPU threads of one call.

    Returns:
        A function from uint8 images (N, 3, side, side) to h, float32 (N, D).

    Raises:
        ValueError: onnxruntime is not installed, the file is no network that it can run, its
            weights are elsewhere, or it gives something else than D finite features.
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
    options.log_severity_level = 4  # what is wrong is said by the error
    if _reads_other_files(model):
        raise ValueError(
            "encoder: expected an ONNX file that holds its weights itself, found one that reads "
            "other files; export again"
        )
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has errors of its own
        raise ValueError(
            f"encoder: expected an ONNX file that onnxruntime can run, found {_first_line(error)}; "
            "export again"
        ) from error

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

    _try_out(embed, side, feature_dim)
    return embed


def _try_out(embed: Callable[[np.ndarray], np.ndarray], side: int, feature_dim: int) -> None:
    """Raise unless a network gives the features that its manifest promises."""
    black = np.zeros((1, 3, side, side), np.uint8)
    try:
        features = np.asarray(embed(black))
    except Exception as error:
        raise ValueError(
            f'encoder: expected a network of "images", float32 (N, 3, {side}, {side}), found '
            f"{_first_line(error)}; export again"
        ) from error
    if features.shape != (1, feature_dim) or features.dtype != np.float32:
        raise ValueError(
            f"encoder: expected features of shape (1, {feature_dim}) and float32 for a picture, "
            f"found {features.shape} and {features.dtype}; export again"
        )
    if not np.isfinite(features).all():
        raise ValueError("encoder: expected finite features, found NaN or infinity; export again")


def _reads_other_files(model: bytes) -> bool:
    """Return whether an ONNX file has weights in other files ("external data")."""
    # Such a tensor has to spell this key. An honest name may contain it too: then onnx looks.
    if b"location" not in model:
        return False
    import onnx

    try:
        return _has_external_data(onnx.ModelProto.FromString(model))
    except Exception:  # no ONNX file: onnxruntime says so
        return False


def _has_external_data(message: Any) -> bool:
    """Return whether a protobuf message holds, at any depth, a tensor whose data are elsewhere."""
    if message.DESCRIPTOR.name == "TensorProto":
        return message.data_location == message.EXTERNAL
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        parts = [value] if hasattr(value, "ListFields") else value
        if any(_has_external_data(part) for part in parts):
            return True
    return False


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:120]}"


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

    try:
        index = load(content)
    except Exception as error:  # safetensors has errors of its own
        raise ValueError(
            f"{path}: expected safetensors, found {_first_line(error)}; export again"
        ) from error
    classes = len(manifest["class_names"])
    dim = manifest["feature_dim"]
    side = manifest["side"]
    labels = index.get("labels", np.empty(0))
    kept = len(labels) if labels.ndim else 0
    expected = {
        "head_weight": (classes, dim),
        "head_bias": (classes,),
        "features": (kept, dim),
        "labels": (kept,),
        "images": (kept, 3, side, side),
    }
    found = {name: array.shape for name, array in index.items()}
    if found != expected:
        raise ValueError(
            f"{path}: expected shapes {expected}, found {str(found)[:400]}; export again"
        )
    fault = _fault_of_index(index, classes)
    if fault is not None:
        raise ValueError(f"{path}: {fault}; export again")
    for name in ("head_weight", "head_bias", "features"):
        index[name] = index[name].astype(np.float32)
    index["labels"] = index["labels"].astype(np.int64)
    return index


def _fault_of_index(index: dict[str, np.ndarray], classes: int) -> str | None:
    """Return "expected …, found …" if the arrays, whose shapes are right, hold wrong values."""
    for name in ("head_weight", "head_bias", "features"):
        array = index[name]
        if array.dtype not in (np.float16, np.float32):
            return f"{name}: expected float16 or float32, found {array.dtype}"
        if not np.isfinite(array).all():
            return f"{name}: expected finite values, found NaN or infinity"
    if index["images"].dtype != np.uint8:
        return f"images: expected uint8, found {index['images'].dtype}"
    labels = index["labels"]
    if labels.dtype.kind not in "iu":
        return f"labels: expected whole numbers, found {labels.dtype}"
    if len(labels) == 0:
        return "labels: expected one training picture or more, found none"
    if not 0 <= labels.min() <= labels.max() < classes:
        return (
            f"labels: expected numbers from 0 to {classes - 1}, one for each of {classes} class "
            f"names, found {labels.min()} to {labels.max()}"
        )
    lengths = np.linalg.norm(index["features"].astype(np.float64), axis=1)
    is_right = (np.abs(lengths - 1) <= LENGTH_TOLERANCE) | (lengths == 0)  # 0: a dead feature
    if not is_right.all():
        return f"features: expected rows of length 1, found one of {lengths[~is_right][0]:g}"
    return None
