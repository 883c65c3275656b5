"""Networks give features of the right shape; encoders survive being written and read."""

import json
import sys
from pathlib import Path

import pytest
import torch

from replearn import data, models, probe

SHIPPED = sorted(path.stem for path in models.SHIPPED.glob("*.json"))
CIFAR10 = ["cifar10_collapsed", "cifar10_simclr", "cifar10_supervised"]


def same_weights(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(ours, theirs) for ours, theirs in pairs)


# --- networks ---


@pytest.mark.parametrize(
    ("network", "width", "dim"), [("small_cnn", 16, 256), ("resnet18", 16, 128)]
)
def test_encoder_maps_images_to_features(network, width, dim):
    encoder = models.build_encoder(network, width)
    assert encoder(torch.rand(4, 3, 32, 32)).shape == (4, dim)
    assert models.feature_dim(encoder) == dim
    assert encoder.training  # looking does not switch to eval mode


@pytest.mark.parametrize("network", ["small_cnn", "resnet18"])
def test_the_builder_builds_what_the_functions_build(network):
    torch.manual_seed(0)
    built = models.build_encoder(network, 8)
    torch.manual_seed(0)
    assert same_weights(built, getattr(models, network)(8))


@pytest.mark.parametrize("network", ["vgg11", "", "timm", "__import__", None])
def test_an_unknown_network_is_refused(network):
    with pytest.raises(ValueError, match="network: expected small_cnn or resnet18 or timm:NAME"):
        models.build_encoder(network, 8)


def test_a_network_of_timm_takes_images_in_zero_one():
    pytest.importorskip("timm")
    encoder = models.build_encoder("timm:resnet10t", 1)
    assert isinstance(encoder.center, models.Center)
    assert encoder(torch.rand(2, 3, 32, 32)).shape == (2, 512)


def test_a_transformer_of_timm_is_told_the_side():
    pytest.importorskip("timm")
    encoder = models.build_encoder("timm:vit_tiny_patch16_224", 1, side=64)
    assert models.feature_dim(encoder, side=64) == 192


def test_an_unknown_network_of_timm_is_refused():
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match="network timm:nothing: no such network in timm"):
        models.build_encoder("timm:nothing", 1)


def test_a_missing_timm_is_an_error_that_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"timm:resnet10t: expected timm .* run pip install timm"):
        models.build_encoder("timm:resnet10t", 1)


def test_width_64_is_torchvisions_resnet_with_the_cifar_stem():
    from torchvision.models import resnet18

    def shapes(net):
        """Shapes of all weights but those of the stem and the head."""
        return {
            name: weight.shape
            for name, weight in net.state_dict().items()
            if not name.startswith(("conv1", "fc"))
        }

    ours = models.resnet18(64).net
    assert shapes(ours) == shapes(resnet18())
    assert ours.conv1.weight.shape == (64, 3, 3, 3)
    assert ours.conv1.stride == (1, 1)
    assert ours.conv1.padding == (1, 1)
    assert isinstance(ours.maxpool, torch.nn.Identity)


def test_cifar_stem_keeps_the_resolution():
    sides = []

    def record(module, inputs, output):
        sides.append(tuple(output.shape[2:]))

    encoder = models.resnet18(8)
    encoder.net.layer1.register_forward_hook(record)
    encoder(torch.rand(2, 3, 32, 32))
    assert sides == [(32, 32)]


@pytest.mark.parametrize("width", [0, 7, 12])
def test_bad_width(width):
    with pytest.raises(ValueError, match="multiple of 8"):
        models.resnet18(width)


def test_signal_keeps_its_scale_through_a_random_encoder():
    torch.manual_seed(0)
    encoder = models.small_cnn(32).eval()
    scale = encoder(torch.rand(64, 3, 32, 32)).square().mean().sqrt()
    assert 0.1 < scale < 10  # PyTorch's default initialization gives 0.01


def test_projector_and_decoder_shapes():
    assert models.projector(8, hidden=16, out_dim=5)(torch.rand(4, 8)).shape == (4, 5)
    assert len(models.projector(8, layers=1)) == 1
    assert len(models.projector(8, layers=3)) == 7
    assert models.decoder(6, width=8)(torch.rand(2, 6)).shape == (2, 3, 32, 32)


# --- encoders as files ---


@pytest.fixture
def saved(tmp_path):
    """An encoder with statistics of its own, written to `mine` in a folder."""
    encoder = models.small_cnn(8)
    encoder(torch.rand(16, 3, 32, 32))  # moves the running statistics
    models.save(encoder, tmp_path / "mine", architecture=["small_cnn", 8], data="noise", seed=0)
    return encoder.eval()


def test_save_and_load_give_the_same_features(tmp_path, saved):
    x = torch.rand(4, 3, 32, 32)
    loaded = models.load(tmp_path / "mine")
    assert torch.equal(loaded(x), saved(x))
    assert not loaded.training
    assert models.card(tmp_path / "mine")["data"] == "noise"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.json", "mine.safetensors"]


def test_an_encoder_is_loaded_by_its_path_with_or_without_suffix(tmp_path, saved, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    stem = tmp_path / "mine"
    for name in (stem, str(stem), f"{stem}.safetensors", "~/mine", "mine", "./mine.safetensors"):
        assert same_weights(models.load(name), saved)
        assert models.card(name)["seed"] == 0
        assert Path(models.card(name)["path"]).samefile(tmp_path / "mine.safetensors")


def test_an_encoder_is_loaded_by_the_folder_of_its_pretraining(tmp_path, saved):
    run = tmp_path / "run"
    run.mkdir()
    models.save(saved, run / "encoder", architecture=["small_cnn", 8], data="noise")
    assert same_weights(models.load(run), saved)
    assert same_weights(models.load(f"{run}/"), saved)
    assert models.card(run)["path"] == str(run / "encoder.safetensors")


def test_a_shipped_name_is_the_shipped_encoder_whatever_lies_around(tmp_path, saved, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models.save(saved, "shapes_vae", architecture=["small_cnn", 8])
    assert models.card("shapes_vae")["architecture"] == ["small_cnn", 32]
    assert models.card("./shapes_vae")["architecture"] == ["small_cnn", 8]


def test_save_takes_the_paths_that_load_takes(tmp_path, saved, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    models.save(saved, "~/other.safetensors", architecture=["small_cnn", 8])
    assert (tmp_path / "other.json").exists()
    assert same_weights(models.load("~/other.safetensors"), saved)


def test_a_dot_in_a_name_is_no_suffix(tmp_path, saved):
    models.save(saved, tmp_path / "mine.v2", architecture=["small_cnn", 8])
    assert (tmp_path / "mine.v2.safetensors").exists()
    assert models.card(tmp_path / "mine.v2")["path"] == str(tmp_path / "mine.v2.safetensors")
    assert same_weights(models.load(tmp_path / "mine.v2"), saved)


@pytest.mark.parametrize("side", [32, 64])
def test_a_transformer_of_timm_is_saved_and_loaded(tmp_path, side):
    pytest.importorskip("timm")
    encoder = models.build_encoder("timm:vit_tiny_patch16_224", 1, side)
    architecture = ["timm:vit_tiny_patch16_224", 1]
    models.save(encoder, tmp_path / "vit", architecture=architecture, side=side)
    assert same_weights(models.load(tmp_path / "vit"), encoder)


def test_half_precision_weights_load_as_float32(tmp_path):
    encoder = models.resnet18(8)
    encoder(torch.rand(16, 3, 32, 32))
    models.save(encoder.half(), tmp_path / "mine", architecture=["resnet18", 8])
    loaded = models.load(tmp_path / "mine")
    assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}
    x = torch.rand(4, 3, 32, 32)
    assert torch.equal(loaded(x), encoder.float().eval()(x))


def test_a_card_that_json_cannot_hold_changes_nothing(tmp_path, saved):
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TypeError, match="JSON serializable"):
        models.save(models.small_cnn(8), tmp_path / "mine", scores={1, 2})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_damaged_weights_are_refused(tmp_path, saved):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"oops")
    with pytest.raises(ValueError, match=r"expected SHA-256 .*: damaged, fetch it again"):
        models.load(tmp_path / "mine")


def change_card(path, **changes):
    """Write another card; None removes an entry."""
    card = {**json.loads(path.read_text()), **changes}
    card = {name: value for name, value in card.items() if value is not None}
    path.write_text(json.dumps(card))


def test_foreign_architecture_is_refused(tmp_path, saved):
    change_card(tmp_path / "mine.json", architecture=["os", 8])
    with pytest.raises(ValueError, match="expected small_cnn or resnet18"):
        models.load(tmp_path / "mine")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (dict(architecture=["small_cnn", 16]), "of width 16, more than 25,600, found"),
        (dict(architecture=["small_cnn", 9]), r"expected shape \(9, 3, 3, 3\), found \(8, 3, 3"),
        (dict(architecture=["resnet18", 8]), "expected a tensor 'net.bn1.bias', found none"),
        (dict(architecture=["small_cnn", 60_000]), "of width 60,000, more than 360,000,000,000"),
        (dict(architecture=["small_cnn"]), "architecture: expected a pair of network and width"),
        (dict(architecture="small_cnn"), "architecture: expected a pair of network and width"),
        (dict(architecture=["small_cnn", "8"]), r"architecture\[1\]: expected a whole number"),
        (dict(architecture=["small_cnn", 10**9]), r"from 1 to 65,536, found 1000000000"),
        (dict(architecture=None), "expected the entry 'architecture', found none"),
        (dict(side=0), "side: expected a whole number from 1 to 4,096, found 0"),
        (dict(data=3), "data: expected a text, found 3"),
        (dict(sha256=None), "expected the entry 'sha256', found none"),
        (dict(sha256=5), "sha256: expected 64 hexadecimal digits, found 5"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(tmp_path, saved, changes, reason):
    change_card(tmp_path / "mine.json", **changes)
    expected = rf"mine\.(json|safetensors): .*{reason}.*: fetch card and weights again"
    with pytest.raises(ValueError, match=expected):
        models.load(tmp_path / "mine")


def test_a_card_that_could_not_be_read_is_not_written(tmp_path):
    for changes in (dict(architecture="small_cnn"), dict(side="32"), dict(data=3)):
        with pytest.raises(ValueError, match="nothing was written"):
            models.save(models.small_cnn(4), tmp_path / "mine", **changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["", "[1]", "not JSON", "3", "\xff", "[" * 100_000, "9" * 5000, '{"sha256": NaN}']
)
def test_what_is_no_card_is_refused(tmp_path, saved, text):
    (tmp_path / "mine.json").write_text(text, "latin-1")
    for read in (models.card, models.load):
        with pytest.raises(ValueError, match=r"mine\.json: .*expected .*not the card of an enc"):
            read(tmp_path / "mine")


def test_weights_that_are_none_are_refused(tmp_path, saved):
    """The SHA-256 fits, but the bytes are no safetensors."""
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    change_card(tmp_path / "mine.json", sha256=empty)
    with pytest.raises(ValueError, match="found SafetensorError"):
        models.load(tmp_path / "mine")


@pytest.mark.parametrize("read", [models.card, models.load])
def test_unknown_name_lists_what_there_is(read):
    with pytest.raises(ValueError, match=r"no encoder 'no_such_encoder': .*shapes_simclr.*folder"):
        read("no_such_encoder")


# --- to and from torchvision ---


def of_torchvision(side):
    """torchvision's ResNet-18 without a classifier, with the stem for images of this side."""
    from torchvision.models import resnet18

    net = resnet18()
    if side < 48:
        net.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    if side < 80:
        net.maxpool = torch.nn.Identity()
    net.fc = torch.nn.Identity()
    return net


@pytest.fixture(scope="module", params=[32, 64, 96])
def encoder_and_net(request):
    """An encoder with statistics of its own, torchvision's network with its weights, images."""
    torch.manual_seed(request.param)
    encoder = models.resnet18(64, side=request.param)
    images = torch.rand(4, 3, request.param, request.param)
    encoder(images)  # moves the running statistics
    net = of_torchvision(request.param)
    net.load_state_dict(models.to_torchvision(encoder))
    return encoder.eval(), net.eval(), images


def test_torchvision_gives_the_same_features_of_normalized_images(encoder_and_net):
    from torchvision.transforms.functional import normalize

    encoder, net, images = encoder_and_net
    with torch.no_grad():
        h = encoder(images)
        normalized = normalize(images, [0.5, 0.5, 0.5], [0.25, 0.25, 0.25])
        torch.testing.assert_close(net(normalized), h)
        assert not torch.allclose(net(images), h, atol=0.01), "without it they are others"


def test_an_encoder_comes_back_from_torchvision(encoder_and_net):
    encoder, net, images = encoder_and_net
    side = images.shape[-1]
    for source in (net, net.state_dict(), models.to_torchvision(encoder)):
        back = models.from_torchvision(source, side=side)
        assert not back.training
        assert same_weights(back, encoder)
        assert repr(back.net.conv1) == repr(encoder.net.conv1)
        assert repr(back.net.maxpool) == repr(encoder.net.maxpool)
        assert isinstance(back.center, models.Center)
    of_itself = models.from_torchvision(net)  # a network shows its stem
    assert repr(of_itself.net.maxpool) == repr(encoder.net.maxpool)


def test_the_weights_are_copies(encoder_and_net):
    encoder, _, _ = encoder_and_net
    weights = models.to_torchvision(encoder)
    before = encoder.net.conv1.weight.clone()
    models.from_torchvision(weights).net.conv1.weight.data.zero_()
    assert weights["conv1.weight"].abs().sum() > 0
    weights["conv1.weight"].zero_()
    assert torch.equal(encoder.net.conv1.weight, before)


def test_a_normalization_of_its_own_is_kept_and_never_lost_in_silence(tmp_path):
    from torchvision.transforms.functional import normalize

    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    net = of_torchvision(96).eval()
    encoder = models.from_torchvision(net, mean=mean, std=std)
    images = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), net(normalize(images, mean, std)))
    with pytest.raises(ValueError, match=r"centers its images by models\.Center"):
        models.to_torchvision(encoder)
    models.save(encoder, tmp_path / "mine", architecture=["resnet18", 64], side=96)
    with pytest.raises(ValueError, match=r"expected no tensor 'center\.mean', found one"):
        models.load(tmp_path / "mine")


@pytest.mark.parametrize(
    ("network", "width", "words"),
    [
        ("small_cnn", 64, "expected a ResNet-18 of models.resnet18, found Sequential of center"),
        ("resnet18", 16, r"conv1\.weight: expected shape \(64, 3, 3, 3\), found \(16, 3, 3, 3\)"),
    ],
)
def test_another_network_has_no_place_in_torchvision(network, width, words):
    with pytest.raises(ValueError, match=words):
        models.to_torchvision(models.build_encoder(network, width))
    with pytest.raises(ValueError, match="found Conv2d of no parts"):
        models.to_torchvision(torch.nn.Conv2d(3, 64, 3))


def without(weights, name):
    return {key: x for key, x in weights.items() if key != name}


@pytest.mark.parametrize(
    ("spoil", "options", "words"),
    [
        (lambda w: without(w, "layer2.0.bn1.bias"), {}, "'layer2.0.bn1.bias', found none"),
        (lambda w: without(w, "conv1.weight"), {}, "found no 'conv1.weight' but"),
        (lambda w: {**w, "layer5.0": torch.ones(1)}, {}, "no tensor 'layer5.0', found one"),
        (lambda w: {f"module.{k}": x for k, x in w.items()}, {}, "take a prefix .* off first"),
        (lambda w: {**w, "conv1.weight": torch.ones(64, 3, 5, 5)}, {}, r"found \(64, 3, 5, 5\)"),
        (
            lambda w: {**w, "bn1.bias": torch.full((64,), torch.nan)},
            {},
            "bn1.bias: expected ",
        ),
        (lambda w: {**w, "bn1.bias": [0.0] * 64}, {}, "expected a torchvision.models.resnet18"),
        (lambda w: w, {"side": 96}, "expected one whose stem is 3 x 3, as in the source, found 96"),
        (lambda w: w, {"mean": (0.5, 0.5)}, "mean: expected three finite numbers, one a channel"),
        (lambda w: w, {"std": (1, 1, 0)}, "std: expected three finite numbers above 0"),
    ],
)
def test_other_weights_are_refused(spoil, options, words):
    with torch.device("meta"):
        shapes = of_torchvision(32).state_dict()
    weights = {name: torch.ones(x.shape, dtype=x.dtype) for name, x in shapes.items()}
    with pytest.raises(ValueError, match=words):
        models.from_torchvision(spoil(weights), **options)


def test_a_network_with_another_stem_is_refused():
    with torch.device("meta"):
        net = of_torchvision(32).to_empty(device="cpu")
    for x in net.state_dict().values():
        x.fill_(1)
    net.maxpool = torch.nn.MaxPool2d(3, 2, 1)
    with pytest.raises(ValueError, match=r"source\.maxpool: expected Identity\(\) .* 32 pixels"):
        models.from_torchvision(net)
    net.maxpool = torch.nn.Identity()
    net.conv1.stride = (2, 2)
    with pytest.raises(ValueError, match=r"source\.conv1: expected Conv2d\(3, 64"):
        models.from_torchvision(net)


def test_the_classifier_stays_behind_and_missing_counters_begin_at_zero():
    from torchvision.models import resnet18

    net = resnet18()
    weights = {k: x for k, x in net.state_dict().items() if "num_batches" not in k}
    encoder = models.from_torchvision(weights)
    assert isinstance(encoder.net.fc, torch.nn.Identity)
    assert isinstance(encoder.net.maxpool, torch.nn.MaxPool2d)
    assert encoder.net.bn1.num_batches_tracked == 0


# --- shipped encoders ---


def knn_accuracy_on(data_name, encoder):
    """kNN accuracy on a small part of a data set."""
    train = data.load(data_name, size=2000)
    test = data.load(data_name, split="test", size=500)
    z_train = probe.extract_features(encoder, train.images)
    z_test = probe.extract_features(encoder, test.images)
    return probe.knn_accuracy(z_train, train.labels, z_test, test.labels)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_encoder_is_what_its_card_says(name):
    card = models.card(name)
    always = {"architecture", "data", "recipe", "seed", "scores", "sha256", "license", "command"}
    assert always <= set(card)
    encoder = models.load(name)
    assert not encoder.training
    if "shapes" in name:
        assert knn_accuracy_on("shapes", encoder) > card["scores"]["knn"] - 0.15


@pytest.mark.parametrize("name", CIFAR10)
def test_cifar10_encoder_says_how_it_was_trained(name):
    card = models.card(name)
    assert {"views", "minutes", "device", "versions", "weights"} <= set(card)
    assert "CIFAR-10 (" in card["data"]
    assert "50,000 training pictures" in card["data"]
    on_a_gpu = "GPU" in card["note"]
    on_a_cpu = "trained for" in card["note"] and "CPU. A narrow network" in card["note"]
    assert on_a_gpu or on_a_cpu
    assert {"linear_probe", "knn", "effective_rank"} <= set(card["scores"])
    network, width = card["architecture"]
    assert network == "resnet18"
    assert models.feature_dim(models.load(name)) == 8 * width
    assert card["weights"] == "float16" or Path(card["path"]).stat().st_size < 3e6


def test_cifar10_cards_rank_as_the_lessons_say():
    collapsed, simclr, supervised = (models.card(name)["scores"] for name in CIFAR10)
    assert collapsed["linear_probe"] < simclr["linear_probe"] < supervised["linear_probe"]
    assert collapsed["mean_cosine"] > 0.99
    assert simclr["mean_cosine"] < 0.99


@pytest.mark.parametrize("name", CIFAR10)
def test_cifar10_encoder_scores_what_its_card_says(name):
    if not data.available("cifar10"):
        pytest.skip("CIFAR-10 is not on this disk")
    accuracy = knn_accuracy_on("cifar10", models.load(name))
    assert accuracy == pytest.approx(models.card(name)["scores"]["knn"], abs=0.15)


@pytest.mark.parametrize("name", ["cifar10_simclr_full", "cifar10_supervised_full"])
def test_a_released_encoder_has_a_card_of_the_same_form(name):
    """Its card comes with the package; its weights are not needed to read it."""
    card = models.card(name)
    assert {"architecture", "data", "recipe", "seed", "scores", "license", "command"} <= set(card)
    assert {"views", "minutes", "device", "versions", "weights", "note"} <= set(card)
    assert {"release", "bytes", "scores_from", "measured"} <= set(card)
    assert card["architecture"] == ["resnet18", 64]
    assert models.data_name(card) == "cifar10"
    assert "JPEG" in card["data"]
    assert Path(card["path"]) == data.cache_folder() / f"{name}.safetensors"
    if Path(card["path"]).exists():
        assert models.feature_dim(models.load(name)) == 512


def test_the_curve_of_the_long_run_is_whole():
    card = models.card("cifar10_simclr_full")
    curve = card["curve"]
    assert curve["epoch"] == list(range(1, card["recipe"]["epochs"] + 1))
    assert len(curve["loss"]) == len(curve["epoch"])
    watched = curve["watched"]
    assert len(watched["epoch"]) == len(watched["linear_probe"]) == len(watched["knn"])
    assert set(watched["epoch"]) <= set(curve["epoch"])


def test_the_probes_of_the_package_find_what_the_gpu_found():
    card = models.card("cifar10_simclr_full")
    measured = card["measured"]["jpeg"]
    assert measured["pictures"] == [50_000, 10_000]
    for name in ("linear_probe", "knn"):
        assert abs(measured[name] - card["scores"][name]) < 0.003


@pytest.mark.parametrize(
    ("described", "name"),
    [
        ("shapes: 10,000 pictures, seed 0", "shapes"),
        ("CIFAR-10 (as published): 50,000 training pictures", "cifar10"),
        ("cifar10", "cifar10"),
        ("/home/me/scan 2026-01-05 10:30", "/home/me/scan 2026-01-05 10:30"),
        (r"C:\Users\me\photos", r"C:\Users\me\photos"),
    ],
)
def test_the_path_of_a_folder_is_never_taken_apart(described, name):
    assert models.data_name({"data": described}) == name
