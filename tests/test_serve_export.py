"""Bundles: what `export` writes, what `open_bundle` refuses, what INT8 costs, interrupted exports.

The networks are small, and most exports copy a bundle instead of making one.
"""

import argparse
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from replearn import _lock, data, models, serve
from replearn.probe import LinearProbe, extract_features
from replearn.serve import bundle, cli, export, exporting, measure, open_bundle, process


def shapes(size=120, split="train"):
    return data.load("shapes", size=size, split=split)


def tiny_encoder():
    torch.manual_seed(0)
    return models.small_cnn(4).eval()


def run_export_command(*words):
    parser = argparse.ArgumentParser()
    cli.add_export(parser.add_subparsers())
    args = parser.parse_args(["export", *[str(word) for word in words]])
    args.run(args)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle, made by the command from a run's folder."""
    run = tmp_path_factory.mktemp("export")
    models.save(
        tiny_encoder(),
        run / "encoder",
        architecture=["small_cnn", 4],
        data="shapes: 120 pictures",
        note="tiny",
    )
    run_export_command(run, run / "bundle", "--size", 120, "--test-size", 40)
    return run / "bundle"


@pytest.fixture
def copied(made, tmp_path):
    """A copy to damage."""
    return Path(shutil.copytree(made, tmp_path / "bundle"))


@pytest.fixture
def quick(made, monkeypatch):
    """Let exports copy a bundle instead of making one.

    Returns:
        A list, empty at first, of functions to call before the copy is complete.
    """
    interruptions = []

    def copy_a_bundle(encoder, partial, train, side, card, head, tell):
        shutil.copytree(made, partial, dirs_exist_ok=True)
        for interrupt in interruptions:
            interrupt()
        manifest = bundle.read_manifest(partial)
        return exporting._write_manifest(partial, {**manifest, "card": card})

    monkeypatch.setattr(exporting, "_write", copy_a_bundle)
    return interruptions


# --- what is in a bundle ---


@pytest.mark.parametrize("n", [1, 7, 64])
def test_onnx_and_torch_export_equal_torch(made, n):
    images = shapes().images[:n]
    expected = extract_features(tiny_encoder(), images)
    by_onnx = open_bundle(made, precision="fp32").embed(images.numpy())
    assert by_onnx.dtype == np.float32
    assert by_onnx.shape == (n, 64)
    torch.testing.assert_close(torch.from_numpy(by_onnx), expected, atol=1e-4, rtol=0)
    program = torch.export.load(made / "encoder.pt2").module()
    torch.testing.assert_close(program(images.float() / 255), expected, atol=1e-4, rtol=0)


def test_long_inputs_are_embedded_in_parts(made):
    embed = open_bundle(made).embed
    images = shapes(300).images.numpy()
    np.testing.assert_allclose(embed(images)[255:258], embed(images[255:258]), atol=1e-5)


def test_the_weights_can_be_loaded(made):
    loaded = models.load(made / "encoder").state_dict()
    expected = tiny_encoder().state_dict()
    assert list(loaded) == list(expected)
    for name in expected:
        assert torch.equal(loaded[name], expected[name])


def test_the_manifest_tells(made):
    manifest = bundle.read_manifest(made)
    assert manifest["card"] == {
        "architecture": ["small_cnn", 4],
        "data": "shapes: 120 pictures",
        "note": "tiny",
        "side": 32,
    }
    assert set(manifest["versions"]) == {"torch", "onnx", "onnxruntime", "replearn"}
    assert manifest["side"] == 32
    assert manifest["feature_dim"] == 64
    assert set(manifest["files"]) == set(bundle.FILES)
    in_folder = sorted(path.name for path in made.iterdir())
    assert in_folder == sorted([*bundle.FILES, bundle.MANIFEST])


def test_the_head_is_the_linear_probe(made):
    train = shapes()
    probe = LinearProbe().fit(extract_features(tiny_encoder(), train.images), train.labels)
    opened = open_bundle(made, precision="fp32")
    h = opened.embed(shapes(100, "test").images.numpy())
    logits = torch.from_numpy(h @ opened.weight.T + opened.bias)
    h = torch.from_numpy(h)
    probabilities = logits.softmax(1).double()
    torch.testing.assert_close(probabilities, probe.predict_proba(h), atol=1e-3, rtol=0)
    assert torch.equal(logits.argmax(1), probe.predict(h))


def test_the_index_holds_pictures_with_their_features(made):
    train = shapes()
    opened = open_bundle(made, precision="fp32")
    assert opened.images.shape == (120, 3, 32, 32)
    assert opened.class_names == train.class_names
    np.testing.assert_allclose(np.linalg.norm(opened.features, axis=1), 1, atol=1e-3)
    h = opened.embed(opened.images)
    cosines = np.sum(opened.features * h, axis=1) / np.linalg.norm(h, axis=1)
    assert cosines == pytest.approx(1, abs=1e-3)

    label_of = {}
    for image, label in zip(train.images.numpy(), train.labels.tolist(), strict=True):
        label_of[image.tobytes()] = label
    # pop: each image of the training set is there once
    assert [label_of.pop(image.tobytes()) for image in opened.images] == opened.labels.tolist()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An exported encoder that is trained: (folder, manifest, test set)."""
    folder = tmp_path_factory.mktemp("trained") / "bundle"
    test = shapes(100, "test")
    encoder = models.load("shapes_simclr").train()
    encoder.block1.eval()
    weights = {name: value.clone() for name, value in encoder.state_dict().items()}
    modes = [module.training for module in encoder.modules()]
    manifest = export(encoder, folder, shapes(300), test=test)
    assert [module.training for module in encoder.modules()] == modes  # it is left as it was
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, weights[name])
    return folder, manifest, test


def test_int8_is_close_on_a_trained_encoder(trained):
    folder, _, test = trained
    images = test.images.numpy()
    fp32 = open_bundle(folder, precision="fp32").embed(images)
    int8 = open_bundle(folder, precision="int8").embed(images)
    lengths = np.linalg.norm(fp32, axis=1) * np.linalg.norm(int8, axis=1)
    cosines = (fp32 * int8).sum(1) / lengths
    assert cosines.min() > 0.99
    assert not np.array_equal(fp32, int8)


def test_int8_is_small_and_as_good_on_a_trained_encoder(trained):
    folder, manifest, _ = trained
    assert bundle.read_manifest(folder)["measured"] == manifest["measured"]
    rows = manifest["measured"]["rows"]
    assert rows["INT8 ONNX"]["mb"] < 0.3 * rows["fp32 ONNX"]["mb"]
    assert rows["INT8 ONNX"]["agreement"] >= 0.96
    assert abs(rows["INT8 ONNX"]["points"]) <= 2


def test_what_is_measured_is_what_one_would_count(made):
    test = shapes(40, "test")
    measured = measure.measure_forms(made, test, rounds=3)
    rows = json.loads(json.dumps(measured))["rows"]
    opened = open_bundle(made, precision="int8")
    logits = opened.embed(test.images.numpy()) @ opened.weight.T + opened.bias
    predicted = logits.argmax(1)
    assert rows["INT8 ONNX"]["accuracy"] == (predicted == test.labels.numpy()).mean()
    assert rows["fp32 torch"]["agreement"] == 1
    assert rows["fp32 torch"]["points"] == 0
    assert rows["fp32 ONNX"]["mb"] == (made / "encoder.onnx").stat().st_size / 1e6
    for row in rows.values():
        assert 0 < row["ms"] <= row["ms_p95"]
        assert row["ms_batch"] > 0
    text = measure.as_text(measured)
    assert len(text.splitlines()) == 5
    assert "40 test pictures" in text


# --- a reader of bundles ---


def test_opening_a_bundle_needs_no_torch(made):
    code = f"""
import sys
from replearn.serve import open_bundle
import numpy as np
opened = open_bundle({str(made)!r})
assert opened.embed(np.zeros((2, 3, 32, 32), np.uint8)).shape == (2, 64)
heavy = {{"torch", "torchvision", "onnx", "scipy", "sklearn", "matplotlib"}}
print(sorted(heavy & set(sys.modules)))
"""
    package = Path(models.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    printed = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert printed.strip() == "[]"


def test_the_package_gives_functions():
    for name in serve.__all__:
        assert callable(getattr(serve, name))
    assert set(serve.__all__) <= set(dir(serve))
    assert "importlib" not in dir(serve)
    with pytest.raises(AttributeError, match=r"'replearn\.serve' has no attribute 'tau'"):
        _ = serve.tau


@pytest.mark.parametrize(("points", "precision"), [(-67.0, "fp32"), (-2.1, "fp32"), (-1.9, "int8")])
def test_a_form_that_lost_its_accuracy_is_not_the_default(copied, points, precision):
    manifest = bundle.read_manifest(copied)
    manifest["measured"]["rows"]["INT8 ONNX"]["points"] = points
    exporting._write_manifest(copied, manifest)
    assert open_bundle(copied).precision == precision
    assert open_bundle(copied, precision="int8").precision == "int8"


def test_the_export_says_which_form_it_chose(quick, tmp_path, monkeypatch, capsys):
    measured = {"rows": {"INT8 ONNX": {"points": -67.0}}}
    monkeypatch.setattr(exporting, "measure_forms", lambda folder, test: measured)
    with pytest.warns(UserWarning, match="INT8 loses 67.0 points of accuracy, more than 2: fp32"):
        about = export(tiny_encoder(), tmp_path / "b", shapes(), test=shapes(30, "test"))
    assert about["precision"] == "fp32"
    assert "67.0 points" in about["precision_reason"]


def test_the_service_says_at_its_start_which_form_it_serves(copied, monkeypatch, capsys):
    manifest = bundle.read_manifest(copied)
    manifest["measured"]["rows"]["INT8 ONNX"]["points"] = -67.0
    exporting._write_manifest(copied, manifest)
    server = SimpleNamespace(run=lambda sockets: None)
    monkeypatch.setattr(process, "_make_server", lambda app: server)
    process.serve(copied, port=0)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "form: fp32 (INT8 loses 67.0 points of accuracy, more than 2)"
    assert second.startswith(f"{copied} (fp32) at http://")


def test_a_folder_with_colons_in_its_name_is_the_default_data(quick, tmp_path, monkeypatch, capsys):
    images = tmp_path / "scan 2026-01-05 10:30"
    for name in ("cat", "dog"):
        (images / name).mkdir(parents=True)
        for i in range(10):
            color = tuple(np.random.default_rng(i).integers(0, 256, 3).tolist())
            Image.new("RGB", (40, 40), color).save(images / name / f"{i}.png")
    (tmp_path / "run").mkdir()
    models.save(
        tiny_encoder(),
        tmp_path / "run" / "encoder",
        architecture=["small_cnn", 4],
        data=str(images),
    )
    rows = {"INT8 ONNX": {"points": 0.0}}
    monkeypatch.setattr(exporting, "measure_forms", lambda folder, test: {"rows": rows})
    monkeypatch.setattr(measure, "as_text", str)
    run_export_command(tmp_path / "run", tmp_path / "bundle")
    assert "served by default: int8" in capsys.readouterr().out


@pytest.fixture
def exports(tmp_path, monkeypatch):
    """Commands by which `serve` exports in a child; they run here instead, with few pictures."""
    monkeypatch.setenv("REPLEARN_DATA", str(tmp_path / "data"))
    server = SimpleNamespace(run=lambda sockets: None)
    monkeypatch.setattr(process, "_make_server", lambda app: server)
    commands = []

    def export_here(command, env, stdin):
        commands.append(command)
        run_export_command(*command[4:], "--size", 120, "--test-size", 40)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(cli.subprocess, "run", export_here)
    return commands


def serve_by_name(name):
    parser = argparse.ArgumentParser()
    cli.add_serve(parser.add_subparsers())
    args = parser.parse_args(["serve", name, "--port", "0"])
    args.run(args)


@pytest.mark.seconds
def test_a_shipped_name_is_exported_once_and_served(exports, tmp_path, monkeypatch, capsys):
    name = "shapes_supervised"
    serve_by_name(name)
    place = tmp_path / "data" / "bundles" / f"{name}-{models.card(name)['sha256'][:12]}"
    assert exports == [[sys.executable, "-m", "replearn", "export", name, str(place)]]
    images = shapes(8).images
    h = open_bundle(place, precision="fp32").embed(images.numpy())
    expected = extract_features(models.load(name), images)
    torch.testing.assert_close(torch.from_numpy(h), expected, atol=1e-3, rtol=1e-3)
    assert f"{place} (" in capsys.readouterr().out

    serve_by_name(name)
    assert len(exports) == 1
    (place / "bundle.json").write_text("{}")  # as of another version
    monkeypatch.setattr(cli.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=3))
    with pytest.raises(SystemExit) as end:
        serve_by_name(name)
    assert end.value.code == 3, "an export that fails has said why"


def test_a_bundle_in_the_way_goes_before_a_shipped_name(exports, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path / "shapes_simclr")
    serve_by_name("shapes_simclr")
    assert exports == []


def test_two_services_do_not_export_the_same_encoder_at_once(exports, tmp_path):
    place = cli._place_of_bundle("shapes_simclr")
    place.parent.mkdir(parents=True)
    with _lock.held(place.with_name(f"{place.name}.lock")):
        with pytest.raises(ValueError, match=r"nobody else exports it .* found process \d+ on"):
            serve_by_name("shapes_simclr")
    assert exports == []


def test_the_service_knows_the_names_without_torch():
    code = "import sys, replearn._shipped, replearn.serve.cli; print('torch' in sys.modules)"
    root = str(Path(models.__file__).parents[1])
    printed = subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True)
    assert printed.strip() == "False"


@pytest.mark.parametrize("name", bundle.FILES)
def test_a_damaged_byte_is_named(copied, name):
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    refusal = rf"{name}: damaged, its SHA-256 is not the one in bundle\.json; export again"
    with pytest.raises(ValueError, match=refusal):
        open_bundle(copied)


@pytest.mark.parametrize("name", bundle.FILES)
def test_a_missing_file_is_named(copied, name):
    (copied / name).unlink()
    refusal = rf"{name}: missing or not readable .*export again, or copy the whole folder"
    with pytest.raises(ValueError, match=refusal):
        open_bundle(copied)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(class_names=["x"] * 10), "changed after it was written"),
        (dict(files={}), "changed after it was written"),
        (dict(card={"score": 1}), "changed after it was written"),
        (dict(format="other/2"), "expected format replearn"),
    ],
)
def test_a_changed_manifest_is_seen(copied, change, message):
    path = copied / bundle.MANIFEST
    manifest = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**manifest, **change}), "utf-8")
    with pytest.raises(ValueError, match=rf"bundle\.json: {message}.*export again"):
        open_bundle(copied)


@pytest.mark.parametrize(
    "text, message",
    [("{", "expected JSON, found it damaged"), ("[]", "expected format replearn")],
)
def test_a_damaged_manifest_is_seen(copied, text, message):
    (copied / bundle.MANIFEST).write_text(text, "utf-8")
    with pytest.raises(ValueError, match=rf"bundle\.json: {message}.*export again"):
        open_bundle(copied)


def test_shapes_that_do_not_fit_are_seen_though_signed(copied):
    manifest = bundle.read_manifest(copied)
    nine_names = manifest["class_names"][:9]
    exporting._write_manifest(copied, {**manifest, "class_names": nine_names})
    refusal = r"index\.safetensors: expected shapes .*\(9, 64\).*found .*\(10, 64\)"
    with pytest.raises(ValueError, match=refusal):
        open_bundle(copied)


def test_a_folder_without_a_bundle_is_refused(tmp_path):
    refusal = r"expected a bundle, found no bundle\.json in it; make one with"
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match=refusal):
            open_bundle(folder)


def test_bad_arguments_are_named(made):
    with pytest.raises(ValueError, match="precision: expected fp32 or int8, found 'fp16'"):
        open_bundle(made, precision="fp16")
    with pytest.raises(ValueError, match="threads: expected a whole number of 1 or more, found 0"):
        open_bundle(made, threads=0)


@pytest.mark.parametrize(
    "shape, dtype", [((2, 3, 32, 32), "f4"), ((2, 3, 28, 28), "u1"), ((0, 3, 32, 32), "u1")]
)
def test_images_that_do_not_fit_are_named(made, shape, dtype):
    embed = open_bundle(made).embed
    with pytest.raises(ValueError, match=r"images: expected uint8 \(N, 3, 32, 32\), found"):
        embed(np.zeros(shape, dtype))


def test_without_onnxruntime_a_sentence(made, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refusal = r'onnxruntime: .* run pip install "replearn\[serve\]"'
    with pytest.raises(ValueError, match=refusal):
        open_bundle(made)
    with pytest.raises(ValueError, match=refusal):
        export(tiny_encoder(), tmp_path / "b", shapes())


# --- whole or not at all ---


def hidden_files(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def assert_old_bundle(folder):
    """Check that the bundle of `copied` is there as it was, and nothing half made beside it."""
    assert folder.exists()
    assert open_bundle(folder).card["note"] == "tiny"
    assert hidden_files(folder.parent) == []


def press_ctrl_c():
    raise KeyboardInterrupt


def test_an_interrupted_export_leaves_the_old_bundle(copied, quick):
    quick.append(press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        export(tiny_encoder(), copied, shapes(), card={"run": 2})
    assert_old_bundle(copied)

    quick.clear()
    card = {"run": 2, "path": "elsewhere", "sha256": "of the weights"}
    export(tiny_encoder(), copied, shapes(), card=card)
    assert open_bundle(copied).card == {"run": 2}
    assert hidden_files(copied.parent) == []


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_full_disk_leaves_the_old_bundle(copied, quick, monkeypatch, call):
    original = getattr(os, call)
    calls = []

    def full_at_the_second_call(*args):
        calls.append(args)
        # rename: the old bundle has moved away and the new one should take its place
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*args)

    monkeypatch.setattr(os, call, full_at_the_second_call)
    refusal = r"could not write the bundle: the disk is full.*saved before is kept"
    with pytest.raises(OSError, match=refusal):
        export(tiny_encoder(), copied, shapes(), card={"run": 2})
    assert_old_bundle(copied)


def test_killed_between_two_renames(copied, quick):
    os.rename(copied, bundle.previous_folder(copied))  # where a kill may leave it
    assert open_bundle(copied).card["note"] == "tiny"
    quick.append(press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        export(tiny_encoder(), copied, shapes())
    assert_old_bundle(copied)


def test_nobody_elses_files_are_deleted(tmp_path, quick):
    run = tmp_path / "run"
    run.mkdir()
    (run / "log.jsonl").write_text("{}")
    refusal = r"expected a new folder, an empty one or a bundle, found log\.jsonl in it"
    with pytest.raises(ValueError, match=refusal):
        export(tiny_encoder(), run, shapes())
    with pytest.raises(ValueError, match="expected a folder for the bundle, found a file"):
        export(tiny_encoder(), run / "log.jsonl", shapes())
    assert (run / "log.jsonl").read_text() == "{}"
    assert hidden_files(tmp_path) == []


# --- what cannot be exported ---


def test_what_does_not_fit_is_refused(tmp_path):
    train = shapes()
    refusal = r"train: expected uint8 pictures \(N, 3, 28, 28\), found .* \(3, 32"
    with pytest.raises(ValueError, match=refusal):
        export(tiny_encoder(), tmp_path / "b", train, side=28)

    without_stars = train.subset(train.labels != train.class_names.index("star"))
    refusal = "train: expected pictures of every class, found none of 'star'"
    with pytest.raises(ValueError, match=refusal):
        export(tiny_encoder(), tmp_path / "b", without_stars)

    with pytest.raises(ValueError, match="card: expected what JSON can hold"):
        export(tiny_encoder(), tmp_path / "b", train, card={"x": torch.ones(2)})
    assert list(tmp_path.iterdir()) == []


class BranchesOnValues(nn.Module):
    """A network that takes one of two ways, by the values of the images."""

    def forward(self, x):
        h = x.flatten(1).narrow(1, 0, 40)  # torch 2.7 cannot record [:, :40]
        return h if h.sum() > 0 else -h


class DiffersInOnnx(nn.Module):
    """A network that ONNX records with another result."""

    def forward(self, x):
        h = x.flatten(1).narrow(1, 0, 40)
        return h + float(torch.onnx.is_in_onnx_export())


@pytest.mark.parametrize(
    "network, message",
    [
        (
            BranchesOnValues,
            "a network that torch.export can record for any number of pictures, found",
        ),
        (DiffersInOnnx, "the same features from ONNX as from torch, found others"),
    ],
)
def test_networks_that_cannot_be_recorded(tmp_path, network, message):
    with pytest.raises(ValueError, match=f"encoder: expected {message}"):
        export(network(), tmp_path / "b", shapes())
    assert list(tmp_path.iterdir()) == []


def test_networks_are_named():
    assert exporting._architecture(tiny_encoder()) == ["small_cnn", 4]
    assert exporting._architecture(models.resnet18(8)) == ["resnet18", 8]


def test_networks_of_timm_are_named():
    pytest.importorskip("timm")
    encoder = models.build_encoder("timm:resnet10t", width=32)
    assert exporting._architecture(encoder)[0] == "timm:resnet10t"
