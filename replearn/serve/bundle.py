"""A bundle: the folder that `export` writes and a service reads. N pictures, D features, C classes, M pictures kept.

Needs numpy, safetensors and onnxruntime, never torch: a service starts in a second and stays small.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

FORMAT = "replearn.bundle/1"
ABOUT, INDEX = "bundle.json", "index.safetensors"
MODELS = {"fp32": "encoder.onnx", "int8": "encoder.int8.onnx"}
FILES = (
    "encoder.safetensors",
    "encoder.json",
    "encoder.pt2",
    *MODELS.values(),
    INDEX,
)  # besides bundle.json


class Bundle(NamedTuple):
    """An encoder ready to use, its linear head (logits = h @ weight.T + bias) and some pictures to compare with."""

    embed: Callable  # uint8 (N, 3, side, side) -> float32 h (N, D), not normalized; safe to call from many threads
    class_names: tuple[str, ...]
    weight: np.ndarray  # float32 (C, D)
    bias: np.ndarray  # float32 (C,)
    features: np.ndarray  # float32 (M, D), of length 1: features @ h / |h| are cosines
    labels: np.ndarray  # int64 (M,)
    images: np.ndarray  # uint8 (M, 3, side, side)
    side: int
    card: dict


def open_bundle(folder, *, precision="int8", threads=1):
    """Return the Bundle in a folder; precision: "int8" or "fp32"; threads: CPU threads of one call of `embed`.

    Raises ValueError for a damaged, foreign or incomplete bundle, or without onnxruntime."""
    if precision not in MODELS:
        raise ValueError(f"precision: expected {' or '.join(MODELS)}, found {precision!r}")
    if not isinstance(threads, int) or threads < 1:
        raise ValueError(f"threads: expected a whole number of 1 or more, found {threads!r}")
    folder = _whole(Path(folder).expanduser())
    about = read_about(folder)
    for name in FILES:
        content = _checked(
            folder / name, about["files"][name]
        )  # all are checked, one at a time in memory
        if name == INDEX:
            index = _index(folder, about, content)
        if name == MODELS[precision]:
            embed = _embed(content, about["side"], about["feature_dim"], threads)
    return Bundle(embed, tuple(about["class_names"]), *index, about["side"], about["card"])


def previous(folder):
    """Return where the bundle before lies while `export` puts a new one in its place."""
    return folder.with_name(f".{folder.name}.previous")


def digest(about):
    """Return the SHA-256 of what bundle.json says, but for the SHA-256 itself."""
    rest = {name: value for name, value in about.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_about(folder):
    """Return what bundle.json says; ValueError if it is missing, damaged or not ours."""
    try:
        about = json.loads((folder / ABOUT).read_text("utf-8"))
    except OSError as error:
        raise ValueError(
            f"{folder}: expected a bundle, found no {ABOUT} in it; make one with "
            "python -m replearn export ENCODER FOLDER"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{folder / ABOUT}: expected JSON, found it damaged ({error}); export again"
        ) from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ValueError(
            f"{folder / ABOUT}: expected format {FORMAT}, found another; it is not a bundle, or one of "
            "another version: export again"
        )
    if about.get("sha256") != digest(about) or set(about["files"]) != set(FILES):
        raise ValueError(
            f"{folder / ABOUT}: changed after it was written, its SHA-256 differs; export again"
        )
    return about


def _whole(folder):
    return folder if folder.exists() or not previous(folder).exists() else previous(folder)


def _checked(path, expected):
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{path}: missing or not readable ({error.strerror}); export again, or copy the whole "
            "folder"
        ) from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise ValueError(
            f"{path}: damaged, its SHA-256 is not the one in {ABOUT}; export again, or copy it anew"
        )
    return content


def _index(folder, about, content):
    from safetensors.numpy import load

    index, c, d, side = (
        load(content),
        len(about["class_names"]),
        about["feature_dim"],
        about["side"],
    )
    m = len(index["labels"])
    expected = dict(
        head_weight=(c, d), head_bias=(c,), features=(m, d), labels=(m,), images=(m, 3, side, side)
    )
    found = {name: x.shape for name, x in index.items()}
    if found != expected:
        raise ValueError(
            f"{folder / INDEX}: expected shapes {expected}, found {found}; export again"
        )
    names = ("head_weight", "head_bias", "features", "labels", "images")
    return [
        index[name].astype(np.float32) if index[name].dtype == np.float16 else index[name]
        for name in names
    ]


def _embed(model, side, dim, threads):
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(
            'onnxruntime: expected it to be installed; run pip install "replearn[serve]"'
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # a thread that waits leaves the CPU alone
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def embed(images):
        """Return h (N, D) float32 of pictures uint8 (N, 3, side, side)."""
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != (3, side, side) or not len(images):
            raise ValueError(
                f"images: expected uint8 (N, 3, {side}, {side}), found {images.dtype} {images.shape}"
            )
        parts = (images[i : i + 256].astype(np.float32) / 255 for i in range(0, len(images), 256))
        return np.concatenate([session.run(None, {"images": part})[0] for part in parts])

    if (shape := embed(np.zeros((1, 3, side, side), np.uint8)).shape) != (1, dim):
        raise ValueError(
            f"encoder: expected features of shape (1, {dim}) for a picture, found {shape}; export again"
        )
    return embed
