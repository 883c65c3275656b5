"""From an encoder to a bundle: weights, torch.export, ONNX, INT8, a linear head and an index.

`replearn.serve.bundle` reads what is written here. N training images, D features, C classes.
"""

import copy
import hashlib
import importlib.metadata
import io
import json
import logging
import os
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from replearn import files, models
from replearn.data import ImageSet
from replearn.probe import LinearProbe, extract_features
from replearn.serve import bundle
from replearn.serve.measure import measure_forms

__all__ = ["export"]

MOST_KEPT = 5_000  # images in the index
CALIBRATION = 512  # images that the ranges of INT8 come from
TOLERANCE = 1e-3  # of ONNX beside torch, as a fraction of the largest feature
PARTS = ("features", "ONNX", "INT8", "head", "measuring")  # what `export` tells of
TRIED = 128  # images by which the time of an export is estimated
# Rough guesses for small_cnn of width 32 on two cores; nobody measured them.
ONNX_SECONDS = 3.0
INT8_PASSES = 4
HEAD_SECONDS = 3.0
MEASURING_PASSES = 4
ROUNDS = 300  # of single images that are timed
PACKAGES = ("replearn", "torch", "onnx", "onnxruntime")  # whose versions a bundle records


def export(
    encoder: nn.Module,
    folder: str | Path,
    train: ImageSet,
    *,
    test: ImageSet | None = None,
    side: int = 32,
    card: dict[str, Any] | None = None,
    head: tuple[torch.Tensor, torch.Tensor] | None = None,
    callback: Callable[[str], Any] | None = None,
) -> dict[str, Any]:
    """Write a bundle, whole or not at all.

    A bundle that is in the folder already is replaced once the new one is complete. The encoder is
    left as it is::

        train = data.load("shapes", size=2000)
        export(models.load("shapes_simclr"), "runs/shapes/bundle", train)

    Args:
        encoder: A network from float images (N, 3, side, side) in [0, 1] to h (N, D).
        folder: A new folder, an empty one, or a bundle.
        train: Images of every class. The linear head is fitted to all of them, the ranges of INT8
            come from 512, and at most 5,000 are kept for nearest neighbors.
        test: Images to measure the bundle's forms on, see `replearn.serve.measure.measure_forms`.
        side: Height and width of an image, in pixels.
        card: What others should know about the encoder; anything that JSON can hold.
        head: Weight (C, D) and bias (C,) of a linear head for the classes of `train`, such as that
            of a fine-tuning; None to fit one.
        callback: Called with the name of each part that is done, one of `PARTS`.

    Returns:
        What bundle.json says; with `test` it has the entries "measured", "precision" (the form
        that is served by default, fp32 where INT8 loses more than 2 points) and
        "precision_reason".

    Raises:
        ValueError: The images do not fit, the card is not JSON, the encoder cannot be exported,
            the folder has something else in it, or a package is not installed.
        OSError: The folder cannot be written to.
    """
    folder = Path(folder).expanduser().resolve()
    card = dict(card or {})
    for name in ("path", "sha256", "head"):  # about the files that the encoder was loaded from
        card.pop(name, None)
    _check_input(train, test, side, card)
    _check_packages()

    partial = folder.with_name(f".{folder.name}.partial")
    with files.explained(folder.parent, "write the bundle"):
        _recover(folder)
        _check_folder(folder)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            manifest = _write(encoder, partial, train, side, card, head, callback or _tell_nobody)
            if test is not None:
                measured = measure_forms(partial, test)
                precision, reason = bundle.default_precision(measured)
                if precision != "int8":
                    warnings.warn(f"{folder}: {reason}: fp32 is the default", stacklevel=2)
                said = {"precision": precision, "precision_reason": reason}
                manifest = _write_manifest(partial, {**manifest, "measured": measured, **said})
                if callback is not None:
                    callback("measuring")
            _publish(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _tell_nobody(part: str) -> None:
    """Stand for a callback where there is none."""


def seconds_of_parts(encoder: nn.Module, train: ImageSet, test: ImageSet) -> dict[str, float]:
    """Estimate how long the parts of an export take, from a few images.

    Args:
        encoder: As `export` gets it.
        train: N images.
        test: M images.

    Returns:
        {name of the part: seconds}, in the order of `PARTS`.
    """
    tried = train.images[:TRIED]
    extract_features(encoder, tried[:2])  # kernels are chosen, memory is asked for
    began = time.monotonic()
    extract_features(encoder, tried)
    image_seconds = (time.monotonic() - began) / len(tried)
    return {
        "features": len(train) * image_seconds,
        "ONNX": ONNX_SECONDS,
        "INT8": INT8_PASSES * min(len(train), CALIBRATION) * image_seconds,
        "head": HEAD_SECONDS,
        "measuring": MEASURING_PASSES * (len(test) + ROUNDS) * image_seconds,
    }


# --- checks ---------------------------------------------------------------------------------------


def _check_input(train: ImageSet, test: ImageSet | None, side: int, card: dict[str, Any]) -> None:
    dtype = train.images.dtype
    shape = tuple(train.images.shape[1:])
    if dtype != torch.uint8 or shape != (3, side, side):
        raise ValueError(
            f"train: expected uint8 pictures (N, 3, {side}, {side}), found {dtype} {shape}"
        )
    if card.get("side", side) != side:
        raise ValueError(
            f"side: expected {card['side']}, the size of the pictures that the encoder was trained "
            f"on, found {side}"
        )
    if test is not None:
        test.require_labels("test")
    present = set(train.require_labels("train").unique().tolist())
    for label, name in enumerate(train.class_names):
        if label not in present:
            raise ValueError(f"train: expected pictures of every class, found none of {name!r}")
    try:
        json.dumps(card)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"card: expected what JSON can hold, found something else ({error})"
        ) from error


def check_place(folder: str | Path) -> None:
    """Raise unless a bundle can be written into a folder; nothing is left there.

    Args:
        folder: Where `export` shall write it.

    Raises:
        ValueError: The folder has something else in it, or a package is not installed.
        OSError: It cannot be written to.
    """
    _check_packages()
    folder = Path(folder).expanduser().resolve()
    _check_folder(folder)
    there = next(parent for parent in folder.parents if parent.exists())
    files.writable_folder(there)


def _check_packages() -> None:
    try:
        import onnx  # noqa: F401  (torch.onnx.export and the quantizer need it)
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f'{error.name}: expected it to be installed; run pip install "replearn[serve]"'
        ) from error


def _check_folder(folder: Path) -> None:
    """Raise unless the folder is absent, empty or a bundle: nobody's files are to be lost."""
    if not folder.name or (folder.exists() and not folder.is_dir()):
        found = "a file" if folder.name else "the root of the disk"
        raise ValueError(
            f"{folder}: expected a folder for the bundle, found {found}; choose another path"
        )
    if not folder.exists():
        return
    known = {*bundle.FILES, bundle.MANIFEST}
    strangers = sorted(path.name for path in folder.iterdir() if path.name not in known)
    if strangers:
        raise ValueError(
            f"{folder}: expected a new folder, an empty one or a bundle, found {strangers[0]} in "
            "it; choose another folder"
        )


# --- what is in a bundle --------------------------------------------------------------------------


def _write(
    encoder: nn.Module,
    partial: Path,
    train: ImageSet,
    side: int,
    card: dict[str, Any],
    head: tuple[torch.Tensor, torch.Tensor] | None,
    tell: Callable[[str], Any],
) -> dict[str, Any]:
    """Write all files of a bundle; return its manifest."""
    parameters = list(encoder.parameters())
    device = parameters[0].device if parameters else torch.device("cpu")
    # Here, where it takes seconds on a GPU. `_compare` makes sure that ONNX gives the same.
    h = extract_features(encoder, train.images.to(device)).cpu()  # (N, D)
    tell("features")

    card = {"architecture": _architecture(encoder), **card, "side": side}
    if head is not None:
        _check_head(head, len(train.class_names), h.shape[1])
    encoder = copy.deepcopy(encoder).cpu().float().eval().requires_grad_(False)
    models.save(encoder, partial / "encoder", **card)
    _write_programs(encoder, partial, side)
    tell("ONNX")
    _write_int8(partial, train.images)
    tell("INT8")
    _write_index(partial, train, h, head)
    tell("head")
    _compare(encoder, partial, train.images[:7].cpu())

    hashes = {}
    for name in bundle.FILES:
        hashes[name] = hashlib.sha256((partial / name).read_bytes()).hexdigest()
    return _write_manifest(
        partial,
        {
            "format": bundle.FORMAT,
            "class_names": list(train.class_names),
            "side": side,
            "feature_dim": h.shape[1],
            "files": hashes,
            "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
            "card": card,
        },
    )


def _architecture(encoder: nn.Module) -> list[str | int]:
    """Return the architecture for a card that has none: a name, and the first layer's channels.

    Where `models.build_encoder` made the encoder, these are its arguments.
    """
    net = getattr(encoder, "net", None)
    if hasattr(encoder, "block4"):
        name = "small_cnn"
    elif hasattr(net, "pretrained_cfg"):
        name = f"timm:{net.pretrained_cfg.get('architecture')}"
    elif type(net).__name__ == "NarrowResNet":
        name = "resnet18"
    else:
        name = type(encoder).__name__
    convolutions = [module for module in encoder.modules() if isinstance(module, nn.Conv2d)]
    width = convolutions[0].out_channels if convolutions else 1
    return [name, width]


def _write_programs(encoder: nn.Module, partial: Path, side: int) -> None:
    """Write the encoder as a program of torch.export and as ONNX, for any number of images."""
    example = torch.rand(2, 3, side, side)
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            batch = torch.export.Dim("batch")
            program = torch.export.export(encoder, (example,), dynamic_shapes=({0: batch},))
            torch.export.save(program, content)
            # The exporter by TorchScript (dynamo=False) needs onnx alone, takes 0.2 s where the
            # newer one takes 4 s, and folds BatchNorm into the convolutions, which the quantizer
            # asks for.
            torch.onnx.export(
                encoder,
                (example,),
                str(partial / bundle.MODELS["fp32"]),
                dynamo=False,
                opset_version=17,
                input_names=["images"],
                output_names=["features"],
                dynamic_axes={"images": {0: "batch"}, "features": {0: "batch"}},
            )
        except OSError:
            raise
        except Exception as error:  # the exporters have many kinds of errors, of many lines each
            first_line = str(error).strip().splitlines()[0]
            raise ValueError(
                "encoder: expected a network that torch.export can record for any number of "
                f"pictures, found {type(error).__name__}: {first_line}"
            ) from error
    # torch writes to memory and Python to the disk: then a full disk is an OSError.
    (partial / bundle.TORCH_PROGRAM).write_bytes(content.getvalue())


class _CalibrationReader:
    """Gives the quantizer its images in batches: a CalibrationDataReader of onnxruntime.

    Args:
        images: uint8 (N, 3, side, side).
    """

    def __init__(self, images: torch.Tensor):
        self._batches = iter(images.split(32))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the inputs of the network, or None after the last batch."""
        batch = next(self._batches, None)
        if batch is None:
            return None
        return {"images": batch.float().numpy() / 255}


def _write_int8(partial: Path, images: torch.Tensor) -> None:
    """Quantize convolutions and matrix products; the rest, the features among it, stays fp32."""
    from onnxruntime import quantization

    chosen = _random_order(len(images), seed=0)[:CALIBRATION]
    calibration = images[chosen].cpu()
    disabled_before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it recommends a preparation that the graph does not need
    try:
        # Activations are unsigned: signed ones, the default, took 3 times as long in a ResNet-18
        # on x86. Weights have 7 bits (reduce_range): CPUs without VNNI add two products in 16
        # bits, which 8 bits overflow. Ranges are minimum and maximum: percentiles and entropy
        # agree as well with fp32 (benchmarks/export.py), but keep all activations of the 512
        # images in memory.
        quantization.quantize_static(
            str(partial / bundle.MODELS["fp32"]),
            str(partial / bundle.MODELS["int8"]),
            _CalibrationReader(calibration),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        )
    finally:
        logging.disable(disabled_before)


def _check_head(head: tuple[torch.Tensor, torch.Tensor], classes: int, dim: int) -> None:
    shapes = tuple(tuple(x.shape) for x in head)
    if shapes != ((classes, dim), (classes,)):
        raise ValueError(
            f"head: expected a weight ({classes}, {dim}) and a bias ({classes},), found {shapes}"
        )


def _write_index(
    partial: Path,
    train: ImageSet,
    h: torch.Tensor,
    head: tuple[torch.Tensor, torch.Tensor] | None,
) -> None:
    """Write the linear head, and some training images with their features, h (N, D)."""
    from safetensors.torch import save

    if head is None:
        # The probe standardizes, and folds that into its coefficients: they take h as it is.
        probe = LinearProbe().fit(h, train.labels.cpu())
        head = probe.coef_, probe.intercept_
    weight, bias = head
    chosen = _random_order(len(h), seed=1)[:MOST_KEPT]
    kept = train.subset(chosen).to("cpu")
    arrays = {
        "head_weight": weight.float().contiguous(),
        "head_bias": bias.float().contiguous(),
        "labels": kept.labels.long(),
        "features": nn.functional.normalize(h[chosen]).half(),
        "images": kept.images.contiguous(),
    }
    (partial / bundle.INDEX).write_bytes(save(arrays))


def _random_order(n: int, *, seed: int) -> torch.Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def _compare(encoder: nn.Module, partial: Path, images: torch.Tensor) -> None:
    """Raise unless ONNX gives the features that torch gives."""
    import onnxruntime

    x = images.float() / 255
    session = onnxruntime.InferenceSession(
        str(partial / bundle.MODELS["fp32"]), providers=["CPUExecutionProvider"]
    )
    expected = encoder(x)
    found = torch.from_numpy(session.run(None, {"images": x.numpy()})[0])
    is_same = False
    if found.shape == expected.shape:
        largest = max(1.0, expected.abs().max().item())
        is_same = (expected - found).abs().max().item() <= TOLERANCE * largest
    if not is_same:
        raise ValueError(
            "encoder: expected the same features from ONNX as from torch, found others; does it "
            "decide by the pictures' values or their number? ONNX records one way through it"
        )


def _write_manifest(partial: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Write bundle.json, and in it the SHA-256 of the rest of it; return what it says."""
    manifest = {**manifest, "sha256": bundle.digest(manifest)}
    text = json.dumps(manifest, indent=1) + "\n"
    (partial / bundle.MANIFEST).write_text(text, "utf-8")
    return manifest


# --- from the partial bundle to the folder --------------------------------------------------------


def _recover(folder: Path) -> None:
    """Put the old bundle back if an export was killed while it swapped the two."""
    previous = bundle.previous_folder(folder)
    if previous.exists() and not folder.exists():
        os.rename(previous, folder)


def _publish(partial: Path, folder: Path) -> None:
    """Put a complete bundle in place; at any moment `open_bundle` finds the old or the new one."""
    bundle.open_bundle(partial)
    for path in partial.iterdir():
        with open(path, "r+b") as file:
            os.fsync(file.fileno())
    previous = bundle.previous_folder(folder)
    if folder.exists():
        shutil.rmtree(previous, ignore_errors=True)
        os.rename(folder, previous)
    try:
        os.rename(partial, folder)
    except BaseException:
        if previous.exists():
            os.rename(previous, folder)
        raise
    shutil.rmtree(previous, ignore_errors=True)
