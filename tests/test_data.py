"""Data sets: what they hold, how folders of pictures are read and kept, and what bad input says."""

import ast
import hashlib
import os
import shutil
import struct
import sys
import tempfile
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from replearn import data
from replearn.data import download as data_download
from replearn.data import folder as files

REAL = Path(os.environ.get("REPLEARN_DATA", "absent"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REPLEARN_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pictures(folder, classes, count=5, size=(40, 30), seed=0):
    """Write random PNG pictures folder/<class>/<i>.png and return their paths."""
    rng, paths = np.random.default_rng(seed), []
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            paths.append(folder / name / f"{i}.png")
            Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(
                paths[-1]
            )
    return paths


def tensor(image):
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def rows(images):
    """Return the pictures as a sorted list of bytes, to compare sets whatever their order."""
    return sorted(picture.numpy().tobytes() for picture in images)


# ImageSet


def test_image_set_subset_and_device():
    images = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 3, 32, 32)
    whole = data.ImageSet(
        images, torch.arange(6), ("a",), {"hue": torch.arange(6) / 6}, tuple("uvwxyz")
    )
    assert len(whole) == 6
    mask = torch.tensor([False, True, False, False, True, False])
    for index in ([1, 4], torch.tensor([1, 4]), slice(1, 5, 3), mask, np.array([1, 4])):
        part = whole.subset(index)
        assert part.labels.tolist() == part.images[:, 0, 0, 0].tolist() == [
            1,
            4,
        ] and part.captions == ("v", "y")
        assert torch.equal(part.factors["hue"], torch.tensor([1, 4]) / 6) and part.class_names == (
            "a",
        )
    assert len(whole.subset([])) == 0 and len(whole.subset(3)) == 1
    moved = whole.to("meta")
    assert (
        moved.images.device.type
        == moved.labels.device.type
        == moved.factors["hue"].device.type
        == "meta"
    )
    assert moved.captions == whole.captions
    with pytest.raises(IndexError):
        whole.subset([6])


def test_importing_is_light():
    for module in (data, data_download):
        body = ast.parse(Path(module.__file__).read_text()).body
        names = [
            alias.name for line in body if isinstance(line, ast.Import) for alias in line.names
        ]
        names += [line.module for line in body if isinstance(line, ast.ImportFrom)]
        assert {name.split(".")[0] for name in names} <= {
            *sys.stdlib_module_names,
            "numpy",
            "torch",
        }


def test_cache_folder(monkeypatch):
    monkeypatch.setenv("REPLEARN_DATA", "~/pictures")
    assert data.cache_folder() == Path.home() / "pictures"
    monkeypatch.setenv("REPLEARN_DATA", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert data.cache_folder() == Path("/x/replearn")
    monkeypatch.delenv("XDG_CACHE_HOME")
    for platform, home in (
        ("linux", ".cache"),
        ("darwin", "Library/Caches"),
        ("win32", "AppData/Local"),
    ):
        monkeypatch.setattr(sys, "platform", platform)
        assert data.cache_folder() == Path.home() / home / "replearn"


# load


def test_digits_are_the_scans():
    from sklearn.datasets import load_digits

    train, test = data.load("digits"), data.load("digits", split="test")
    assert len(train) + len(test) == 1797 and 0.19 < len(test) / 1797 < 0.21
    assert (
        train.images.dtype == torch.uint8
        and train.images.shape[1:] == (3, 32, 32)
        and train.images.max() == 255
    )
    assert train.class_names == tuple("0123456789") and train.labels.dtype == torch.int64
    shares = torch.bincount(test.labels) / (
        torch.bincount(test.labels) + torch.bincount(train.labels)
    )
    assert (shares - 0.2).abs().max() < 0.01
    expected = {}
    for scan, label in zip(*load_digits(return_X_y=True), strict=True):
        image = Image.fromarray((scan.reshape(8, 8) * 255 / 16).astype(np.float32))
        resized = np.round(np.array(image.resize((32, 32), Image.Resampling.BILINEAR))).astype(
            np.uint8
        )
        expected[resized.tobytes()] = label
    pairs = zip(test.images[:, 0].numpy(), test.labels.tolist(), strict=True)
    same = [expected.get(picture.tobytes()) == label for picture, label in pairs]
    assert np.mean(same) > 0.9  # the rest differ in a rounding
    assert (test.images == test.images[:, :1]).all()  # gray
    assert not set(rows(train.images)) & set(rows(test.images))


def test_size_is_seeded_stratified_and_nested():
    small, again, other = (data.load("digits", size=100, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(small.images, again.images) and not torch.equal(small.images, other.images)
    assert torch.bincount(small.labels).tolist() == [10] * 10
    large = data.load("digits", size=200, seed=1)
    assert (
        torch.equal(large.images[:100], small.images)
        and torch.bincount(large.labels[:50]).tolist() == [5] * 10
    )
    assert len(set(rows(large.images))) == 200
    everything, shuffled = data.load("digits"), data.load("digits", size=1435)
    assert rows(everything.images) == rows(shuffled.images)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            dict(name="cifar11"),
            "expected shapes, digits, cifar10, pneumonia or a folder of pictures, found 'cifar11'",
        ),
        (dict(name=3), "found 3"),
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
    shapes = pytest.importorskip("replearn.data.shapes")
    seen = []
    monkeypatch.setattr(
        shapes, "render", lambda size, *, seed, **options: seen.append((size, seed, options))
    )
    for split in ("train", "test"):
        for seed in range(5):
            data.load("shapes", split=split, seed=seed, spurious=0.9)
    assert len({seed for _, seed, _ in seen}) == 10 and seen[0] == (10_000, 0, {"spurious": 0.9})


def test_shapes_load():
    pytest.importorskip("replearn.data.shapes")
    train, test = data.load("shapes", size=20), data.load("shapes", size=20, split="test")
    assert (
        isinstance(train, data.ImageSet)
        and len(train) == 20
        and not torch.equal(train.images, test.images)
    )


def test_available(cache, tmp_path):
    assert data.available("shapes") and data.available("digits")
    assert not data.available("cifar10") and not data.available("no such thing")
    assert data.available(tmp_path)
    for name in ("cifar10.npz", "cifar-10-batches-py", "cifar10", "cifar-10-python.tar.gz"):
        (cache / name).mkdir(parents=True)
        assert data.available("cifar10"), name
        (cache / name).rmdir()


# pneumonia


def test_pneumonia(cache, monkeypatch):
    cache.mkdir()
    monkeypatch.setitem(data.ON_DISK, "pneumonia", data.ON_DISK["pneumonia"][:1])
    with pytest.raises(
        OSError, match=r"expected pneumoniamnist\.npz in .*found none; copy it there"
    ):
        data.load("pneumonia")
    rng, arrays = np.random.default_rng(0), {}
    for split, count in (("train", 12), ("val", 6), ("test", 9)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, 2, (count, 1), dtype=np.uint8)
    np.savez(cache / "pneumoniamnist.npz", **arrays)
    for split in ("train", "val", "test"):
        scans = data.load("pneumonia", split=split)
        expected = torch.from_numpy(arrays[f"{split}_images"])
        assert scans.images.shape == (len(expected), 3, 32, 32) and scans.class_names == (
            "normal",
            "pneumonia",
        )
        assert all(
            torch.equal(scans.images[:, channel, 2:-2, 2:-2], expected) for channel in range(3)
        )
        assert torch.equal(scans.images[:, :, 0], scans.images[:, :, 2])  # the edge is repeated
        assert scans.labels.tolist() == arrays[f"{split}_labels"].reshape(-1).tolist()
        assert scans.labels.dtype == torch.int64
    raw = (cache / "pneumoniamnist.npz").read_bytes()
    for damaged in (raw[: len(raw) // 2], b"", b"not a zip file"):
        (cache / "pneumoniamnist.npz").write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"pneumoniamnist\.npz: expected MedMNIST's arrays, found it damaged"
        ):
            data.load("pneumonia")


@pytest.mark.skipif(
    not (REAL / "pneumoniamnist.npz").exists(), reason="no pneumoniamnist.npz in $REPLEARN_DATA"
)
def test_real_pneumonia(monkeypatch):
    monkeypatch.setenv("REPLEARN_DATA", str(REAL))
    test = data.load("pneumonia", split="test")
    assert torch.bincount(test.labels).tolist() == [234, 390]  # as published (Yang et al. 2023)


# folders of pictures


def test_folder_with_splits(tmp_path):
    folder = tmp_path / "mine"
    train_paths = pictures(folder / "train", ["cat", "ant"], 6)
    pictures(folder / "test", ["cat", "ant"], 2, seed=1)
    train, test = data.load(folder), data.load(str(folder), split="test")
    assert (
        len(train) == 12
        and len(test) == 4
        and train.class_names == ("ant", "cat") == test.class_names
    )
    expected = {}
    for path in train_paths:
        with Image.open(path) as image:
            expected[tensor(ImageOps.fit(image, (32, 32))).numpy().tobytes()] = path.parent.name
    assert [expected[x.numpy().tobytes()] for x in train.images] == [
        train.class_names[y] for y in train.labels
    ]
    assert len(set(train.labels[:6].tolist())) == 2  # not class after class
    assert data.load(folder, size=2).labels.bincount().tolist() == [1, 1]


def test_folder_without_splits_gets_a_fixed_fifth(tmp_path):
    folder = tmp_path / "mine"
    pictures(folder, ["a", "b", "c"], 10)
    (folder / "notes.txt").write_text("not a class")
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / "a" / "._0.png").write_bytes(b"what macOS leaves behind")
    (folder / "a" / "Thumbs.db").write_bytes(b"what Windows leaves behind")
    train, test = data.load(folder), data.load(folder, split="test")
    assert torch.bincount(train.labels).tolist() == [8, 8, 8] and torch.bincount(
        test.labels
    ).tolist() == [2, 2, 2]
    assert not set(rows(train.images)) & set(rows(test.images))
    shutil.move(folder, tmp_path / "moved")
    assert torch.equal(data.load(tmp_path / "moved", split="test").images, test.images)


def test_square_crop_and_resize_are_centered_and_antialiased(tmp_path):
    pictures(tmp_path / "f", ["a", "b"], 2, size=(32, 32))
    stripes = np.zeros((256, 512, 3), dtype=np.uint8)
    stripes[:, 128:384:2] = 255  # one-pixel stripes in the middle square, black outside it
    Image.fromarray(stripes).save(tmp_path / "f/a/wide.png")
    Image.fromarray(stripes.transpose(1, 0, 2)).save(tmp_path / "f/b/tall.png")
    images = torch.cat(
        [data.load(tmp_path / "f", split=split).images for split in ("train", "test")]
    )
    gray = [x for x in images if x.float().std() < 20]
    assert len(gray) == 2 and all((x[:, 2:-2, 2:-2].float() - 127.5).abs().max() < 8 for x in gray)
    exact = {
        tensor(Image.open(tmp_path / f"f/{c}/{i}.png")).numpy().tobytes()
        for c in "ab"
        for i in range(2)
    }
    assert exact <= set(rows(images))  # a 32 x 32 picture is left as it is


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    for i, name in enumerate(["a", "b"]):
        (tmp_path / "f" / name).mkdir(parents=True)
        for j in range(2):
            suffix = "tif" if mode == "CMYK" else "png"
            picture = Image.new("RGB", (32, 32), (200, 40 * i, 40 * j)).convert(mode)
            picture.save(tmp_path / "f" / name / f"{j}.{suffix}")
    assert data.load(tmp_path / "f").images.shape == (2, 3, 32, 32)


def test_camera_rotation_is_undone_and_large_jpeg_reads_close_to_exact(tmp_path):
    pictures(tmp_path / "f/train", ["a", "b"], 1)
    pictures(tmp_path / "f/test", ["b"], 1)
    y, x = np.mgrid[:900, :1200]
    photo = Image.fromarray(np.stack([x / 5, y / 4, (x + y) / 9], -1).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    (tmp_path / "f/test/a").mkdir()
    photo.save(tmp_path / "f/test/a/0.jpg", quality=95, exif=exif)
    test = data.load(tmp_path / "f", split="test")
    picture = test.images[test.labels == 0][0]
    upright = ImageOps.fit(photo.transpose(Image.Transpose.ROTATE_270), (32, 32))
    assert (picture.float() - tensor(upright).float()).abs().max() <= 6


def bomb(side):
    """Return a few bytes of PNG that promise side x side pixels."""
    raw = b"\x89PNG\r\n\x1a\n"
    for body in (b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0), b"IDAT", b"IEND"):
        raw += struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return raw


def test_broken_pictures_are_named(tmp_path):
    path = pictures(tmp_path / "f", ["a", "b"], 3)[1]
    whole = path.read_bytes()
    sixteen = tmp_path / "16.png"
    Image.fromarray(np.full((40, 40), 40_000, dtype=np.uint16)).save(sixteen)
    broken = {
        "half": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"hello",
        "16 bits": sixteen.read_bytes(),
        "bomb": bomb(8000),
        "larger bomb": bomb(60_000),
    }
    for what, raw in broken.items():
        path.write_bytes(raw)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's own, of the larger bomb
            with pytest.raises(
                ValueError, match=r"f/a/1\.png: expected a picture, found .+; repair it"
            ) as error:
                data.load(tmp_path / "f")
        assert what != "bomb" or "pixels" in str(error.value)
        assert what != "16 bits" or "8 bits" in str(error.value)
    path.write_bytes(whole)
    assert len(data.load(tmp_path / "f")) == 4  # nothing wrong was kept


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ([], "found the folders"),
        (["cat/0.png"], r"two classes or more.*found the folders \[\['cat'\]\]"),
        (["0.png", "1.png"], "found the folders"),
        (["train/cat/0.png", "test/cat/0.png"], r"two classes or more"),
        (["train/cat/0.png", "train/dog/0.png"], "train/<class>/ and test/<class>/"),
        (["train/cat/0.png", "train/dog/0.png", "test/"], "test/<class>/"),
        (["train/cat/0.png", "train/dog/0.png", "test/cow/0.png"], "test ones also in train.*cow"),
        (["cat/0.png", "dog/"], r"in every <class>/.*\['cat', 'dog'\].*pictures in \[\['cat'\]\]"),
        (["ant/0.png", "cat/0.png", "dog/"], r"found the folders \[\['ant', 'cat', 'dog'\]\]"),
        (["cat/0.png", "dog/0.heic"], r"\.jpg .*\['cat', 'dog'\].*pictures in \[\['cat'\]\]"),
    ],
)
def test_folders_that_cannot_be_a_data_set(tmp_path, layout, words):
    folder = tmp_path / "f"
    folder.mkdir()
    for name in layout:
        (folder / name if name[-1] == "/" else (folder / name).parent).mkdir(
            parents=True, exist_ok=True
        )
        if name[-1] != "/":
            Image.new("RGB", (32, 32)).save(folder / name, "PNG")
    with pytest.raises(ValueError, match=words):
        data.load(folder)


def test_a_class_of_one_picture_is_for_training(tmp_path):
    pictures(tmp_path / "f", ["a", "b"], 1)
    assert len(data.load(tmp_path / "f")) == 2
    with pytest.raises(ValueError, match="expected 1 or more pictures in the test split, found 0"):
        data.load(tmp_path / "f", split="test")


# what is kept of a folder


@pytest.fixture
def folder(tmp_path):
    pictures(tmp_path / "mine", ["a", "b"], 5)
    return tmp_path / "mine"


@pytest.fixture
def decoded(monkeypatch):
    """Count how many pictures are decoded."""
    counts, decode = [], files._decode
    monkeypatch.setattr(files, "_decode", lambda files: counts.append(len(files)) or decode(files))
    return counts


def test_second_load_decodes_nothing(folder, decoded, cache):
    first = [data.load(folder, split=split) for split in ("train", "test", "train")]
    assert decoded == [10] and len(list(cache.iterdir())) == 1
    assert torch.equal(first[0].images, first[2].images) and first[0].class_names == first[
        2
    ].class_names == ("a", "b")
    assert all(part.images.is_contiguous() and part.images.dtype == torch.uint8 for part in first)


def test_a_changed_folder_is_read_again(folder, decoded):
    before = torch.cat([data.load(folder, split=split).images for split in ("train", "test")])
    pictures(folder, ["a"], 1, seed=7)  # same name, other picture
    after = torch.cat([data.load(folder, split=split).images for split in ("train", "test")])
    assert decoded == [10, 10] and len(set(rows(after)) - set(rows(before))) == 1
    (folder / "b" / "4.png").unlink()
    assert len(data.load(folder)) == 4 + 3 and decoded == [10, 10, 9]
    (folder / "b").rename(folder / "c")
    assert data.load(folder).class_names == ("a", "c")


def test_same_name_elsewhere_is_another_folder(folder, tmp_path, decoded):
    pictures(tmp_path / "other" / "mine", ["x", "y"], 5, seed=3)
    assert data.load(folder).class_names == ("a", "b")
    assert data.load(tmp_path / "other" / "mine").class_names == ("x", "y")
    data.load(folder)
    assert decoded == [10, 10]


@pytest.mark.parametrize("damage", ["flip", "half", "empty", "text", "pickle"])
def test_damaged_cache_is_never_trusted(folder, decoded, cache, damage):
    good = data.load(folder)
    (path,) = cache.iterdir()
    raw = bytearray(path.read_bytes())
    if damage == "pickle":
        np.save(path.with_suffix(".npy"), np.array([print], dtype=object), allow_pickle=True)
        raw = path.with_suffix(".npy").read_bytes()
        path.with_suffix(".npy").unlink()
    if damage == "flip":
        raw[raw.index(b"images.npy") + 5000] ^= 1
    path.write_bytes(
        {"flip": raw, "half": raw[: len(raw) // 2], "empty": b"", "text": b"hello", "pickle": raw}[
            damage
        ]
    )
    with pytest.warns(UserWarning, match="damaged, and made anew"):
        assert torch.equal(data.load(folder).images, good.images)
    assert torch.equal(data.load(folder).images, good.images) and decoded == [10, 10]


def test_folder_that_cannot_be_written_costs_one_sentence(folder, decoded, tmp_path, monkeypatch):
    good = data.load(folder)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("REPLEARN_DATA", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="not written .*so the next call takes as long") as seen:
        assert torch.equal(data.load(folder).images, good.images)
    assert len(seen) == 1


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX permissions")
def test_read_only_cache_folder(monkeypatch):
    with (
        tempfile.TemporaryDirectory() as base
    ):  # pytest's own temporary folders are closed to other users
        base = Path(base)
        base.chmod(0o755)
        monkeypatch.setenv("REPLEARN_DATA", str(base / "cache"))
        pictures(base / "mine", ["a", "b"], 5)
        good = data.load(base / "mine")
        shutil.rmtree(base / "cache")
        (base / "cache").mkdir(mode=0o555)
        user = os.geteuid()
        os.seteuid(65534 if user == 0 else user)  # root may write anywhere
        try:
            with pytest.warns(UserWarning, match=r"not written .*Permission denied"):
                assert torch.equal(data.load(base / "mine").images, good.images)
            with pytest.raises(
                OSError, match=r"cache: expected a writable folder, found .*Permission denied"
            ):
                data.load("cifar10")
        finally:
            os.seteuid(user)
        assert list((base / "cache").iterdir()) == []


def test_interrupted_write_leaves_nothing(folder, decoded, cache, monkeypatch):
    def half(path, **arrays):
        Path(path).write_bytes(b"PK")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", half)
        with pytest.raises(KeyboardInterrupt):
            data.load(folder)
    assert list(cache.iterdir()) == []
    data.load(folder)
    assert decoded == [10, 10]


def test_threads_at_once(folder, cache):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(data.load(folder).images)) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (
        len(results) == 6
        and all(torch.equal(x, results[0]) for x in results)
        and len(list(cache.iterdir())) == 1
    )


# real photographs


@pytest.mark.skipif(
    not (REAL / "cifar10" / "train").is_dir(),
    reason="no image folder cifar10/train in $REPLEARN_DATA",
)
def test_real_photographs_by_the_image_folder_route(cache):
    for split, count in (("train", 100), ("test", 20)):
        for kind in files.CIFAR10:
            (cache / "cifar10" / split / kind).mkdir(parents=True)
            for path in sorted((REAL / "cifar10" / split / kind).glob("*.jpg"))[:count]:
                shutil.copy(path, cache / "cifar10" / split / kind)
    assert data.available("cifar10")
    train, test = data.load("cifar10"), data.load("cifar10", split="test")
    assert train.class_names == test.class_names == files.CIFAR10
    assert (
        torch.bincount(train.labels).tolist() == [100] * 10
        and torch.bincount(test.labels).tolist() == [20] * 10
    )
    exact = {}
    for kind in files.CIFAR10:
        for path in (cache / "cifar10" / "test" / kind).iterdir():
            with Image.open(path) as image:
                exact[hashlib.sha256(tensor(image).contiguous().numpy().tobytes()).digest()] = kind
    for picture, label in zip(test.images, test.labels, strict=True):
        assert exact[hashlib.sha256(picture.numpy().tobytes()).digest()] == files.CIFAR10[label]
    means = torch.stack(
        [train.images[train.labels == y].float().mean(0).flatten() for y in range(10)]
    )
    nearest = torch.cdist(test.images.flatten(1).float(), means).argmin(1)
    assert (nearest == test.labels).float().mean() > 0.15  # chance is 0.10
