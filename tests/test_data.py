"""Data sets: what they hold, how folders of images are read and kept, and what bad input says."""

import ast
import hashlib
import io
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from replearn import data
from replearn.data import cifar10, pneumonia, shapes
from replearn.data import folder as image_folder

REAL = Path(os.environ.get("REPLEARN_DATA", "absent"))
DIGITS = 1797
DIGITS_TRAIN = 1435


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder, which does not exist yet."""
    monkeypatch.setenv("REPLEARN_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_images(folder, classes, count=5, size=(40, 30), seed=0):
    """Write random PNG files folder/<class>/<i>.png and return their paths."""
    rng = np.random.default_rng(seed)
    width, height = size
    paths = []
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            path = folder / name / f"{i}.png"
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
            paths.append(path)
    return paths


def as_tensor(image):
    """Return a Pillow image as uint8 (3, H, W)."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def as_bytes(image):
    """Return the pixels of one image, a tensor, to look them up in a set or dictionary."""
    return image.contiguous().numpy().tobytes()


def sorted_bytes(images):
    """Return all images as a sorted list of bytes, to compare sets whatever their order."""
    return sorted(as_bytes(image) for image in images)


def both_splits(folder):
    """Return all images of a folder."""
    return torch.cat([data.load(folder, split=split).images for split in ("train", "test")])


# --- ImageSet -------------------------------------------------------------------------------------


@pytest.fixture
def six():
    """Six images; every pixel of image i is i."""
    images = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 3, 32, 32)
    factors = {"hue": torch.arange(6) / 6}
    return data.ImageSet(images, torch.arange(6), ("a",), factors, tuple("uvwxyz"))


@pytest.mark.parametrize(
    "index",
    [
        [1, 4],
        torch.tensor([1, 4]),
        np.array([1, 4]),
        slice(1, 5, 3),
        torch.tensor([False, True, False, False, True, False]),
    ],
    ids=["list", "tensor", "array", "slice", "mask"],
)
def test_subset_selects_all_that_belongs_to_an_image(six, index):
    part = six.subset(index)
    assert part.labels.tolist() == [1, 4]
    assert part.images[:, 0, 0, 0].tolist() == [1, 4]
    assert part.captions == ("v", "y")
    assert torch.equal(part.factors["hue"], torch.tensor([1, 4]) / 6)
    assert part.class_names == ("a",)


def test_subset_of_none_of_one_and_out_of_range(six):
    assert len(six) == 6
    assert len(six.subset([])) == 0
    assert len(six.subset(3)) == 1
    with pytest.raises(IndexError):
        six.subset([6])


def test_to_moves_every_tensor(six):
    moved = six.to("meta")
    assert moved.images.device.type == "meta"
    assert moved.labels.device.type == "meta"
    assert moved.factors["hue"].device.type == "meta"
    assert moved.captions == six.captions


# --- the package ----------------------------------------------------------------------------------


def imported_at_the_top(path):
    """Return the modules that a file imports when it is imported itself."""
    names = []
    for statement in ast.parse(path.read_text()).body:
        if isinstance(statement, ast.Import):
            names += [alias.name for alias in statement.names]
        if isinstance(statement, ast.ImportFrom):
            names.append(statement.module)
    return names


def test_importing_is_light():
    light = {*sys.stdlib_module_names, "numpy", "torch", "replearn"}
    files = sorted(Path(data.__file__).parent.glob("*.py"))
    assert len(files) > 5
    for path in files:
        names = imported_at_the_top(path)
        assert {name.split(".")[0] for name in names} <= light, path.name
        assert "replearn.data" not in names, path.name  # that would be a circle


def test_importing_the_package_imports_no_data_set():
    code = "import sys, replearn.data; print([m for m in sys.modules if 'replearn.data.' in m])"
    root = str(Path(data.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    run = [sys.executable, "-c", code]
    printed = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
    assert printed.stdout == "['replearn.data.imageset']\n"


def test_cache_folder(monkeypatch):
    monkeypatch.setenv("REPLEARN_DATA", "~/pictures")
    assert data.cache_folder() == Path.home() / "pictures"
    monkeypatch.setenv("REPLEARN_DATA", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert data.cache_folder() == Path("/x/replearn")


@pytest.mark.parametrize(
    ("platform", "caches"),
    [("linux", ".cache"), ("darwin", "Library/Caches"), ("win32", "AppData/Local")],
)
def test_cache_folder_of_the_platform(monkeypatch, platform, caches):
    monkeypatch.delenv("REPLEARN_DATA")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    assert data.cache_folder() == Path.home() / caches / "replearn"


def test_available(cache, tmp_path):
    assert data.available("shapes")
    assert data.available("digits")
    assert not data.available("cifar10")
    assert not data.available("no such thing")
    assert data.available(tmp_path)
    assert data.available(str(tmp_path))
    for name in ("cifar10.npz", "cifar-10-batches-py", "cifar10", "cifar-10-python.tar.gz"):
        (cache / name).mkdir(parents=True)
        assert data.available("cifar10"), name
        (cache / name).rmdir()


def test_available_means_that_load_finds_it(cache, tmp_path, monkeypatch):
    (tmp_path / "here" / "cifar10").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    # `load("cifar10")` looks into the cache folder and never into a folder of this name.
    assert not data.available("cifar10")


# --- load -----------------------------------------------------------------------------------------


def test_digits_have_a_stratified_fifth_for_tests():
    train = data.load("digits")
    test = data.load("digits", split="test")
    assert len(train) == DIGITS_TRAIN
    assert len(train) + len(test) == DIGITS
    assert 0.19 < len(test) / DIGITS < 0.21
    train_counts = torch.bincount(train.labels)
    test_counts = torch.bincount(test.labels)
    shares = test_counts / (test_counts + train_counts)
    assert (shares - 0.2).abs().max() < 0.01
    assert not set(sorted_bytes(train.images)) & set(sorted_bytes(test.images))


def test_digits_are_the_scans():
    from sklearn.datasets import load_digits

    train = data.load("digits")
    assert train.images.dtype == torch.uint8
    assert train.images.shape[1:] == (3, 32, 32)
    assert train.images.max() == 255
    assert train.class_names == tuple("0123456789")
    assert train.labels.dtype == torch.int64

    expected = {}
    for scan, label in zip(*load_digits(return_X_y=True), strict=True):
        small = Image.fromarray((scan.reshape(8, 8) * 255 / 16).astype(np.float32))
        large = np.array(small.resize((32, 32), Image.Resampling.BILINEAR))
        expected[np.round(large).astype(np.uint8).tobytes()] = label
    test = data.load("digits", split="test")
    correct = []
    for image, label in zip(test.images, test.labels.tolist(), strict=True):
        correct.append(expected.get(as_bytes(image[0])) == label)
    assert np.mean(correct) > 0.9  # the rest differ in a rounding
    assert (test.images == test.images[:, :1]).all()  # gray


def test_size_is_seeded_stratified_and_nested():
    small = data.load("digits", size=100, seed=1)
    again = data.load("digits", size=100, seed=1)
    other = data.load("digits", size=100, seed=2)
    assert torch.equal(small.images, again.images)
    assert not torch.equal(small.images, other.images)
    assert torch.bincount(small.labels).tolist() == [10] * 10

    large = data.load("digits", size=200, seed=1)
    assert torch.equal(large.images[:100], small.images)
    assert torch.bincount(large.labels[:50]).tolist() == [5] * 10
    assert len(set(sorted_bytes(large.images))) == 200

    everything = data.load("digits")
    shuffled = data.load("digits", size=DIGITS_TRAIN)
    assert sorted_bytes(everything.images) == sorted_bytes(shuffled.images)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            dict(name="cifar11"),
            "expected shapes, digits, cifar10, pneumonia or a folder of pictures, found 'cifar11'",
        ),
        (dict(name=3), "found '3'"),
        (dict(name="digits", split="val"), r"expected one of \('train', 'test'\), found 'val'"),
        (dict(name="digits", size=0), "whole number of 1 or more.*found 0"),
        (dict(name="digits", size=10.0), "whole number of 1 or more.*found 10.0"),
        (
            dict(name="digits", size=1797),
            "expected 1797 or more pictures in the train split, found 1435",
        ),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        data.load(**arguments)


def test_options_are_for_shapes_only():
    with pytest.raises(TypeError, match="spurious"):
        data.load("digits", spurious=0.5)


def test_shapes_splits_never_share_a_seed(monkeypatch):
    calls = []

    def render(size, *, seed, **options):
        calls.append((size, seed, options))

    monkeypatch.setattr(shapes, "render", render)
    for split in ("train", "test"):
        for seed in range(5):
            data.load("shapes", split=split, seed=seed, spurious=0.9)
    assert len({seed for _, seed, _ in calls}) == 10
    assert calls[0] == (10_000, 0, {"spurious": 0.9})


def test_shapes_load():
    train = data.load("shapes", size=20)
    test = data.load("shapes", size=20, split="test")
    assert isinstance(train, data.ImageSet)
    assert len(train) == 20
    assert not torch.equal(train.images, test.images)


# --- pneumonia ------------------------------------------------------------------------------------


@pytest.fixture
def xrays(cache, monkeypatch, tmp_path):
    """A small pneumoniamnist.npz of random pixels; returns its arrays."""
    monkeypatch.setattr(pneumonia, "MEDMNIST_FOLDER", tmp_path / "absent")
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 12), ("val", 6), ("test", 9)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, 2, (count, 1), dtype=np.uint8)
    cache.mkdir()
    np.savez(cache / "pneumoniamnist.npz", **arrays)
    return arrays


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_pneumonia(xrays, split):
    scans = data.load("pneumonia", split=split)
    expected = torch.from_numpy(xrays[f"{split}_images"])
    assert scans.images.shape == (len(expected), 3, 32, 32)
    assert scans.class_names == ("normal", "pneumonia")
    for channel in range(3):
        assert torch.equal(scans.images[:, channel, 2:-2, 2:-2], expected)
    assert torch.equal(scans.images[:, :, 0], scans.images[:, :, 2])  # the edge is repeated
    assert scans.labels.tolist() == xrays[f"{split}_labels"].reshape(-1).tolist()
    assert scans.labels.dtype == torch.int64


def test_pneumonia_where_medmnist_puts_it(xrays, cache, monkeypatch, tmp_path):
    shutil.move(cache, tmp_path / "medmnist")
    assert not data.available("pneumonia")
    monkeypatch.setattr(pneumonia, "MEDMNIST_FOLDER", tmp_path / "medmnist")
    assert data.available("pneumonia")
    assert len(data.load("pneumonia")) == 12


def test_absent_pneumonia(xrays, cache):
    (cache / "pneumoniamnist.npz").unlink()
    words = r"expected pneumoniamnist\.npz in .*found none; copy it there"
    with pytest.raises(OSError, match=words):
        data.load("pneumonia")


@pytest.mark.parametrize("damage", ["half", "empty", "text"])
def test_damaged_pneumonia(xrays, cache, damage):
    path = cache / "pneumoniamnist.npz"
    raw = path.read_bytes()
    damaged = {"half": raw[: len(raw) // 2], "empty": b"", "text": b"not a zip file"}
    path.write_bytes(damaged[damage])
    words = r"pneumoniamnist\.npz: expected MedMNIST's arrays, found it damaged"
    with pytest.raises(ValueError, match=words):
        data.load("pneumonia")


def test_pneumonia_as_published(monkeypatch, tmp_path):
    """The real file where it is on the disk, else one of random pixels in its layout."""
    counts = {"train": (1214, 3494), "val": (135, 389), "test": (234, 390)}
    if (REAL / "pneumoniamnist.npz").exists():
        monkeypatch.setenv("REPLEARN_DATA", str(REAL))
    else:
        rng = np.random.default_rng(0)
        arrays = {}
        for split, by_class in counts.items():
            labels = rng.permutation(np.repeat([0, 1], by_class).astype(np.uint8))
            arrays[f"{split}_images"] = rng.integers(0, 256, (len(labels), 28, 28), np.uint8)
            arrays[f"{split}_labels"] = labels[:, None]
        np.savez(tmp_path / "pneumoniamnist.npz", **arrays)
        monkeypatch.setenv("REPLEARN_DATA", str(tmp_path))
    for split in ("val", "test"):  # some copies have fewer to train on
        scans = data.load("pneumonia", split=split)
        assert tuple(torch.bincount(scans.labels).tolist()) == counts[split]  # Yang et al. 2023
        assert scans.images.shape == (sum(counts[split]), 3, 32, 32)


# --- folders of images ----------------------------------------------------------------------------


def test_folder_with_splits(tmp_path):
    folder = tmp_path / "mine"
    train_paths = write_images(folder / "train", ["cat", "ant"], 6)
    write_images(folder / "test", ["cat", "ant"], 2, seed=1)
    train = data.load(folder)
    test = data.load(str(folder), split="test")
    assert len(train) == 12
    assert len(test) == 4
    assert train.class_names == ("ant", "cat")
    assert test.class_names == ("ant", "cat")

    expected = {}
    for path in train_paths:
        with Image.open(path) as image:
            cropped = ImageOps.fit(image, (32, 32))
            expected[as_bytes(as_tensor(cropped))] = path.parent.name
    for image, label in zip(train.images, train.labels, strict=True):
        assert expected[as_bytes(image)] == train.class_names[label]
    assert len(set(train.labels[:6].tolist())) == 2  # not class after class
    assert data.load(folder, size=2).labels.bincount().tolist() == [1, 1]


def test_folder_without_splits_gets_a_fixed_fifth(tmp_path):
    folder = tmp_path / "mine"
    write_images(folder, ["a", "b", "c"], 10)
    (folder / "notes.txt").write_text("not a class")
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / "a" / "._0.png").write_bytes(b"what macOS leaves behind")
    (folder / "a" / "Thumbs.db").write_bytes(b"what Windows leaves behind")
    train = data.load(folder)
    test = data.load(folder, split="test")
    assert torch.bincount(train.labels).tolist() == [8, 8, 8]
    assert torch.bincount(test.labels).tolist() == [2, 2, 2]
    assert not set(sorted_bytes(train.images)) & set(sorted_bytes(test.images))
    shutil.move(folder, tmp_path / "moved")
    assert torch.equal(data.load(tmp_path / "moved", split="test").images, test.images)


def test_square_crop_and_resize_are_centered_and_antialiased(tmp_path):
    folder = tmp_path / "f"
    small_paths = write_images(folder, ["a", "b"], 2, size=(32, 32))
    stripes = np.zeros((256, 512, 3), dtype=np.uint8)
    stripes[:, 128:384:2] = 255  # one-pixel stripes in the middle square, black outside it
    Image.fromarray(stripes).save(folder / "a" / "wide.png")
    Image.fromarray(stripes.transpose(1, 0, 2)).save(folder / "b" / "tall.png")
    images = both_splits(folder)
    gray = [image for image in images if image.float().std() < 20]
    assert len(gray) == 2
    for image in gray:
        inner = image[:, 2:-2, 2:-2].float()
        assert (inner - 127.5).abs().max() < 8
    unchanged = {as_bytes(as_tensor(Image.open(path))) for path in small_paths}
    assert unchanged <= set(sorted_bytes(images))  # a 32 x 32 image is left as it is


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    suffix = "tif" if mode == "CMYK" else "png"
    for i, name in enumerate(["a", "b"]):
        (tmp_path / "f" / name).mkdir(parents=True)
        for j in range(2):
            image = Image.new("RGB", (32, 32), (200, 40 * i, 40 * j)).convert(mode)
            image.save(tmp_path / "f" / name / f"{j}.{suffix}")
    assert data.load(tmp_path / "f").images.shape == (2, 3, 32, 32)


def test_camera_rotation_is_undone_and_large_jpeg_reads_close_to_exact(tmp_path):
    folder = tmp_path / "f"
    write_images(folder / "train", ["a", "b"], 1)
    write_images(folder / "test", ["b"], 1)
    y, x = np.mgrid[:900, :1200]
    photo = Image.fromarray(np.stack([x / 5, y / 4, (x + y) / 9], -1).astype(np.uint8))
    orientation = 0x0112
    exif = Image.Exif()
    exif[orientation] = 6  # the camera was held upright
    (folder / "test" / "a").mkdir()
    photo.save(folder / "test" / "a" / "0.jpg", quality=95, exif=exif)
    test = data.load(folder, split="test")
    image = test.images[test.labels == 0][0]
    upright = ImageOps.fit(photo.transpose(Image.Transpose.ROTATE_270), (32, 32))
    assert (image.float() - as_tensor(upright).float()).abs().max() <= 6


def png_bomb(side):
    """Return a few bytes of PNG that promise side x side pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    raw = b"\x89PNG\r\n\x1a\n"
    for body in (header, b"IDAT", b"IEND"):
        length = struct.pack(">I", len(body) - 4)
        checksum = struct.pack(">I", zlib.crc32(body))
        raw += length + body + checksum
    return raw


def floats():
    """Return the bytes of a TIFF file of floating-point numbers."""
    file = io.BytesIO()
    Image.fromarray(np.full((40, 40), 0.5, dtype=np.float32)).save(file, "TIFF")
    return file.getvalue()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("half", ""),
        ("empty", ""),
        ("text", ""),
        ("floats", "found floating-point numbers"),
        ("bomb", "pixels"),
        ("many chunks", "chunks, found more"),
        ("larger bomb", ""),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_broken_images_are_named(tmp_path, damage, reason):
    path = write_images(tmp_path / "f", ["a", "b"], 3)[1]
    whole = path.read_bytes()
    broken = {
        "half": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"hello",
        "floats": floats(),
        "many chunks": whole[:33] + 50_000 * (bytes(4) + b"abCd" + bytes(4)) + whole[33:],
        "bomb": png_bomb(8000),
        "larger bomb": png_bomb(60_000),
    }
    path.write_bytes(broken[damage])
    words = r"f/a/1\.png: expected a picture, found .+; repair them"
    with pytest.raises(ValueError, match=words) as error:
        data.load(tmp_path / "f")
    assert reason in str(error.value)
    path.write_bytes(whole)
    assert len(data.load(tmp_path / "f")) == 4  # nothing wrong was kept


@pytest.mark.parametrize(
    ("layout", "words"),  # a name that ends in / is an empty folder
    [
        ([], "found the folders"),
        (["cat/0.png"], r"two classes or more.*found the folders \[\['cat'\]\]"),
        (["0.png", "1.png"], "found the folders"),
        (["train/cat/0.png", "test/cat/0.png"], r"two classes or more"),
        (["train/cat/0.png", "train/dog/0.png"], "train/<class>/ and test/<class>/"),
        (["train/cat/0.png", "train/dog/0.png", "test/"], "test/<class>/"),
        (
            ["train/cat/0.png", "train/dog/0.png", "test/dog/0.png", "test/cow/0.png"],
            "found cow in test/ but not in train/",
        ),
        (["cat/0.png", "dog/0.png", "cow/"], "found no pictures in cow/"),
        (["train/cat/0.png", "train/dog/0.png", "test/cow/0.png"], "test ones also in train.*cow"),
        (["cat/0.png", "dog/"], r"in every <class>/.*\['cat', 'dog'\].*pictures in \[\['cat'\]\]"),
        (["ant/0.png", "cat/0.png", "dog/"], r"found the folders \[\['ant', 'cat', 'dog'\]\]"),
        (["cat/0.png", "dog/0.xyz"], r"\.jpg .*\['cat', 'dog'\].*pictures in \[\['cat'\]\]"),
    ],
)
def test_folders_that_cannot_be_a_data_set(tmp_path, layout, words):
    folder = tmp_path / "f"
    folder.mkdir()
    for name in layout:
        path = folder / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32)).save(path, "PNG")
    with pytest.raises(ValueError, match=words):
        data.load(folder)


def test_all_damaged_files_are_listed_and_can_be_left_out(tmp_path):
    paths = write_images(tmp_path / "f", ["a", "b"], 10)
    damaged = [paths[3], paths[12], paths[15]]
    for path in damaged:
        path.write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match="load with skip_damaged=True") as error:
        data.load(tmp_path / "f")
    for path in damaged:
        assert str(path) in str(error.value)
    with pytest.warns(UserWarning, match="damaged files skipped"):
        train = data.load(tmp_path / "f", skip_damaged=True)
    test = data.load(tmp_path / "f", split="test", skip_damaged=True)
    assert len(train) + len(test) == 17
    for path in paths:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="and 10 more"):
        data.load(tmp_path / "f", skip_damaged=True)


def test_what_is_skipped_is_counted(tmp_path):
    folder = tmp_path / "f"
    paths = write_images(folder, ["a", "b"], 10)
    paths[0].rename(paths[0].with_suffix(".jfif"))  # a JPEG's other name: it is read
    paths[1].rename(paths[1].with_suffix(".xyz"))
    paths[2].rename(paths[2].with_suffix(""))
    (folder / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    write_images(folder / "a", ["inner"], 4)
    for name in ("__MACOSX", "@eaDir", ".ipynb_checkpoints"):
        (folder / name).mkdir()
    (folder / "a" / "Thumbs.db").write_bytes(b"what Windows leaves behind")
    with pytest.warns(UserWarning, match="7 files skipped") as caught:
        train = data.load(folder)
    (sentence,) = [str(warning.message) for warning in caught]
    for kind in ("in the sub-folder a/inner 4", ".xyz 1", "without a suffix 1", "broken links 1"):
        assert kind in sentence
    assert train.class_names == ("a", "b")
    assert len(train) + len(data.load(folder, split="test")) == 18


def test_kinds_that_pillow_reads_here_are_read(tmp_path, monkeypatch):
    """HEIC needs a plug-in: here one whose files are PNG inside."""
    kinds = (".heic", ".heif")
    paths = write_images(tmp_path / "f", ["a", "b"], 10)
    for path, kind in zip(paths, kinds, strict=False):
        path.rename(path.with_suffix(kind))

    def count():
        return sum(len(data.load(tmp_path / "f", split=split)) for split in ("train", "test"))

    Image.init()
    for kind in kinds:
        monkeypatch.delitem(Image.EXTENSION, kind, raising=False)
    with pytest.warns(UserWarning, match=r"2 files skipped: \.heic 1, \.heif 1"):
        assert count() == 18
    for kind in kinds:
        monkeypatch.setitem(Image.EXTENSION, kind, "PNG")
    assert count() == 20
    if ".avif" in Image.EXTENSION:
        Image.new("RGB", (40, 40), (200, 30, 30)).save(paths[0].with_suffix(".avif"))
        assert count() == 21


@pytest.mark.parametrize("names", [("train", "val"), ("Train", "Validation")])
def test_val_beside_train_is_the_test_split(tmp_path, names):
    write_images(tmp_path / names[0], ["a", "b"], 3)
    write_images(tmp_path / names[1], ["a", "b"], 2)
    with pytest.warns(UserWarning, match="is taken as the test split"):
        assert len(data.load(tmp_path)) == 6
    with pytest.warns(UserWarning, match="is taken as the test split"):
        assert len(data.load(tmp_path, split="test")) == 4


def test_val_beside_train_and_test_is_a_split_of_its_own(tmp_path):
    for count, split in enumerate(("train", "val", "TEST"), 1):
        write_images(tmp_path / split, ["a", "b"], count)
    sizes = [len(data.load(tmp_path, split=split)) for split in ("train", "val", "test")]
    assert sizes == [2, 4, 6]


def test_class_names_that_look_the_same_are_the_same(tmp_path):
    for split, form in (("train", "NFC"), ("test", "NFD")):
        names = [unicodedata.normalize(form, name) for name in ("caf\u00e9", "zebra")]
        write_images(tmp_path / split, names, 2)
    test = data.load(tmp_path, split="test")
    assert test.class_names == ("caf\u00e9", "zebra")
    assert test.labels.bincount().tolist() == [2, 2]


@pytest.mark.parametrize("name", ["x" * 244, "[a]*?", "\u732b \U0001f600", "a:b"])
def test_any_name_of_a_folder_will_do(tmp_path, name):
    write_images(tmp_path / name, ["[cat]", "dog*"], 5)
    assert data.load(tmp_path / name).class_names == ("[cat]", "dog*")


def test_a_class_of_one_image_is_for_training(tmp_path):
    write_images(tmp_path / "f", ["a", "b"], 1)
    assert len(data.load(tmp_path / "f")) == 2
    with pytest.raises(ValueError, match="expected 1 or more pictures in the test split, found 0"):
        data.load(tmp_path / "f", split="test")


# --- what is kept of a folder ---------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A folder of two classes with five images each."""
    write_images(tmp_path / "mine", ["a", "b"], 5)
    return tmp_path / "mine"


@pytest.fixture
def decoded(monkeypatch):
    """A list that gets the number of images of each call that decodes some."""
    counts = []
    decode_all = image_folder._decode_all

    def counting_decode_all(image_files, **options):
        counts.append(len(image_files))
        return decode_all(image_files, **options)

    monkeypatch.setattr(image_folder, "_decode_all", counting_decode_all)
    return counts


def test_second_load_decodes_nothing(folder, decoded, cache):
    first = data.load(folder)
    test = data.load(folder, split="test")
    again = data.load(folder)
    assert decoded == [10]
    assert len(list(cache.iterdir())) == 1
    assert torch.equal(first.images, again.images)
    assert first.class_names == ("a", "b")
    assert again.class_names == ("a", "b")
    for part in (first, test, again):
        assert part.images.is_contiguous()
        assert part.images.dtype == torch.uint8


def test_a_changed_folder_is_read_again(folder, decoded):
    before = both_splits(folder)
    write_images(folder, ["a"], 1, seed=7)  # same name, other image
    after = both_splits(folder)
    assert decoded == [10, 10]
    assert len(set(sorted_bytes(after)) - set(sorted_bytes(before))) == 1
    (folder / "b" / "4.png").unlink()
    assert len(data.load(folder)) == 4 + 3
    assert decoded == [10, 10, 9]
    (folder / "b").rename(folder / "c")
    assert data.load(folder).class_names == ("a", "c")


def test_same_name_elsewhere_is_another_folder(folder, tmp_path, decoded):
    other = tmp_path / "other" / "mine"
    write_images(other, ["x", "y"], 5, seed=3)
    assert data.load(folder).class_names == ("a", "b")
    assert data.load(other).class_names == ("x", "y")
    data.load(folder)
    assert decoded == [10, 10]


def with_a_bit_flipped(raw):
    changed = bytearray(raw)
    changed[raw.index(b"images.npy") + 5000] ^= 1
    return bytes(changed)


def pickled_array(folder):
    """Return the bytes of an array of objects, which NumPy could only read by unpickling it."""
    path = folder / "objects.npy"
    np.save(path, np.array([print], dtype=object), allow_pickle=True)
    return path.read_bytes()


@pytest.mark.parametrize("damage", ["flip", "half", "empty", "text", "pickle"])
def test_damaged_cache_is_never_trusted(folder, decoded, cache, tmp_path, damage):
    good = data.load(folder)
    (path,) = cache.iterdir()
    raw = path.read_bytes()
    damaged = {
        "flip": with_a_bit_flipped(raw),
        "half": raw[: len(raw) // 2],
        "empty": b"",
        "text": b"hello",
        "pickle": pickled_array(tmp_path),
    }
    path.write_bytes(damaged[damage])
    with pytest.warns(UserWarning, match="damaged, and made anew"):
        assert torch.equal(data.load(folder).images, good.images)
    assert torch.equal(data.load(folder).images, good.images)
    assert decoded == [10, 10]


def test_folder_that_cannot_be_written_costs_one_sentence(folder, decoded, tmp_path, monkeypatch):
    good = data.load(folder)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("REPLEARN_DATA", str(tmp_path / "file" / "cache"))
    words = "not written .*so the next call takes as long"
    with pytest.warns(UserWarning, match=words) as warned:
        assert torch.equal(data.load(folder).images, good.images)
    assert len(warned) == 1


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX permissions")
def test_read_only_cache_folder(monkeypatch):
    # pytest's own temporary folders are closed to other users.
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        base.chmod(0o755)
        monkeypatch.setenv("REPLEARN_DATA", str(base / "cache"))
        write_images(base / "mine", ["a", "b"], 5)
        good = data.load(base / "mine")
        shutil.rmtree(base / "cache")
        (base / "cache").mkdir(mode=0o555)
        user = os.geteuid()
        nobody = 65534
        os.seteuid(nobody if user == 0 else user)  # root may write anywhere
        try:
            with pytest.warns(UserWarning, match=r"not written .*Permission denied"):
                assert torch.equal(data.load(base / "mine").images, good.images)
            words = r"cache: expected a writable folder, found .*Permission denied"
            with pytest.raises(OSError, match=words):
                data.load("cifar10")
        finally:
            os.seteuid(user)
        assert list((base / "cache").iterdir()) == []


def test_interrupted_write_leaves_nothing(folder, decoded, cache, monkeypatch):
    written = []

    def interrupted_savez(file, **arrays):
        file.write(b"PK")
        file.flush()
        written.extend(path.read_bytes() for path in cache.iterdir())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", interrupted_savez)
        with pytest.raises(KeyboardInterrupt):
            data.load(folder)
    assert written == [b"PK"]
    assert list(cache.iterdir()) == []
    data.load(folder)
    assert decoded == [10, 10]


def test_threads_at_once(folder, cache):
    results = []

    def load():
        results.append(data.load(folder).images)

    threads = [threading.Thread(target=load) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    assert all(torch.equal(images, results[0]) for images in results)
    assert len(list(cache.iterdir())) == 1


# --- real photographs -----------------------------------------------------------------------------


@pytest.mark.skipif(
    not (REAL / "cifar10" / "train").is_dir(),
    reason="no image folder cifar10/train in $REPLEARN_DATA",
)
def test_real_photographs_by_the_image_folder_route(cache):
    for split, count in (("train", 100), ("test", 20)):
        for kind in cifar10.CLASS_NAMES:
            target = cache / "cifar10" / split / kind
            target.mkdir(parents=True)
            for path in sorted((REAL / "cifar10" / split / kind).iterdir())[:count]:
                shutil.copy(path, target)
    assert data.available("cifar10")
    train = data.load("cifar10")
    test = data.load("cifar10", split="test")
    assert train.class_names == cifar10.CLASS_NAMES
    assert test.class_names == cifar10.CLASS_NAMES
    assert torch.bincount(train.labels).tolist() == [100] * 10
    assert torch.bincount(test.labels).tolist() == [20] * 10

    kinds = {}
    for kind in cifar10.CLASS_NAMES:
        for path in (cache / "cifar10" / "test" / kind).iterdir():
            with Image.open(path) as image:
                kinds[hashlib.sha256(as_bytes(as_tensor(image))).digest()] = kind
    for image, label in zip(test.images, test.labels, strict=True):
        kind = kinds[hashlib.sha256(as_bytes(image)).digest()]
        assert kind == cifar10.CLASS_NAMES[label]

    means = []
    for label in range(10):
        members = train.images[train.labels == label].float()
        means.append(members.mean(0).flatten())
    nearest = torch.cdist(test.images.flatten(1).float(), torch.stack(means)).argmin(1)
    assert (nearest == test.labels).float().mean() > 0.15  # chance is 0.10


@pytest.mark.parametrize(
    "change",
    [
        dict(images=np.zeros((4, 3, 64, 64), np.uint8)),
        dict(images=np.zeros((4, 3, 32, 32), np.float32)),
        dict(labels=np.array([0, 1, 2, 10])),
        dict(labels=np.array([0, 1])),
        dict(part=np.array([0, 0, 1, 2])),
        dict(class_names=("cat", "dog")),
    ],
)
def test_a_file_that_is_not_cifar10_is_refused(cache, change):
    whole = dict(
        images=np.zeros((4, 3, 32, 32), np.uint8),
        labels=np.arange(4),
        part=np.array([0, 0, 1, 1]),
        class_names=cifar10.CLASS_NAMES,
    )
    arrays = {**whole, **change}
    names = arrays.pop("class_names")
    cache.mkdir(parents=True, exist_ok=True)
    np.savez(cache / cifar10.CACHE_FILE, names=names, key="", **arrays)
    with pytest.raises(ValueError, match=r"cifar10\.npz: expected CIFAR-10, uint8"):
        data.load("cifar10")


def test_xrays_of_another_size_are_refused(cache):
    arrays = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = np.zeros((3, 64, 64), np.uint8)
        arrays[f"{split}_labels"] = np.zeros((3, 1), np.uint8)
    cache.mkdir(parents=True, exist_ok=True)
    np.savez(cache / pneumonia.FILE, **arrays)
    with pytest.raises(ValueError, match=r"images of uint8 \(64, 64\), not uint8 \(28, 28\)"):
        data.load("pneumonia")


def test_chance_is_the_share_of_the_most_frequent_class():
    images = torch.zeros(5, 3, 8, 8, dtype=torch.uint8)
    uneven = data.ImageSet(images, torch.tensor([2, 0, 2, 2, 1]), ("a", "b", "c"))
    assert uneven.chance == 0.6
    even = data.ImageSet(images[:4], torch.tensor([1, 0, 1, 0]), ("a", "b"))
    assert even.chance == 0.5
    with pytest.raises(ValueError, match="chance: expected pictures with labels"):
        data.ImageSet(images, None, ()).chance  # noqa: B018
