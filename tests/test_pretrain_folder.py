"""From a folder of one's own images to a served encoder: without labels, of other sizes."""

import base64
import io
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image

from replearn import augment, data, models
from replearn.__main__ import main
from replearn.data import ImageSet, shapes
from replearn.data import folder as image_folder
from replearn.pretrain import COURSE, SHAPES, Recipe, evaluate, gallery, pretrain, read_log
from replearn.pretrain.recipe import networks
from replearn.probe import extract_features

TINY = replace(SHAPES, width=4, hidden=16, out=8, batch_size=16, epochs=2)
RUN = "--recipe shapes --width 4 --hidden 16 --out 8 --batch-size 16 --epochs 1 --device cpu"

pytestmark = pytest.mark.usefixtures("one_silent_thread")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setenv("REPLEARN_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(folder, count=40, side=40, seed=0, in_classes=False):
    """Write drawn shapes as PNG files into a folder, or into a sub-folder for each class."""
    drawn = shapes.render(count, seed=seed, side=side)
    for number, (image, label) in enumerate(zip(drawn.images, drawn.labels % 2, strict=True)):
        place = folder / ("even", "odd")[label] if in_classes else folder
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{seed}-{number}.png")
    return folder


def run_command(*words):
    """Run a command with words, of which the first may be several ones in a text."""
    first, *rest = words
    main([*first.split(), *map(str, rest)])


# Images without labels


def test_a_flat_folder_is_read_without_labels(tmp_path):
    folder = write(tmp_path / "flat", 12)
    (folder / "notes.txt").write_text("x")
    (folder / "old.heic").write_bytes(b"x")
    (folder / "Thumbs.db").write_bytes(b"what Windows leaves behind")
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.warns(UserWarning, match="3 files skipped") as caught:
        images = data.load(folder, unlabeled=True)
    (sentence,) = [str(warning.message) for warning in caught]
    for kind in (".txt 1", ".heic 1", "broken links 1"):
        assert kind in sentence
    assert images.labels is None
    assert images.class_names == ()
    assert images.images.shape == (12, 3, 32, 32)
    # From the cache the same, and a part of it is still without labels.
    with pytest.warns(UserWarning, match="3 files skipped"):
        again = data.load(folder, unlabeled=True, size=5)
    assert again.subset([1, 3]).to("cpu").labels is None
    known = {image.numpy().tobytes() for image in images.images}
    assert {image.numpy().tobytes() for image in again.images} < known
    (folder / "notes.txt").unlink()
    (folder / "old.heic").unlink()
    (folder / "gone.png").unlink()
    with pytest.raises(ValueError, match="expected 1 or more pictures in the test split, found 0"):
        data.load(folder, unlabeled=True, split="test")
    with pytest.raises(ValueError, match=r"unlabeled=True \(pretrain --unlabeled\)"):
        data.load(folder)


def test_at_any_depth_only_test_beside_train_is_kept_apart(tmp_path):
    folder = tmp_path / "deep"
    write(folder / "train" / "a" / "b", 3)
    write(folder / "unlabeled" / "test", 4, seed=1)
    write(folder / "Test" / "c", 5, seed=2)
    write(folder / ".hidden", 6, seed=3)
    write(folder / "__MACOSX", 6, seed=3)
    write(folder, 2, seed=4)
    assert len(data.load(folder, unlabeled=True)) == 3 + 4 + 2
    assert len(data.load(folder, unlabeled=True, split="test")) == 5
    # No train/: then test/ is a name like others.
    other = tmp_path / "other"
    write(other / "test", 3)
    write(other / "more", 4, seed=1)
    (other / "loop").symlink_to(other)
    with pytest.warns(UserWarning, match="1 file skipped: linked folders 1"):
        assert len(data.load(other, unlabeled=True)) == 7


def test_a_folder_without_images_is_refused_without_labels(tmp_path):
    (tmp_path / "f" / "a").mkdir(parents=True)
    (tmp_path / "f" / "a" / "b.txt").write_text("x")
    with pytest.raises(ValueError, match="in its sub-folders, found 0 to train on"):
        data.load(tmp_path / "f", unlabeled=True)
    with pytest.raises(ValueError, match="unlabeled: expected the path of a folder"):
        data.load("shapes", unlabeled=True)


def test_pictures_beside_class_folders_are_counted(tmp_path):
    folder = write(tmp_path / "f", 20, in_classes=True)
    write(folder, 3, seed=1)
    with pytest.warns(UserWarning, match="3 files skipped: beside the class folders 3"):
        assert len(data.load(folder)) == 16
    assert not image_folder.is_flat(folder)
    assert not image_folder.is_flat(tmp_path / "f" / "nowhere")
    assert image_folder.is_flat(write(tmp_path / "flat", 2))


def test_what_needs_labels_says_so():
    without = ImageSet(shapes.render(30).images, None, ())
    with_labels = shapes.render(30)
    encoder = models.small_cnn(4)
    sentence = "expected pictures with labels, found 30 without"
    with pytest.raises(ValueError, match=f"train: {sentence}"):
        evaluate(encoder, without, with_labels)
    with pytest.raises(ValueError, match=f"test: {sentence}"):
        evaluate(encoder, with_labels, without)
    with pytest.raises(ValueError, match=f"pool: {sentence}"):
        gallery(encoder, with_labels, without)
    with pytest.raises(ValueError, match=rf"knn\[1\]: {sentence}"):
        pretrain(TINY, without.images, knn=(with_labels, without))


def test_pretraining_by_command_on_a_flat_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("REPLEARN_STATIC")
    folder = write(tmp_path / "flat", 40)
    labeled = write(tmp_path / "labeled", 60, in_classes=True)
    run = tmp_path / "run"
    run_command(f"pretrain {RUN}", "--data", folder, "--folder", run)
    said = capsys.readouterr().err
    sentence = "40 pictures without labels: no kNN and no online probe; --probe-data LABELED_FOLDER"
    assert said.count(sentence) == 1
    card = models.card(run)
    assert card["data"] == str(folder)
    assert card["labels"] == "none"
    assert card["recipe"]["unlabeled"] is True
    assert "knn" not in read_log(run)[-1]
    assert "online" not in read_log(run)[-1]
    # With the flag it is the same run, and it is finished.
    run_command(f"pretrain {RUN} --unlabeled", "--data", folder, "--folder", run)
    assert models.card(run) == card
    for command in (f"evaluate {run}", f"export {run} {tmp_path / 'bundle'}"):
        with pytest.raises(SystemExit, match=r"error: .*labels.*with --data LABELED_FOLDER"):
            run_command(command)
    # A labeled folder beside it measures kNN.
    probed = tmp_path / "probed"
    options = ("--data", folder, "--probe-data", labeled, "--folder", probed)
    run_command(f"pretrain {RUN}", *options)
    assert "no online probe; kNN is measured on --probe-data" in capsys.readouterr().err
    assert 0 <= read_log(probed)[-1]["knn"] <= 1
    assert (probed / "encoder.safetensors").read_bytes() == (
        run / "encoder.safetensors"
    ).read_bytes()


def test_class_folders_are_unlabeled_where_somebody_says_so(tmp_path, capsys):
    folder = write(tmp_path / "f", 40, in_classes=True)
    run_command(f"pretrain {RUN} --unlabeled", "--data", folder, "--folder", tmp_path / "a")
    assert models.card(tmp_path / "a")["labels"] == "none"
    run_command(f"pretrain {RUN}", "--data", folder, "--folder", tmp_path / "b")
    assert "labels" not in models.card(tmp_path / "b")
    assert {"knn", "online"} <= set(read_log(tmp_path / "b")[-1])
    capsys.readouterr()


def test_a_path_is_found_again_from_another_folder(tmp_path, capsys, monkeypatch):
    """A relative one, one with a colon as on Windows, and one that begins with the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    folder = write(tmp_path / "scan 2026-01-05 10:30", 130, in_classes=True)
    for number, name in enumerate((folder.name, str(folder), f"~/{folder.name}")):
        monkeypatch.chdir(tmp_path)
        run_command(f"pretrain {RUN} --folder run{number}", "--data", name)
        assert models.card(tmp_path / f"run{number}")["data"] == str(folder)
        monkeypatch.chdir(tmp_path / "elsewhere")
        run_command(f"evaluate ../run{number} --device cpu")
        assert "103 training and 27 test pictures" in capsys.readouterr().out


# Other sizes


def write_photo(folder):
    """Write one image of 300 x 200 pixels whose right half is white, into two classes."""
    pixels = np.zeros((200, 300, 3), np.uint8)
    pixels[:, 150:] = 255
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(2):
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.mark.parametrize("side", [32, 64, 96, 128])
def test_images_come_in_the_size_that_is_asked_for(tmp_path, side):
    folder = write_photo(tmp_path / "f")
    image = data.load(folder, side=side).images[0]
    assert image.shape == (3, side, side)
    assert image[:, :, : side // 2 - 2].max() == 0
    assert image[:, :, side // 2 + 2 :].min() == 255
    assert shapes.render(2, side=side).images.shape == (2, 3, side, side)


def test_the_cache_keeps_each_size(tmp_path, cache, monkeypatch):
    folder = write_photo(tmp_path / "f")
    kept = {}
    for side in (32, 64):
        kept[side] = data.load(folder, side=side).images
    unlabeled = data.load(folder, side=64, unlabeled=True).images
    assert len(list(cache.glob("f-*.npz"))) == 3
    monkeypatch.setattr(image_folder, "_decode_all", pytest.fail)
    for side, images in kept.items():
        assert torch.equal(data.load(folder, side=side).images, images)
    assert torch.equal(data.load(folder, side=64, unlabeled=True).images, unlabeled)


def test_sizes_that_make_no_sense(tmp_path, monkeypatch):
    folder = write_photo(tmp_path / "f")
    for side in (0, 15, 513, 64.0, "64"):
        with pytest.raises(ValueError, match="side: expected a whole number of pixels from 16"):
            data.load(folder, side=side)
    with pytest.raises(ValueError, match="side: expected 32, the size of the pictures of digits"):
        data.load("digits", side=64)
    for side in (15, 513, 64.0, True):
        with pytest.raises(ValueError, match="side: expected a whole number from 16 to 512"):
            Recipe(side=side)
    monkeypatch.setattr(image_folder, "_memory", lambda: 100_000)
    assert len(data.load(folder, side=32)) == 2
    with pytest.raises(ValueError, match=r"found 4 that take 0\.0 GB at 128 x 128 pixels"):
        data.load(folder, side=128)
    images = torch.zeros(16, 3, 64, 64, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"32 x 32 pixels, the side of the recipe, found 64"):
        pretrain(TINY, images)


@pytest.mark.parametrize("network", ["small_cnn", "resnet18"])
def test_the_first_layers_fit_the_size(network):
    """The last feature map has about as many places as at 32 pixels, and so has the work."""
    places = {}
    shapes_of_first = {}
    for side in (32, 64, 96, 128):
        encoder = models.build_encoder(network, 8, side).eval()
        last = []

        def keep(module, inputs, features, last=last):
            last.append(features.shape[2])

        layer = encoder.block4 if network == "small_cnn" else encoder.net.layer4
        layer.register_forward_hook(keep)
        with torch.no_grad():
            h = encoder(torch.rand(2, 3, side, side))
        assert h.shape == (2, 16 * 8 if network == "small_cnn" else 8 * 8)
        places[side] = last[0]
        shapes_of_first[side] = next(encoder.parameters()).shape[2]
    if network == "small_cnn":
        assert places == {32: 4, 64: 4, 96: 6, 128: 8}
    else:
        assert places == {32: 4, 64: 4, 96: 3, 128: 4}
    assert shapes_of_first == {32: 3, 64: 7, 96: 7, 128: 7}


def test_networks_for_32_pixels_are_as_they_were():
    for build in (models.small_cnn, models.resnet18):
        torch.manual_seed(0)
        expected = build(8).state_dict()
        torch.manual_seed(0)
        found = build(8, side=47).state_dict()
        assert all(torch.equal(x, expected[name]) for name, x in found.items())


def test_blur_and_crops_fit_the_size(monkeypatch):
    kernels = []
    blur = augment._blur_rows_

    def recording(x, chosen, u, sigmas, kernel_size):
        kernels.append(kernel_size)
        return blur(x, chosen, u, sigmas, kernel_size)

    monkeypatch.setattr(augment, "_blur_rows_", recording)
    for side in (32, 64, 96, 128):
        views = augment.two_views(torch.rand(4, 3, side, side), blur=1.0)
        assert [view.shape for view in views] == 2 * [(4, 3, side, side)]
    assert kernels == [3, 7, 9, 13]


def test_an_encoder_says_its_size_and_is_not_loaded_as_another(tmp_path):
    recipe = replace(TINY, side=64, network="resnet18", width=8, epochs=1)
    images = shapes.render(32, side=64).images
    result = pretrain(recipe, images, folder=tmp_path, device="cpu")
    card = models.card(tmp_path)
    assert card["side"] == card["recipe"]["side"] == 64
    some = images[:4].float() / 255
    torch.testing.assert_close(models.load(tmp_path)(some), result.encoder(some))
    path = tmp_path / "encoder.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"side": 32}))
    with pytest.raises(ValueError, match=r"expected shape \(8, 3, 3, 3\), found \(8, 3, 7, 7\)"):
        models.load(tmp_path)
    with pytest.raises(ValueError, match="side was 64, is now 32"):
        pretrain(replace(recipe, side=32), images[:, :, ::2, ::2], folder=tmp_path, device="cpu")


def test_networks_take_the_side_of_the_recipe():
    encoder, projector = networks(replace(COURSE, width=8, side=128, hidden=8, out=4))
    assert type(encoder.net.maxpool).__name__ == "MaxPool2d"
    assert projector(encoder.eval()(torch.rand(2, 3, 128, 128)).repeat(2, 1)).shape == (4, 4)
    assert replace(Recipe(), side=64) != Recipe()
    assert Recipe(**asdict(Recipe(side=96))).side == 96


def check_answers(bundle_folder, encoder, png, photo):
    """A service of 64 pixels answers what the encoder says of the same files, read as a folder."""
    from test_serve import ask

    from replearn.serve import process

    photo.mkdir()
    (photo / "1.png").write_bytes(png)
    with Image.open(photo / "1.png") as image:
        image.resize((150, 90)).save(photo / "2.jpg", quality=90)
    images = data.load(photo, side=64, unlabeled=True, split="train").images
    features = {tuple(h.tolist()) for h in extract_features(encoder, images)}
    assert len(features) == 2
    with process.start(bundle_folder, precision="fp32", seconds=300) as address:
        for path in photo.iterdir():
            kind = {".png": "image/png", ".jpg": "image/jpeg"}[path.suffix]
            status, _, answer = ask(address, "/embed", path.read_bytes(), kind)
            assert status == 200, answer
            served = torch.tensor(answer["feature"])
            nearest = min(features, key=lambda h: (served - torch.tensor(h)).norm().item())
            torch.testing.assert_close(served, torch.tensor(nearest), atol=1e-4, rtol=1e-4)
            features.remove(nearest)
            status, _, answer = ask(
                address, "/neighbors?pictures=true&k=1", path.read_bytes(), kind
            )
            assert status == 200, answer
            sent = io.BytesIO(base64.b64decode(answer[0]["picture"].split(",")[1]))
            assert Image.open(sent).size == (64, 64)


@pytest.mark.seconds
def test_from_a_folder_of_64_pixels_to_a_served_encoder(tmp_path, capsys):
    """Every command takes the size from the card."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from replearn.serve import decode, open_bundle

    folder = write(tmp_path / "mine", 130, side=80, in_classes=True)
    run = tmp_path / "run"
    run_command(f"pretrain {RUN} --side 64", "--data", folder, "--folder", run)
    run_command(f"evaluate {run}")
    assert "103 training and 27 test pictures" in capsys.readouterr().out
    bundle_folder = tmp_path / "bundle"
    run_command(f"export {run} {bundle_folder}")
    bundle = open_bundle(bundle_folder, precision="fp32")
    assert bundle.side == 64
    # What is served for a file is what was measured for it.
    test = data.load(folder, split="test", side=64)
    content = next((folder / "odd").glob("*.png")).read_bytes()
    image = decode.decode_image(content, bundle.side)
    h = torch.from_numpy(bundle.embed(image[None]))
    expected = extract_features(models.load(run), torch.from_numpy(image[None]))
    torch.testing.assert_close(h, expected, atol=1e-4, rtol=1e-4)
    logits = bundle.embed(test.images.numpy()) @ bundle.weight.T + bundle.bias
    accuracy = float((logits.argmax(1) == test.labels.numpy()).mean())
    assert json.loads((bundle_folder / "bundle.json").read_text())["measured"]["rows"]["fp32 ONNX"][
        "accuracy"
    ] == pytest.approx(accuracy)
    assert models.load(bundle_folder / "encoder").block1[0].weight.shape[2] == 7
    check_answers(bundle_folder, models.load(run), content, tmp_path / "photo")
    with pytest.raises(SystemExit, match="expected an encoder of pictures of side 64, as"):
        run_command(f"evaluate {run} --supervised shapes_supervised")
    capsys.readouterr()


def test_size_is_a_number_of_pictures(capsys):
    with pytest.raises(SystemExit, match=r"--size: .* found 8 pictures.* --side"):
        run_command(f"pretrain {RUN} --size 8")
    for words in ("--side 64.5", "--side big", "--side null", "--unlabeled"):
        with pytest.raises(
            SystemExit, match=r"error: (recipe: side: expected|unlabeled: expected)"
        ):
            run_command(f"pretrain {RUN} --size 40 {words}")
    capsys.readouterr()
