"""Bundles: what `export` writes, what `open_bundle` refuses, what INT8 costs, interrupted exports. Small networks."""

import argparse
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from replearn import data, models, serve
from replearn.pretrain import commands
from replearn.probe import LinearProbe, extract_features
from replearn.serve import bundle, measure
from replearn.serve.bundle import open_bundle
from replearn.serve.exporting import export, table

maker = sys.modules[
    "replearn.serve.exporting"
]  # the file; the package's name `export` is the function


def shapes(size=120, split="train"):
    return data.load("shapes", size=size, split=split)


def tiny():
    torch.manual_seed(0)
    return models.small_cnn(4).eval()


def command(*words):
    parser = argparse.ArgumentParser()
    commands._add_export(parser.add_subparsers())
    args = parser.parse_args(["export", *map(str, words)])
    args.run(args)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle, made by the command from a run's folder."""
    folder = tmp_path_factory.mktemp("export")
    models.save(
        tiny(),
        folder / "encoder",
        architecture=["small_cnn", 4],
        data="shapes: 120 pictures",
        note="tiny",
    )
    command(folder, folder / "bundle", "--size", 120, "--test-size", 40)
    return folder / "bundle"


@pytest.fixture
def place(made, tmp_path):
    """A copy to damage."""
    return Path(shutil.copytree(made, tmp_path / "bundle"))


@pytest.fixture
def quick(made, monkeypatch):
    """Exports that copy a bundle instead of making one; returns what to do before the copy is complete."""
    before = []

    def write(encoder, part, train, side, card):
        shutil.copytree(made, part, dirs_exist_ok=True)
        for do in before:
            do()
        return maker._write_about(part, bundle.read_about(part) | {"card": card})

    monkeypatch.setattr(maker, "_write", write)
    return before


# What is in it


@pytest.mark.parametrize("n", [1, 7, 64])
def test_onnx_and_torch_export_equal_torch(made, n):
    images, encoder = shapes().images[:n], tiny()
    expected = extract_features(encoder, images)
    found = open_bundle(made, precision="fp32").embed(images.numpy())
    assert found.dtype == np.float32 and found.shape == (n, 64)
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=0)
    again = torch.export.load(made / "encoder.pt2").module()(images.float() / 255)
    torch.testing.assert_close(again, expected, atol=1e-4, rtol=0)


def test_long_inputs_are_embedded_in_parts(made):
    embed, images = open_bundle(made).embed, shapes(300).images.numpy()
    np.testing.assert_allclose(embed(images)[255:258], embed(images[255:258]), atol=1e-5)


def test_the_weights_can_be_loaded_and_the_card_tells(made):
    shipped = models.load(made / "encoder")
    assert all(
        torch.equal(a, b)
        for a, b in zip(shipped.state_dict().values(), tiny().state_dict().values(), strict=True)
    )
    about = bundle.read_about(made)
    assert about["card"] == {
        "architecture": ["small_cnn", 4],
        "data": "shapes: 120 pictures",
        "note": "tiny",
    }
    assert {"torch", "onnx", "onnxruntime", "replearn"} == set(about["versions"])
    assert (
        about["side"] == 32
        and about["feature_dim"] == 64
        and set(about["files"]) == set(bundle.FILES)
    )
    assert sorted(path.name for path in made.iterdir()) == sorted([*bundle.FILES, bundle.ABOUT])


def test_the_head_is_the_linear_probe(made):
    train, test, opened = shapes(), shapes(100, "test"), open_bundle(made, precision="fp32")
    probe = LinearProbe().fit(extract_features(tiny(), train.images), train.labels)
    h = opened.embed(test.images.numpy())
    expected, logits = (
        probe.predict_proba(torch.from_numpy(h)),
        torch.from_numpy(h @ opened.weight.T + opened.bias),
    )
    torch.testing.assert_close(logits.softmax(1).double(), expected, atol=1e-3, rtol=0)
    assert torch.equal(logits.argmax(1), probe.predict(torch.from_numpy(h)))


def test_the_index_holds_pictures_with_their_features(made):
    train, opened = shapes(), open_bundle(made, precision="fp32")
    assert opened.images.shape == (120, 3, 32, 32) and opened.class_names == train.class_names
    np.testing.assert_allclose(np.linalg.norm(opened.features, axis=1), 1, atol=1e-3)
    h = opened.embed(opened.images)
    assert np.sum(opened.features * h, axis=1) / np.linalg.norm(h, axis=1) == pytest.approx(
        1, abs=1e-3
    )
    known = {
        image.tobytes(): label
        for image, label in zip(train.images.numpy(), train.labels.tolist(), strict=True)
    }
    assert [known.pop(image.tobytes()) for image in opened.images] == opened.labels.tolist()


def test_int8_is_small_and_close_on_a_trained_encoder(tmp_path):
    train, test = shapes(300), shapes(100, "test")
    encoder = models.load("shapes_simclr").train()
    encoder.block1.eval()
    before, flags = (
        {k: x.clone() for k, x in encoder.state_dict().items()},
        [m.training for m in encoder.modules()],
    )
    about = export(encoder, tmp_path / "b", train, test=test)
    assert [m.training for m in encoder.modules()] == flags  # it was left as it was
    assert all(torch.equal(x, before[name]) for name, x in encoder.state_dict().items())
    full, small = (
        open_bundle(tmp_path / "b", precision=name).embed(test.images.numpy())
        for name in bundle.MODELS
    )
    cosine = (full * small).sum(1) / np.linalg.norm(full, axis=1) / np.linalg.norm(small, axis=1)
    rows = about["measured"]["rows"]
    assert cosine.min() > 0.99 and not np.array_equal(full, small)
    assert rows["INT8 ONNX"]["mb"] < 0.3 * rows["fp32 ONNX"]["mb"]
    assert rows["INT8 ONNX"]["agreement"] >= 0.96 and abs(rows["INT8 ONNX"]["points"]) <= 2
    assert bundle.read_about(tmp_path / "b")["measured"] == about["measured"]


def test_the_table_is_what_one_would_count(made):
    test, opened = shapes(40, "test"), open_bundle(made, precision="int8")
    found, text = table(made, test, rounds=3)
    answers = (opened.embed(test.images.numpy()) @ opened.weight.T + opened.bias).argmax(1)
    rows = json.loads(json.dumps(found))["rows"]
    assert rows["INT8 ONNX"]["accuracy"] == (answers == test.labels.numpy()).mean()
    assert rows["fp32 torch"]["agreement"] == 1 and rows["fp32 torch"]["points"] == 0
    assert rows["fp32 ONNX"]["mb"] == (made / "encoder.onnx").stat().st_size / 1e6
    assert all(0 < row["ms"] <= row["ms_p95"] and row["ms_batch"] > 0 for row in rows.values())
    assert (
        text == measure.as_text(found)
        and len(text.splitlines()) == 5
        and "40 test pictures" in text
    )


# A reader of bundles


def test_opening_a_bundle_needs_no_torch(made):
    code = f"""import sys
from replearn.serve import open_bundle
import numpy as np
opened = open_bundle({str(made)!r})
assert opened.embed(np.zeros((2, 3, 32, 32), np.uint8)).shape == (2, 64)
print(sorted({{"torch", "torchvision", "onnx", "scipy", "sklearn", "matplotlib"}} & set(sys.modules)))"""
    environment = os.environ | dict(
        PYTHONPATH=str(Path(models.__file__).parents[1]), OMP_NUM_THREADS="1"
    )
    assert (
        subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip()
        == "[]"
    )


def test_the_package_gives_functions():
    for name in serve.__all__:
        assert callable(getattr(serve, name))
    assert set(serve.__all__) <= set(dir(serve)) and "importlib" not in dir(serve)
    with pytest.raises(AttributeError, match=r"'replearn\.serve' has no attribute 'tau'"):
        _ = serve.tau


@pytest.mark.parametrize("name", bundle.FILES)
def test_a_damaged_byte_or_a_missing_file_is_named(place, name):
    content = bytearray((place / name).read_bytes())
    content[len(content) // 2] ^= 1
    (place / name).write_bytes(content)
    with pytest.raises(
        ValueError,
        match=rf"{name}: damaged, its SHA-256 is not the one in bundle\.json; export again",
    ):
        open_bundle(place)
    (place / name).unlink()
    with pytest.raises(
        ValueError,
        match=rf"{name}: missing or not readable .*export again, or copy the whole folder",
    ):
        open_bundle(place)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(class_names=["x"] * 10), "changed after it was written"),
        (dict(files={}), "changed after it was written"),
        (dict(card={"score": 1}), "changed after it was written"),
        (dict(format="other/2"), "expected format replearn"),
        (None, "expected JSON, found it damaged"),
        ([], "expected format replearn"),
    ],
)
def test_a_changed_description_is_seen(place, change, message):
    path = place / bundle.ABOUT
    about = json.loads(path.read_text("utf-8"))
    path.write_text(
        "{" if change is None else json.dumps(about | change if change else []), "utf-8"
    )
    with pytest.raises(ValueError, match=rf"bundle\.json: {message}.*export again"):
        open_bundle(place)


def test_shapes_that_do_not_fit_are_seen_though_signed(place):
    about = bundle.read_about(place)
    maker._write_about(place, about | {"class_names": about["class_names"][:9]})
    with pytest.raises(
        ValueError, match=r"index\.safetensors: expected shapes .*\(9, 64\).*found .*\(10, 64\)"
    ):
        open_bundle(place)


def test_a_foreign_folder_and_bad_arguments(made, tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(
            ValueError, match=r"expected a bundle, found no bundle\.json in it; make one with"
        ):
            open_bundle(folder)
    with pytest.raises(ValueError, match="precision: expected fp32 or int8, found 'fp16'"):
        open_bundle(made, precision="fp16")
    with pytest.raises(ValueError, match="threads: expected a whole number of 1 or more, found 0"):
        open_bundle(made, threads=0)
    embed = open_bundle(made).embed
    for shape, kind in (((2, 3, 32, 32), "f4"), ((2, 3, 28, 28), "u1"), ((0, 3, 32, 32), "u1")):
        with pytest.raises(ValueError, match=r"images: expected uint8 \(N, 3, 32, 32\), found"):
            embed(np.zeros(shape, kind))


def test_without_onnxruntime_a_sentence(made, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for call in (lambda: open_bundle(made), lambda: export(tiny(), tmp_path / "b", shapes())):
        with pytest.raises(
            ValueError, match=r'onnxruntime: .* run pip install "replearn\[serve\]"'
        ):
            call()


# Whole or not at all


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_an_interrupted_export_leaves_the_old_bundle(place, quick):
    quick.append(lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        export(tiny(), place, shapes(), card={"run": 2})
    assert open_bundle(place).card["note"] == "tiny" and leftovers(place.parent) == []
    quick.clear()
    export(
        tiny(), place, shapes(), card={"run": 2, "path": "elsewhere", "sha256": "of the weights"}
    )
    assert open_bundle(place).card == {"run": 2} and leftovers(place.parent) == []


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_full_disk_leaves_the_old_bundle(place, quick, monkeypatch, call):
    real, calls = getattr(os, call), []

    def full(*args):
        calls.append(args)
        if (
            len(calls) == 2
        ):  # rename: when the old one has moved away and the new one should take its place
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    monkeypatch.setattr(os, call, full)
    with pytest.raises(
        OSError, match=r"could not write the bundle: the disk is full.*saved before is kept"
    ):
        export(tiny(), place, shapes(), card={"run": 2})
    assert open_bundle(place).card["note"] == "tiny" and leftovers(place.parent) == []


def test_killed_between_two_renames(place, quick):
    os.rename(place, bundle.previous(place))  # where a kill may leave it
    assert open_bundle(place).card["note"] == "tiny"
    quick.append(lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        export(tiny(), place, shapes())
    assert (
        place.exists()
        and open_bundle(place).card["note"] == "tiny"
        and leftovers(place.parent) == []
    )


def test_nobody_elses_files_are_deleted(tmp_path, quick):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").write_text("{}")
    with pytest.raises(
        ValueError, match=r"expected a new folder, an empty one or a bundle, found log\.jsonl in it"
    ):
        export(tiny(), tmp_path / "run", shapes())
    with pytest.raises(OSError, match="could not write the bundle"):
        export(tiny(), tmp_path / "run" / "log.jsonl", shapes())
    assert (tmp_path / "run" / "log.jsonl").read_text() == "{}" and leftovers(tmp_path) == []


# What cannot be exported


def test_what_does_not_fit_is_refused(tmp_path):
    train = shapes()
    with pytest.raises(
        ValueError, match=r"train: expected uint8 pictures \(N, 3, 28, 28\), found .* \(3, 32"
    ):
        export(tiny(), tmp_path / "b", train, side=28)
    with pytest.raises(
        ValueError, match="train: expected pictures of every class, found none of 'star'"
    ):
        export(
            tiny(), tmp_path / "b", train.subset(train.labels != train.class_names.index("star"))
        )
    with pytest.raises(ValueError, match="card: expected what JSON can hold"):
        export(tiny(), tmp_path / "b", train, card={"x": torch.ones(2)})
    assert list(tmp_path.iterdir()) == []


class Peculiar(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        h = x.flatten(1).narrow(1, 0, 40)  # torch 2.7 cannot record [:, :40]
        if self.how == "branch":
            return h if h.sum() > 0 else -h
        return h + float(torch.onnx.is_in_onnx_export())


@pytest.mark.parametrize(
    "how, message",
    [
        ("branch", "a network that torch.export can record for any number of pictures, found"),
        ("other", "the same features from ONNX as from torch, found others"),
    ],
)
def test_networks_that_cannot_be_recorded(tmp_path, how, message):
    with pytest.raises(ValueError, match=f"encoder: expected {message}"):
        export(Peculiar(how), tmp_path / "b", shapes())
    assert list(tmp_path.iterdir()) == []


def test_networks_of_timm_are_named_and_loaded(tmp_path):
    pytest.importorskip("timm")
    from replearn.pretrain.recipe import Recipe, networks

    encoder, _ = networks(Recipe(network="timm:resnet10t"))
    assert maker._architecture(encoder)[0] == "timm:resnet10t" and maker._architecture(tiny()) == [
        "small_cnn",
        4,
    ]
    assert maker._architecture(models.resnet18(8)) == ["resnet18", 8]
