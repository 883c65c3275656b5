"""From an encoder to a bundle: weights, torch.export, ONNX, INT8, a linear head and pictures to compare with.

N pictures, D features, C classes. `replearn.serve.bundle` reads what is written here.
"""

import copy
import hashlib
import importlib.metadata
import io
import json
import logging
import os
import shutil
import warnings
from pathlib import Path

import torch
from torch import nn

from replearn import models
from replearn.pretrain.checkpoint import writing
from replearn.probe import LinearProbe, extract_features
from replearn.serve import bundle
from replearn.serve.measure import table

__all__ = ["export", "table"]
KEPT, CALIBRATION = 5_000, 512  # pictures in the index, pictures that INT8's ranges come from


def export(encoder, folder, train, *, test=None, side=32, card=None):
    """Write a bundle, whole or not at all, and return what its bundle.json says.

    encoder: maps float pictures (N, 3, side, side) in [0, 1] to h (N, D). train: ImageSet with pictures of every class;
    the linear head is fitted to all of them, INT8's ranges come from 512, at most 5,000 are kept for neighbors.
    test: ImageSet for `table`, which goes into bundle.json as "measured". card: a dict, what others should know.
    A bundle that is in the folder is replaced once the new one is complete. Raises: ValueError, OSError."""
    folder = Path(folder).expanduser().resolve()
    card = {
        key: value for key, value in (card or {}).items() if key not in ("path", "sha256")
    }  # of another file
    _check(train, side, card)
    part = folder.with_name(f".{folder.name}.partial")
    with writing(folder.parent, "write the bundle"):
        _recover(folder)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            about = _write(encoder, part, train, side, card)
            if test is not None:
                about = _write_about(part, about | {"measured": table(part, test)[0]})
            _publish(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return about


def _check(train, side, card):
    shape = tuple(train.images.shape[1:])
    if train.images.dtype != torch.uint8 or shape != (3, side, side):
        raise ValueError(
            f"train: expected uint8 pictures (N, 3, {side}, {side}), found {train.images.dtype} {shape}"
        )
    missing = sorted(set(range(len(train.class_names))) - set(train.labels.unique().tolist()))
    if missing:
        raise ValueError(
            f"train: expected pictures of every class, found none of {train.class_names[missing[0]]!r}"
        )
    try:
        json.dumps(card)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"card: expected what JSON can hold, found something else ({error})"
        ) from error
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f'{error.name}: expected it to be installed; run pip install "replearn[serve]"'
        ) from error


def _recover(folder):
    """Finish what a killed export left, and raise unless the folder is absent, empty or a bundle: no file is lost."""
    if bundle.previous(folder).exists() and not folder.exists():
        os.rename(bundle.previous(folder), folder)
    found = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if strangers := sorted(found - {*bundle.FILES, bundle.ABOUT}):
        raise ValueError(
            f"{folder}: expected a new folder, an empty one or a bundle, found {strangers[0]} in it; "
            "choose another folder"
        )


def _write(encoder, part, train, side, card):
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    h = extract_features(
        encoder, train.images.to(device)
    ).cpu()  # (N, D), in seconds on a GPU; ONNX gives the same
    card = {"architecture": _architecture(encoder), **card}
    encoder = copy.deepcopy(encoder).cpu().float().eval().requires_grad_(False)
    models.save(encoder, part / "encoder", **card)
    _write_models(encoder, part, side)
    _write_int8(part, train.images)
    _write_index(part, train, h)
    _compare(encoder, part, train.images[:7].cpu())
    names = ("replearn", "torch", "onnx", "onnxruntime")
    return _write_about(
        part,
        dict(
            format=bundle.FORMAT,
            class_names=list(train.class_names),
            side=side,
            feature_dim=h.shape[1],
            files={
                name: hashlib.sha256((part / name).read_bytes()).hexdigest()
                for name in bundle.FILES
            },
            versions={name: importlib.metadata.version(name) for name in names},
            card=card,
        ),
    )


def _architecture(encoder):
    first = next((m for m in encoder.modules() if isinstance(m, nn.Conv2d)), None)
    net = getattr(encoder, "net", None)
    kind = {"NarrowResNet": "resnet18"}.get(type(net).__name__, type(encoder).__name__)
    if hasattr(net, "pretrained_cfg"):
        kind = f"timm:{net.pretrained_cfg.get('architecture')}"
    return ["small_cnn" if hasattr(encoder, "block4") else kind, getattr(first, "out_channels", 1)]


def _write_models(encoder, part, side):
    x, content = torch.rand(2, 3, side, side), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(
                encoder, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)
            )
            torch.export.save(program, content)
            # The TorchScript exporter, in every torch from 2.6 on: it needs onnx alone, takes 0.2 s where the newer one
            # takes 4, and folds BatchNorm into the convolutions, which the quantizer asks for.
            torch.onnx.export(
                encoder,
                (x,),
                str(part / bundle.MODELS["fp32"]),
                dynamo=False,
                opset_version=17,
                input_names=["images"],
                output_names=["features"],
                dynamic_axes={"images": {0: "batch"}, "features": {0: "batch"}},
            )
        except OSError:
            raise
        except Exception as error:  # of many kinds, with many lines
            raise ValueError(
                "encoder: expected a network that torch.export can record for any number of pictures, "
                f"found {type(error).__name__}: {str(error).strip().splitlines()[0]}"
            ) from error
    (part / "encoder.pt2").write_bytes(
        content.getvalue()
    )  # through Python: a full disk is an OSError


def _write_int8(part, images):
    """Quantize convolutions and matrix products; the rest, the features among it, stays fp32."""
    from onnxruntime import quantization as q

    some = images[
        torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:CALIBRATION]
    ].cpu()
    batches = iter([{"images": x.float().numpy() / 255} for x in some.split(32)])
    reader = type(
        "Reader", (q.CalibrationDataReader,), {"get_next": lambda self: next(batches, None)}
    )()
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it recommends a preparation that the graph does not need
    try:
        # Signed activations, the default, took 3 times as long in a ResNet-18 on x86. Weights of 7 bits: CPUs without
        # VNNI add two products in 16 bits, which 8 bits overflow. Ranges are minimum and maximum: percentiles and
        # entropy agree as well with fp32 (benchmarks/export.py), but keep all activations of 512 pictures in memory.
        q.quantize_static(
            str(part / bundle.MODELS["fp32"]),
            str(part / bundle.MODELS["int8"]),
            reader,
            quant_format=q.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=q.QuantType.QUInt8,
            weight_type=q.QuantType.QInt8,
            calibrate_method=q.CalibrationMethod.MinMax,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        )
    finally:
        logging.disable(before)


def _write_index(part, train, h):
    from safetensors.torch import save

    probe = LinearProbe().fit(
        h, train.labels.cpu()
    )  # its coefficients take raw features: standardization is folded in
    keep = torch.randperm(len(h), generator=torch.Generator().manual_seed(1))[:KEPT]
    kept = train.subset(keep).to("cpu")
    (part / bundle.INDEX).write_bytes(
        save(
            dict(
                head_weight=probe.coef_.float(),
                head_bias=probe.intercept_.float(),
                labels=kept.labels.long(),
                features=nn.functional.normalize(h[keep]).half(),
                images=kept.images.contiguous(),
            )
        )
    )


def _compare(encoder, part, images):
    import onnxruntime

    x = images.float() / 255
    session = onnxruntime.InferenceSession(
        str(part / bundle.MODELS["fp32"]), providers=["CPUExecutionProvider"]
    )
    expected, found = encoder(x), torch.from_numpy(session.run(None, {"images": x.numpy()})[0])
    if expected.shape != found.shape or (expected - found).abs().max() > 1e-3 * max(
        1.0, expected.abs().max()
    ):
        raise ValueError(
            "encoder: expected the same features from ONNX as from torch, found others; does it decide by "
            "the pictures' values or their number? ONNX records one way through it"
        )


def _write_about(part, about):
    about = about | {"sha256": bundle.digest(about)}
    (part / bundle.ABOUT).write_text(json.dumps(about, indent=1) + "\n", "utf-8")
    return about


def _publish(part, folder):
    """Put a complete bundle in place: at any moment `open_bundle` finds the old or the new one."""
    bundle.open_bundle(part)
    for path in part.iterdir():
        with open(path, "r+b") as file:
            os.fsync(file.fileno())
    old = bundle.previous(folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder, old)
    try:
        os.rename(part, folder)
    except BaseException:
        if old.exists():
            os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
