import json
from pathlib import Path

import pytest
import torch

from replearn import models


@pytest.mark.parametrize(
    ("encoder", "dim"), [(lambda: models.small_cnn(16), 256), (lambda: models.resnet18(16), 128)]
)
def test_encoder_maps_pictures_to_features(encoder, dim):
    encoder = encoder()
    assert encoder(torch.rand(4, 3, 32, 32)).shape == (4, dim)
    assert models.feature_dim(encoder) == dim
    assert encoder.training  # looking does not switch to eval mode


def test_width_64_is_torchvisions_resnet_with_the_cifar_stem():
    from torchvision.models import resnet18

    ours, theirs = models.resnet18(64).net, resnet18()
    shapes = lambda net: {
        k: v.shape for k, v in net.state_dict().items() if not k.startswith(("conv1", "fc"))
    }
    assert shapes(ours) == shapes(theirs)
    assert (
        ours.conv1.weight.shape == (64, 3, 3, 3)
        and ours.conv1.stride == (1, 1)
        and ours.conv1.padding == (1, 1)
    )
    assert isinstance(ours.maxpool, torch.nn.Identity)


def test_cifar_stem_keeps_the_resolution():
    seen = []
    net = models.resnet18(8)
    net.net.layer1.register_forward_hook(
        lambda module, inputs, output: seen.append(tuple(output.shape[2:]))
    )
    net(torch.rand(2, 3, 32, 32))
    assert seen == [(32, 32)]


def test_signal_keeps_its_scale_through_a_random_encoder():
    torch.manual_seed(0)
    net = models.small_cnn(32).eval()
    scale = net(torch.rand(64, 3, 32, 32)).square().mean().sqrt()
    assert 0.1 < scale < 10  # PyTorch's default initialization gives 0.01


def test_projector_and_decoder_shapes():
    assert models.projector(8, hidden=16, out_dim=5)(torch.rand(4, 8)).shape == (4, 5)
    assert len(models.projector(8, layers=1)) == 1
    assert models.decoder(6, width=8)(torch.rand(2, 6)).shape == (2, 3, 32, 32)


def test_save_and_load_give_the_same_features(tmp_path):
    encoder = models.small_cnn(8)
    encoder(torch.rand(16, 3, 32, 32))  # moves the running statistics
    models.save(encoder, tmp_path / "mine", architecture=["small_cnn", 8], data="noise", seed=0)
    x = torch.rand(4, 3, 32, 32)
    assert torch.equal(models.load(tmp_path / "mine")(x), encoder.eval()(x))
    assert models.card(tmp_path / "mine")["data"] == "noise"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.json", "mine.safetensors"]


def test_damaged_weights_are_refused(tmp_path):
    models.save(models.small_cnn(8), tmp_path / "mine", architecture=["small_cnn", 8])
    path = tmp_path / "mine.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"oops")
    with pytest.raises(ValueError, match="damaged"):
        models.load(tmp_path / "mine")


def test_foreign_architecture_is_refused(tmp_path):
    models.save(models.small_cnn(8), tmp_path / "mine", architecture=["small_cnn", 8])
    card = json.loads((tmp_path / "mine.json").read_text())
    (tmp_path / "mine.json").write_text(json.dumps({**card, "architecture": ["os", "system"]}))
    with pytest.raises(ValueError, match="expected small_cnn or resnet18"):
        models.load(tmp_path / "mine")


def test_unknown_name_lists_what_there_is():
    with pytest.raises(ValueError, match="shapes_simclr"):
        models.load("no_such_encoder")


@pytest.mark.parametrize("name", [p.stem for p in sorted(models.SHIPPED.glob("*.json"))])
def test_shipped_encoder_is_what_its_card_says(name):
    from replearn import data, probe

    card = models.card(name)
    assert {
        "architecture",
        "data",
        "recipe",
        "seed",
        "scores",
        "sha256",
        "license",
        "command",
    } <= set(card)
    encoder = models.load(name)
    assert not encoder.training
    if "shapes" in name:  # kNN on a small part: well above chance, and near the card's figure
        train, test = data.load("shapes", size=2000), data.load("shapes", split="test", size=500)
        z, z_test = (probe.extract_features(encoder, s.images) for s in (train, test))
        assert (
            probe.knn_accuracy(z, train.labels, z_test, test.labels) > card["scores"]["knn"] - 0.15
        )


def test_half_precision_weights_load_as_float32(tmp_path):
    encoder = models.resnet18(8)
    encoder(torch.rand(16, 3, 32, 32))
    models.save(encoder.half(), tmp_path / "mine", architecture=["resnet18", 8])
    found = models.load(tmp_path / "mine")
    assert {p.dtype for p in found.parameters()} == {torch.float32}
    x = torch.rand(4, 3, 32, 32)
    assert torch.equal(found(x), encoder.float().eval()(x))


CIFAR = ["cifar10_collapsed", "cifar10_simclr", "cifar10_supervised"]


@pytest.mark.parametrize("name", CIFAR)
def test_cifar10_encoder_says_how_it_was_trained(name):
    card = models.card(name)
    assert {"views", "minutes", "device", "versions", "weights"} <= set(card)
    assert "CIFAR-10 (" in card["data"] and "50,000 training pictures" in card["data"]
    assert "GPU" in card["note"] or (
        "trained for" in card["note"] and "CPU. A narrow network" in card["note"]
    )
    assert {"linear_probe", "knn", "effective_rank"} <= set(card["scores"])
    kind, width = card["architecture"]
    assert kind == "resnet18" and models.feature_dim(models.load(name)) == 8 * width
    assert card["weights"] == "float16" or Path(card["path"]).stat().st_size < 3e6


def test_cifar10_cards_rank_as_the_lessons_say():
    collapsed, simclr, supervised = (models.card(name)["scores"] for name in CIFAR)
    assert collapsed["linear_probe"] < simclr["linear_probe"] < supervised["linear_probe"]
    assert collapsed["mean_cosine"] > 0.99 > simclr["mean_cosine"]


@pytest.mark.parametrize("name", CIFAR)
def test_cifar10_encoder_scores_what_its_card_says(name):
    from replearn import data, probe

    if not data.available("cifar10"):
        pytest.skip("CIFAR-10 is not on this disk")
    train, test = data.load("cifar10", size=2000), data.load("cifar10", split="test", size=500)
    z, z_test = (probe.extract_features(models.load(name), s.images) for s in (train, test))
    assert (
        abs(
            probe.knn_accuracy(z, train.labels, z_test, test.labels)
            - models.card(name)["scores"]["knn"]
        )
        < 0.15
    )


@pytest.mark.parametrize("width", [0, 7, 12])
def test_bad_width(width):
    with pytest.raises(ValueError, match="multiple of 8"):
        models.resnet18(width)
