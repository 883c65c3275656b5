"""What an encoder is worth: a probe against a plain loop, fair draws, a report, bad input."""

import argparse
import json
import math
import os
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from replearn import data, models, probe
from replearn.pretrain import (
    compare,
    evaluate,
    few_shot,
    gallery,
    probe_curve,
    random_like,
    sgd_probe,
)
from replearn.pretrain.cli import add_evaluate
from replearn.pretrain.evaluation import _mixed
from replearn.train import cosine

pytestmark = pytest.mark.usefixtures("one_silent_thread")


def clusters(n=400, d=12, classes=4, apart=1.0, seed=0):
    """Return Gaussian clusters and their labels: a line separates them, the better the further."""
    generator = torch.Generator().manual_seed(seed)
    centers = 2 * apart * torch.randn(classes, d, generator=torch.Generator().manual_seed(9))
    y = torch.arange(n) % classes
    return centers[y] + torch.randn(n, d, generator=generator), y


def train_and_test(**options):
    """Return z_train, y_train, z_test, y_test."""
    return *clusters(**options), *clusters(**options, seed=1)


def gray_images(n=60, classes=3):
    """Return images of noise whose brightness tells the class."""
    y = torch.arange(n) % classes
    noise = torch.randint(0, 60, (n, 3, 8, 8), generator=torch.Generator().manual_seed(n))
    images = noise + 60 * y[:, None, None, None]
    names = ("dark", "gray", "light")
    return data.ImageSet(images.to(torch.uint8), y, names[:classes])


class Flat(nn.Module):
    """A linear map of 8 x 8 images, with a batch norm whose statistics and flag must not move."""

    def __init__(self, d=8):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(64, d)

    def forward(self, x):
        return self.linear(self.norm(self.conv(x)).relu().flatten(1))


class Constant(nn.Module):
    def forward(self, x):
        return torch.ones(len(x), 5)


class Faint(nn.Module):
    """Features that differ in the last bits of 1 only: against that all changes are huge."""

    def forward(self, x):
        return 1 + 1e-6 * x.mean((2, 3))


class Light(nn.Module):
    """Brightness in two directions: the nearest by cosine are the equally bright ones."""

    def forward(self, x):
        light = x.mean((1, 2, 3))
        return torch.stack([light, 0.3 - light], 1)


# The probe


def plain_loop(z, y, z_test, y_test, *, epochs, lr, weight_decay, batch_size, seed):
    """The same in the words of a textbook: class indexes, CosineAnnealingLR, a linear layer."""
    mean = z.mean(0)
    std = z.std(0, correction=0)
    z = (z - mean) / std
    z_test = (z_test - mean) / std
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(z.shape[1], int(y.max()) + 1)
    with torch.no_grad():
        layer.weight.copy_(0.01 * torch.randn(layer.weight.shape, generator=generator))
        layer.bias.zero_()
    optimizer = torch.optim.SGD(layer.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay)
    steps = epochs * math.ceil(len(z) / batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    history = []
    for _ in range(epochs):
        for rows in torch.randperm(len(z), generator=generator).split(batch_size):
            optimizer.zero_grad()
            nn.CrossEntropyLoss()(layer(z[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
        history.append((layer(z_test).argmax(1) == y_test).float().mean().item())
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
    return history


@pytest.mark.parametrize("batch_size", [64, 1000])
def test_without_mixup_the_probe_is_a_plain_loop(batch_size):
    sets = train_and_test(apart=0.3)
    options = dict(epochs=6, lr=0.1, weight_decay=1e-2, batch_size=batch_size, seed=3)
    accuracy, history = sgd_probe(*sets, **options)
    assert history == pytest.approx(plain_loop(*sets, **options), abs=1e-6)
    assert len(set(history)) > 2
    assert accuracy == history[-1]


def test_the_rate_falls_along_a_cosine_to_zero(monkeypatch):
    rates = []
    step = torch.optim.SGD.step

    def noting_step(self, *args):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", noting_step)
    sgd_probe(*train_and_test(), epochs=5, lr=0.3, batch_size=100)
    assert rates == pytest.approx([0.15 * (1 + math.cos(math.pi * k / 20)) for k in range(20)])
    assert cosine(20, 20, start=0.3) == 0


def test_the_probe_reaches_the_optimum_on_separable_features():
    for apart in (0.4, 1.0):
        sets = train_and_test(n=2000, apart=apart)
        accuracy, _ = sgd_probe(*sets)
        assert accuracy == pytest.approx(probe.linear_probe(*sets), abs=0.01)
    assert accuracy > 0.99


def test_random_labels_stay_at_chance():
    z, _, z_test, _ = train_and_test(n=2000)
    y, y_test = torch.randint(0, 4, (2, 2000), generator=torch.Generator().manual_seed(0))
    by_chance = pytest.approx(0.25, abs=0.04)  # 4 standard deviations
    assert sgd_probe(z, y, z_test, y_test)[0] == by_chance
    assert few_shot(z, y, z_test, y_test, shots=[20])[20][0] == by_chance


def test_features_of_any_scale_give_the_same_accuracy():
    z, y, z_test, y_test = train_and_test(apart=0.3)
    dead = torch.full((400, 1), 0.1)
    moved = torch.cat([1000 * z + 7000, dead], 1)
    moved_test = torch.cat([1000 * z_test + 7000, dead], 1)
    accuracy, _ = sgd_probe(z, y, z_test, y_test)
    assert sgd_probe(moved, y, moved_test, y_test)[0] == pytest.approx(accuracy, abs=0.02)


def test_a_seed_gives_the_same_probe_and_leaves_the_global_one_alone():
    sets = train_and_test(apart=0.3)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    for mixup in (0.0, 0.5):
        first, again, other = (
            sgd_probe(*sets, seed=seed, mixup=mixup, epochs=3)[1] for seed in (0, 0, 1)
        )
        assert first == again
        assert first != other
    assert torch.equal(state, torch.random.get_rng_state())


def test_mixup_mixes_two_classes_at_most_by_a_new_share_each_batch(monkeypatch):
    seen = []
    loss = F.cross_entropy

    def noting_loss(logits, target):
        seen.append(target)
        return loss(logits, target)

    monkeypatch.setattr(F, "cross_entropy", noting_loss)
    sets = train_and_test(apart=1.0)
    accuracy, _ = sgd_probe(*sets, mixup=1.0, epochs=5, batch_size=100)
    targets = torch.cat(seen)
    torch.testing.assert_close(targets.sum(1), torch.ones(len(targets)))
    assert ((targets > 1e-6).sum(1) <= 2).all()
    shares = torch.stack([target.masked_fill(target < 1e-6, 2).min() for target in seen])
    assert shares.unique().numel() > 10
    assert accuracy > 0.95


def test_mixed_features_are_where_their_targets_say():
    x = torch.eye(6)  # features that are their own targets
    generator = np.random.default_rng(0)
    mixed, target = _mixed(x, x.clone(), 1.0, generator)
    assert torch.equal(mixed, target)
    assert not torch.equal(mixed, x)
    without = _mixed(x, x, 0.0, generator)
    assert without[0] is x
    assert without[1] is x


def test_a_class_never_seen_in_training_counts_as_wrong():
    z, y, z_test, y_test = train_and_test()
    seen = y < 2
    accuracy, _ = sgd_probe(z[seen], y[seen] + 7, z_test, y_test + 7)
    assert 0.4 < accuracy <= 0.5


# Few labels


def test_every_class_is_drawn_exactly_so_often(monkeypatch):
    drawn = []
    fit = probe.LinearProbe.fit

    def noting_fit(self, z, y):
        drawn.append((z, y))
        return fit(self, z, y)

    monkeypatch.setattr(probe.LinearProbe, "fit", noting_fit)
    z, y, z_test, y_test = train_and_test(n=403)  # classes of 100 and 101
    few_shot(z, y + 3, z_test, y_test + 3, shots=(1, 7), draws=3)
    for (_, labels), n in zip(drawn, (1, 1, 1, 7, 7, 7), strict=True):
        assert labels.bincount().tolist() == [0, 0, 0, n, n, n, n]
    assert not torch.equal(drawn[0][0], drawn[1][0])  # another draw, other images
    label_of = {tuple(row.tolist()): int(label) + 3 for row, label in zip(z, y, strict=True)}
    for rows, labels in drawn:  # each with the label that was its own
        assert [label_of[tuple(row.tolist())] for row in rows] == labels.tolist()


def test_more_labels_are_better():
    result = few_shot(*train_and_test(apart=0.3, n=800), shots=(1, 5, 50), draws=4)
    assert list(result) == [1, 5, 50]
    assert result[1][0] < result[5][0] < result[50][0]


def test_the_spread_is_that_of_the_draws():
    sets = train_and_test(apart=0.3, n=800)
    result = few_shot(*sets, shots=(1, 5), draws=4)
    assert result[1][1] > 0
    assert result == few_shot(*sets, shots=(1, 5), draws=4)
    assert result != few_shot(*sets, shots=(1, 5), draws=4, seed=1)
    single = few_shot(*sets, shots=[5], draws=1)
    assert single[5][1] == 0.0
    mean, std = few_shot(*sets, shots=[200], draws=2)[200]  # all there are: no two draws differ
    assert mean == pytest.approx(probe.linear_probe(*sets))
    assert std == pytest.approx(0, abs=1e-6)


def test_too_few_images_of_a_class_is_an_error():
    sentence = "expected at most 10, the pictures of the smallest class, found 11"
    with pytest.raises(ValueError, match=sentence):
        few_shot(*train_and_test(n=40), shots=(1, 11))


@pytest.mark.parametrize(
    "change, options, error",
    [
        (dict(z=torch.full((40, 3), math.nan)), {}, "z_train: expected finite"),
        (dict(z_test=torch.randn(40, 4)), {}, "expected equal shapes"),
        (dict(y=torch.zeros(40, dtype=torch.long)), {}, "y_train: expected two or more classes"),
        (dict(y=torch.arange(39) % 2), {}, "one label a row"),
        (dict(y_test=torch.arange(39) % 2), {}, "one label a row"),
        ({}, dict(epochs=0), "expected 1 or more"),
        ({}, dict(batch_size=0), "expected 1 or more"),
        ({}, dict(lr=-0.1), "expected 0 or more"),
        ({}, dict(mixup=-1), "expected 0 or more"),
        ({}, dict(mixup=math.nan), "expected 0 or more"),
        ({}, dict(lr=math.inf), "lr"),
        ({}, dict(lr=1e38), "lr: expected a rate at which the probe converges"),
        ({}, dict(shots=[]), "shots: expected 1 or more"),
        ({}, dict(shots=[0]), "shots: expected 1 or more"),
        ({}, dict(draws=0), "draws: expected 1 or more"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(change, options, error):
    sets = dict(
        z=torch.randn(40, 3),
        y=torch.arange(40) % 2,
        z_test=torch.randn(40, 3),
        y_test=torch.arange(40) % 2,
    )
    is_few_shot = "shots" in options or "draws" in options
    function = few_shot if is_few_shot else sgd_probe
    with pytest.raises(ValueError, match=error):
        function(*(sets | change).values(), **options)


# The report


class Made:
    """A report, and what it was made of."""

    def __init__(self, folder):
        self.path = folder / "report.json"
        self.train = gray_images(90)
        self.test = gray_images(60)
        self.other = (gray_images(45), gray_images(24))
        self.encoder = Flat().train()
        self.encoder.norm.eval()
        self.before = {name: x.clone() for name, x in self.encoder.state_dict().items()}
        self.report = evaluate(
            self.encoder,
            self.train,
            self.test,
            supervised=self.encoder,
            other=self.other,
            path=self.path,
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("report"))


def test_a_report_is_its_json(made):
    report = made.report
    assert json.loads(made.path.read_text()) == report
    assert [path.name for path in made.path.parent.iterdir()] == ["report.json"]
    assert set(report) == {
        "linear_sgd",
        "probe_history",
        "linear",
        "knn",
        "few_shot",
        "cka_supervised",
        "transfer",
        "audit",
        "pictures",
        "feature_dim",
        "seconds",
    }
    assert report["pictures"] == {"train": 90, "test": 60}
    assert report["feature_dim"] == 8
    assert list(report["few_shot"]) == ["1", "5", "20"]
    assert len(report["probe_history"]) == 20


def test_the_encoder_is_bit_for_bit_what_it_was(made):
    for name, value in made.encoder.state_dict().items():
        assert torch.equal(made.before[name], value)
    assert made.encoder.training
    assert made.encoder.conv.training
    assert not made.encoder.norm.training


def test_the_numbers_are_those_of_the_functions(made):
    def features(images):
        return probe.extract_features(made.encoder, images.images)

    report = made.report
    sets = (features(made.train), made.train.labels, features(made.test), made.test.labels)
    fit, test = made.other
    others = (features(fit), fit.labels, features(test), test.labels)
    assert report["cka_supervised"] == pytest.approx(1)
    assert report["linear"] == probe.linear_probe(*sets)
    assert report["linear"] > 0.9
    assert report["knn"] == probe.knn_accuracy(*sets)
    assert (report["linear_sgd"], report["probe_history"]) == sgd_probe(*sets)
    assert report["few_shot"] == {str(n): list(pair) for n, pair in few_shot(*sets).items()}
    assert report["transfer"] == probe.linear_probe(*others)
    assert report["audit"]["pictures"] == 60


def test_cka_with_another_encoder_is_below_one():
    report = evaluate(Flat(), gray_images(), gray_images(), supervised=models.small_cnn(4))
    assert -0.1 < report["cka_supervised"] < 0.999
    assert "transfer" not in report


def test_a_small_folder_and_a_collapsed_encoder_give_a_report_too():
    # Four images a class, and every image has the same features.
    constant = evaluate(Constant(), gray_images(12), gray_images(24))
    assert list(constant["few_shot"]) == ["1"]
    assert constant["linear"] == pytest.approx(1 / 3)
    faint = evaluate(Faint(), gray_images(12), gray_images(24))
    assert min(faint["audit"]["invariance"].values()) == -1e6
    for report in (constant, faint):
        assert json.loads(json.dumps(report, allow_nan=False)) == report


@pytest.mark.parametrize(
    "change, error, text",
    [
        (dict(encoder="shapes_simclr"), TypeError, r"models\.load\(name\) gives one"),
        (dict(train=torch.rand(3)), TypeError, "ImageSet"),
        (dict(other=(gray_images(),)), TypeError, "a pair"),
        (dict(test=gray_images(20)), ValueError, "test: expected 21 pictures"),
        (dict(train=gray_images(30, classes=1)), ValueError, "two or more classes"),
        (dict(mixup=-1), ValueError, "mixup"),
    ],
)
def test_a_bad_report_is_refused(change, error, text):
    arguments = dict(encoder=Flat(), train=gray_images(30), test=gray_images(24)) | change
    with pytest.raises(error, match=text):
        evaluate(**arguments)


def test_a_folder_that_cannot_be_written_is_found_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "report.json"
    with pytest.raises(OSError, match="could not write to this folder"):
        evaluate(Flat(), gray_images(30), gray_images(24), path=path)


def test_a_failed_write_keeps_the_old_report(tmp_path, monkeypatch):
    def full_disk(*args):
        raise OSError(28, "No space left on device")

    path = tmp_path / "report.json"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="the disk is full"):
        evaluate(Flat(), gray_images(30), gray_images(24), path=path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# Encoders


def test_an_untrained_twin_has_the_architecture_and_the_distribution_of_a_new_network():
    twin = random_like(models.load("shapes_simclr"))
    assert not twin.training
    torch.manual_seed(0)
    for name, value in models.small_cnn(32).state_dict().items():
        untrained = twin.state_dict()[name]
        assert untrained.shape == value.shape
        spread = untrained.float().std(correction=0)
        expected = value.float().std(correction=0)
        torch.testing.assert_close(spread, expected, rtol=0.1, atol=1e-6)


def test_an_untrained_twin_has_nothing_of_the_trained_weights():
    trained = models.load("shapes_simclr")
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    twin = random_like(trained)
    other = random_like(trained, seed=1)
    assert same(twin, random_like(trained))
    for name, weight in twin.named_parameters():
        if weight.ndim > 1:
            assert not torch.equal(weight, before[name])
            assert not torch.equal(weight, other.get_parameter(name))
    for name, value in trained.state_dict().items():
        assert torch.equal(before[name], value)


class Token(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.arange(100.0))


def test_parameters_without_a_rule_are_shuffled():
    token = random_like(Token()).token
    assert not torch.equal(token, Token().token)
    assert torch.equal(token.sort().values, Token().token)


def same(a, b):
    """Whether two networks have the same weights and buffers."""
    values = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in values)


def test_an_encoder_is_found_by_name_path_and_folder(tmp_path):
    encoder = models.small_cnn(4)
    models.save(encoder, tmp_path / "encoder", architecture=["small_cnn", 4], data="shapes")
    for name in (tmp_path, tmp_path / "encoder", str(tmp_path / "encoder.safetensors")):
        assert same(models.load(name), encoder)
    with pytest.raises(ValueError, match="no encoder 'nothing'"):
        models.load("nothing")


def test_a_foreign_or_damaged_encoder_is_refused(tmp_path):
    encoder = models.small_cnn(4)
    path = tmp_path / "encoder"
    models.save(encoder, path, architecture=["small_cnn", 8])
    with pytest.raises(ValueError, match="expected the weights of small_cnn of width 8"):
        models.load(tmp_path)
    (tmp_path / "encoder.json").write_text("{}")
    with pytest.raises(ValueError, match=r"expected the entry .sha256., found none"):
        models.load(tmp_path)
    models.save(encoder, path, architecture=["small_cnn", 4])
    (tmp_path / "encoder.safetensors").write_bytes(b"?")
    with pytest.raises(ValueError, match="damaged"):
        models.load(tmp_path)


def test_an_encoder_of_timm_is_found_too(tmp_path):
    pytest.importorskip("timm")
    from dataclasses import asdict, replace

    from replearn.pretrain.recipe import SHAPES, networks

    recipe = replace(SHAPES, network="timm:resnet10t")
    encoder, _ = networks(recipe)
    path = tmp_path / "encoder"
    models.save(encoder, path, architecture=[recipe.network, 1], recipe=asdict(recipe))
    assert same(models.load(tmp_path), encoder)
    card = tmp_path / "encoder.json"
    other = "0" * 64
    card.write_text(re.sub(r'"sha256": "\w+"', f'"sha256": "{other}"', card.read_text()))
    with pytest.raises(ValueError, match=f"expected SHA-256 {other[:8]}"):
        models.load(tmp_path)


# What a person sees


def test_the_table_has_a_row_an_encoder(made):
    full = made.report | dict(linear=0.987)
    bare = {k: v for k, v in full.items() if k not in ("cka_supervised", "transfer")}
    bare["few_shot"] = {"1": [0.5, 0.02]}
    lines = compare({"ours": full, "random weights": bare}).splitlines()
    header, rule, first, second = lines
    assert header.split()[:3] == ["encoder", "SGD", "linear"]
    assert "CKA" in header
    assert set(rule) == {"-"}
    assert len({len(line) for line in lines}) == 1
    assert len(header) <= 81  # as wide as a page
    assert "98.7" in first
    assert "1.00" in first
    assert "50.0" in second
    assert second.count("–") == 4
    with pytest.raises(ValueError, match="expected one or more"):
        compare({})


def test_the_gallery_shows_the_nearest_and_never_the_query_itself():
    import matplotlib.pyplot as plt

    pool = gray_images(60)
    axes = gallery(Light(), pool.subset([0, 1]), pool, k=3).axes
    assert [ax.get_title() for ax in axes] == ["dark"] * 4 + ["gray"] * 4
    shown = [ax.images[0].get_array() for ax in axes]
    for query in (0, 4):
        for neighbor in range(query + 1, query + 4):
            assert (shown[query] != shown[neighbor]).any()
    others = gallery(Light(), pool.subset([0]), pool.subset(pool.labels == 2), k=2)
    assert [ax.get_title() for ax in others.axes] == ["dark", "light", "light"]
    with pytest.raises(ValueError, match="k: expected 1 to 59, the pictures of the pool, found 60"):
        gallery(Light(), pool.subset([0]), pool, k=60)
    plt.close("all")


def test_the_curve_has_a_line_an_encoder(made):
    import matplotlib.pyplot as plt

    ax = probe_curve({"ours": made.report, "theirs": made.report})
    assert [line.get_label() for line in ax.lines] == ["ours", "theirs"]
    expected = [100 * accuracy for accuracy in made.report["probe_history"]]
    assert list(ax.lines[0].get_ydata()) == pytest.approx(expected)
    plt.close("all")


def command(*words):
    """Run the command `evaluate` with few shapes."""
    parser = argparse.ArgumentParser()
    add_evaluate(parser.add_subparsers())
    args = parser.parse_args(["evaluate", *map(str, words)])
    args.run(args)


def save_tiny(path, data="shapes"):
    path.parent.mkdir(exist_ok=True)
    models.save(models.small_cnn(4), path, architecture=["small_cnn", 4], data=data)


FEW = ("--size", 60, "--test-size", 40)


def test_the_command_prints_a_table_and_writes_json_and_figures(tmp_path, capsys):
    run = tmp_path / "run"
    save_tiny(run / "encoder", data="shapes: few")
    with open(run / "log.jsonl", "w") as log:
        for k in (1, 2):
            record = dict(step=k, epoch=k, loss=3 - k, knn=0.1 * k, effective_rank=2.0)
            log.write(json.dumps(record) + "\n")
    save_tiny(tmp_path / "labels")
    json_path = tmp_path / "new" / "r.json"
    figures = tmp_path / "figures"
    where = ("--json", json_path, "--figure", figures, "--device", "cpu")
    command(run, *FEW, "--supervised", tmp_path / "labels", "--other", "digits", *where)

    written = json.loads(json_path.read_text())
    reports = written["reports"]
    assert written["data"] == "shapes"
    assert list(reports) == ["run", "labels", "untrained"]
    assert reports["run"]["pictures"] == {"train": 60, "test": 40}
    assert ["cka_supervised" in report for report in reports.values()] == [True, False, True]
    first_line, *lines = capsys.readouterr().out.splitlines()
    assert first_line == "shapes: 60 training and 40 test pictures"
    table = compare(reports).splitlines()
    assert lines[: len(table)] == table
    for line in lines[len(table) :]:  # these encoders were never trained
        assert re.match(r"warning: (run|labels) is below untrained weights", line)
    starts = {path.name: path.read_bytes()[:4] for path in figures.iterdir()}
    assert starts == {f"{name}.png": b"\x89PNG" for name in ("audit", "gallery", "log", "probe")}


def test_a_shipped_name_is_evaluated(tmp_path, capsys):
    json_path = tmp_path / "r.json"
    command("shapes_vae", *FEW, "--json", json_path)
    reports = json.loads(json_path.read_text())["reports"]
    assert list(reports) == ["shapes_vae", "untrained"]
    assert capsys.readouterr().out.startswith("shapes: 60 training and 40 test pictures")


def test_encoders_whose_names_end_alike_keep_a_row_each(tmp_path):
    one = tmp_path / "a" / "encoder"
    other = tmp_path / "b" / "encoder"
    save_tiny(one)
    save_tiny(other)
    json_path = tmp_path / "r.json"
    command(one, *FEW, "--supervised", other, "--json", json_path)
    reports = json.loads(json_path.read_text())["reports"]
    assert list(reports) == [str(one), str(other), "untrained"]


@pytest.mark.parametrize(
    "words, error",
    [
        (["nothing"], "no encoder 'nothing'"),
        (["shapes_simclr", "--device", "abacus"], "device: expected"),
        (["shapes_simclr", "--data", "nothing"], "expected shapes, digits, cifar10"),
        (["shapes_simclr", "--size", 40, "--test-size", 5], "test: expected 21 pictures"),
    ],
)
def test_the_command_refuses_in_a_sentence(words, error):
    with pytest.raises(ValueError, match=error):
        command(*words)
