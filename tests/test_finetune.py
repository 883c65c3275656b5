"""Fine-tuning: a head by a linear probe, then all; the files, and what export makes of them."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from replearn import data, models
from replearn.__main__ import main
from replearn.data import ImageSet, shapes
from replearn.pretrain import SHAPES, finetune, finetuning, pretrain
from replearn.probe import LinearProbe, extract_features

pytestmark = pytest.mark.usefixtures("one_silent_thread")


@pytest.fixture(scope="module")
def sets():
    return shapes.render(300, seed=0), shapes.render(100, seed=1)


@pytest.fixture(scope="module")
def encoder():
    return models.load("shapes_simclr")


@pytest.fixture(scope="module")
def tuned(encoder, sets):
    return finetune(encoder, *sets)


def accuracy(result, images):
    h = extract_features(result.encoder, images.images)
    return (result.head(h).argmax(1) == images.labels).double().mean().item()


def same(one, other):
    theirs = other.state_dict()
    return all(torch.equal(x, theirs[name]) for name, x in one.state_dict().items())


def test_the_head_alone_is_the_linear_probe(encoder, sets):
    train, test = sets
    result = finetune(encoder, train, test, head_only=True)
    h = extract_features(encoder, train.images)
    h_test = extract_features(encoder, test.images)
    probe = LinearProbe().fit(h, train.labels)
    torch.testing.assert_close(result.head.weight, probe.coef_.float())
    assert same(result.encoder, encoder)
    assert result.encoder is not encoder
    assert result.report["before"] == result.report["after"]
    assert result.report["after"] == pytest.approx(probe.score(h_test, test.labels), abs=0.011)
    assert result.report["worse"] == []


def test_all_of_it_learns_more_than_the_head(encoder, sets, tuned):
    _, test = sets
    report = tuned.report
    assert report["after"] == pytest.approx(accuracy(tuned, test))
    assert report["after"] > report["before"] + 0.03
    assert report["pictures"] == {"train": 300, "test": 100}
    counts = {name: row[0] for name, row in report["classes"].items()}
    assert sum(counts.values()) == 100
    weighted = sum(row[0] * row[2] for row in report["classes"].values()) / 100
    assert weighted == pytest.approx(report["after"])
    for name, (_, before, after) in report["classes"].items():
        assert (after < before) == (name in report["worse"])
    assert not same(tuned.encoder, encoder)
    assert same(encoder, models.load("shapes_simclr"))  # the given one stays as it is
    for name, x in encoder.named_buffers():  # statistics of BatchNorm stay those of pretraining
        assert torch.equal(x, dict(tuned.encoder.named_buffers())[name])
    assert not tuned.encoder.training
    assert json.loads(json.dumps(report)) == report


def test_the_encoder_moves_by_its_own_lower_rate(encoder, sets):
    train, test = sets
    few = train.subset(slice(0, 100))
    moved = {}
    for rate in (1e-7, 1e-4):
        result = finetune(encoder, few, test, epochs=1, batch_size=50, backbone_lr=rate)
        before = encoder.block1[0].weight
        moved[rate] = (result.encoder.block1[0].weight - before).abs().max().item()
    assert 0 < moved[1e-7] < 3e-7
    assert 1e-5 < moved[1e-4] < 3e-4
    again = finetune(encoder, few, test, epochs=1, batch_size=50)
    assert same(again.encoder, result.encoder)  # the seed is the result
    assert not same(finetune(encoder, few, test, epochs=1, seed=1).encoder, result.encoder)


def test_what_got_worse_is_said(encoder, sets):
    train, test = sets
    few = train.subset(slice(0, 60))
    broken = finetune(encoder, few, test, epochs=3, lr=1.0, backbone_lr=0.3)
    assert broken.report["after"] < broken.report["before"]
    assert "fine-tuning made it worse" in finetuning.warning(broken.report)
    lines = finetuning.table(broken.report).splitlines()
    assert lines[1].startswith("all ")
    assert lines[1].endswith("worse")
    report = dict(before=0.5, after=0.6, worse=[f"class {i}" for i in range(7)])
    sentence = finetuning.warning(report)
    assert sentence.endswith("right in class 0, class 1, class 2, class 3, class 4 and 2 more")
    assert finetuning.warning(report | {"worse": []}) is None


def test_what_does_not_fit_is_refused(encoder, sets):
    train, test = sets
    without = ImageSet(train.images, None, ())
    cases = [
        (dict(train=without), "train: expected pictures with labels, found 300 without"),
        (dict(test=without), "test: expected pictures with labels"),
        (dict(train=train.subset(train.labels != 3)), "pictures of every class, found none of"),
        (dict(test=replace(test, class_names=("a", "b"))), "test: expected the classes"),
        (dict(epochs=0), "epochs: expected a number above 0, found 0"),
        (dict(lr=float("nan")), "lr: expected a number above 0, found nan"),
        (dict(backbone_lr=-1), "backbone_lr: expected a number above 0"),
        (dict(weight_decay=-1), "weight_decay: expected a number of 0 or more"),
        (dict(batch_size=1), "batch_size: expected 2 or more, found 1"),
        (dict(flip=2.0), "flip"),
        (dict(lr=1e30, backbone_lr=1e30), "try a smaller lr"),
    ]
    for changes, sentence in cases:
        arguments = dict(train=train, test=test, epochs=1) | changes
        with pytest.raises(ValueError, match=sentence):
            finetune(encoder, **arguments)


# The command


def run_command(words, *more):
    main([*words.split(), *map(str, more)])


def test_the_command_writes_an_encoder_and_its_head(tmp_path, capsys):
    folder = tmp_path / "tuned"
    words = (
        "finetune shapes_simclr --data shapes --size 300 --test-size 100 --epochs 2 --device cpu"
    )
    run_command(words, "--folder", folder)
    out = capsys.readouterr().out
    assert "300 training and 100 test pictures" in out
    assert "before: a linear probe" in out
    card = models.card(folder)
    assert card["data"] == "shapes"
    report = card["finetuned"]
    assert report["head_only"] is False
    assert report["epochs"] == 2
    assert f"{100 * report['before']:9.1f}{100 * report['after']:9.1f}" in out
    weight, bias, class_names = models.load_head(folder)
    test = data.load("shapes", split="test", size=100)
    h = extract_features(models.load(folder), test.images)
    found = ((h @ weight.T + bias).argmax(1) == test.labels).double().mean().item()
    assert found == pytest.approx(report["after"])
    assert class_names == list(shapes.SHAPES)
    # Once more into the same folder, with few labels and the head alone.
    run_command(f"finetune shapes_simclr --data shapes --shots 3 --head-only --folder {folder}")
    assert "30 training and" in capsys.readouterr().out
    assert models.card(folder)["finetuned"]["head_only"] is True
    assert same(models.load(folder), models.load("shapes_simclr"))


def test_the_default_folder_is_beside_the_encoder(tmp_path, capsys):
    models.save(models.small_cnn(4), tmp_path / "mine", architecture=["small_cnn", 4])
    words = "--data shapes --size 60 --test-size 30 --head-only --device cpu"
    run_command(f"finetune {tmp_path / 'mine'} {words}")
    run_command(f"finetune {tmp_path / 'mine.safetensors'} {words} --batch-size 8")
    assert models.load_head(tmp_path / "mine-finetuned") is not None
    assert models.load_head(tmp_path / "mine") is None
    capsys.readouterr()


@pytest.mark.parametrize(
    "words, sentence",
    [
        ("nothing --data shapes", "no encoder 'nothing'"),
        ("shapes_simclr --data nowhere", "expected shapes, digits, cifar10"),
        ("shapes_simclr --data digits --shots 500", "--shots: expected 1 to "),
        ("shapes_simclr --data shapes --device abacus", "device: expected"),
    ],
)
def test_the_command_refuses_in_a_sentence(tmp_path, words, sentence):
    with pytest.raises(SystemExit, match=f"error: .*{sentence}"):
        run_command(f"finetune {words} --folder {tmp_path / 'f'}")


def test_no_pretraining_is_overwritten(tmp_path):
    tiny = replace(SHAPES, width=4, hidden=8, out=8, batch_size=16, epochs=1)
    run = tmp_path / "run"
    pretrain(tiny, shapes.render(16).images, folder=run, device="cpu")
    models.save(models.small_cnn(4), tmp_path / "encoder", architecture=["small_cnn", 4])
    for folder in (run, tmp_path):
        with pytest.raises(SystemExit, match="found another encoder or run in it; choose another"):
            run_command(f"finetune {run} --data shapes --size 60 --folder {folder}")


def test_a_damaged_head_is_refused(tmp_path):
    path = tmp_path / "encoder"
    head = models.save_head(path, torch.ones(2, 64), torch.zeros(2), ["a", "b"])
    models.save(models.small_cnn(4), path, architecture=["small_cnn", 4], head=head)
    weight, bias, names = models.load_head(path)
    assert torch.equal(weight, torch.ones(2, 64))
    assert names == ["a", "b"]
    models.save_head(path, torch.ones(2, 63), torch.zeros(2), ["a", "b"])
    with pytest.raises(ValueError, match="expected SHA-256"):
        models.load_head(path)
    for weight, bias in ((torch.ones(3, 64), torch.zeros(2)), (torch.ones(2), torch.zeros(2))):
        head = models.save_head(path, weight, bias, ["a", "b"])
        models.save(models.small_cnn(4), path, architecture=["small_cnn", 4], head=head)
        with pytest.raises(ValueError, match="weight: expected shape"):
            models.load_head(path)
    head = models.save_head(path, torch.full((2, 64), torch.nan), torch.zeros(2), ["a", "b"])
    models.save(models.small_cnn(4), path, architecture=["small_cnn", 4], head=head)
    with pytest.raises(ValueError, match="expected finite values"):
        models.load_head(path)


@pytest.mark.seconds
def test_export_serves_the_head_of_the_fine_tuning(tmp_path, capsys, tuned, sets):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from replearn.serve import export, open_bundle

    card = models.card("shapes_simclr")
    finetuning.save(tmp_path, tuned, card=card, data="shapes", settings={})
    run_command(f"export {tmp_path} {tmp_path / 'bundle'} --size 100 --test-size 40")
    assert "head: that of the fine-tuning" in capsys.readouterr().out
    bundle = open_bundle(tmp_path / "bundle", precision="fp32")
    assert torch.equal(torch.from_numpy(bundle.weight), tuned.head.weight)
    assert torch.equal(torch.from_numpy(bundle.bias), tuned.head.bias)
    assert bundle.card["finetuned"]["after"] == tuned.report["after"]
    assert "head" not in bundle.card
    run_command(f"export {tmp_path} {tmp_path / 'other'} --data digits --size 100 --test-size 40")
    assert "head: a new one, since the fine-tuning had other classes" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"head: expected a weight \(10, 512\) and a bias"):
        wrong = nn.Linear(512, 3)
        export(tuned.encoder, tmp_path / "b", sets[0], head=(wrong.weight, wrong.bias))
