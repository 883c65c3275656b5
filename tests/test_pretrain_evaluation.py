"""What an encoder is worth: the probe against a plain loop, fair draws, a report that survives JSON, bad input."""

import argparse
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from replearn import data, models, probe
from replearn.pretrain.commands import _add_evaluate
from replearn.pretrain.evaluation import (
    compare,
    evaluate,
    few_shot,
    gallery,
    load_encoder,
    probe_curve,
    random_like,
    sgd_probe,
)
from replearn.train import cosine

pytestmark = pytest.mark.usefixtures("one_silent_thread")


def clusters(n=400, d=12, classes=4, apart=1.0, seed=0):
    """Gaussian clusters, and their labels: features that a line separates, the better the further apart."""
    draw = torch.Generator().manual_seed(seed)
    centers = 2 * apart * torch.randn(classes, d, generator=torch.Generator().manual_seed(9))
    y = torch.arange(n) % classes
    return centers[y] + torch.randn(n, d, generator=draw), y


def both(**options):
    return *clusters(**options), *clusters(**options, seed=1)


def blank(n=60, classes=3):
    """Noise pictures whose brightness tells the class."""
    y = torch.arange(n) % classes
    noise = torch.randint(0, 60, (n, 3, 8, 8), generator=torch.Generator().manual_seed(n))
    return data.ImageSet(
        (noise + 60 * y[:, None, None, None]).to(torch.uint8),
        y,
        ("dark", "gray", "light")[:classes],
    )


class Flat(nn.Module):
    """A linear map of 8 x 8 pictures, with a batch norm whose statistics and flag must not move."""

    def __init__(self, d=8):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.linear = (
            nn.Conv2d(3, 4, 3, 2, 1),
            nn.BatchNorm2d(4),
            nn.Linear(64, d),
        )

    def forward(self, x):
        return self.linear(self.norm(self.conv(x)).relu().flatten(1))


class Constant(nn.Module):
    def forward(self, x):
        return torch.ones(len(x), 5)


class Faint(nn.Module):
    """Features that differ in the last bits of 1 only, as good as constant: what moves them moves infinitely far."""

    def forward(self, x):
        return 1 + 1e-6 * x.mean((2, 3))


# The probe


def plain_loop(z, y, z_test, y_test, *, epochs, lr, weight_decay, batch_size, seed):
    """The same in the words of a textbook: class indexes, CosineAnnealingLR, a linear layer."""
    mean, std = z.mean(0), z.std(0, correction=0)
    z, z_test, draw = (z - mean) / std, (z_test - mean) / std, torch.Generator().manual_seed(seed)
    layer = nn.Linear(z.shape[1], int(y.max()) + 1)
    with torch.no_grad():
        layer.weight.copy_(0.01 * torch.randn(layer.weight.shape, generator=draw))
        layer.bias.zero_()
    optimizer = torch.optim.SGD(layer.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay)
    steps = epochs * math.ceil(len(z) / batch_size)
    schedule, history = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps), []
    for _ in range(epochs):
        for rows in torch.randperm(len(z), generator=draw).split(batch_size):
            optimizer.zero_grad()
            nn.CrossEntropyLoss()(layer(z[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
        history.append((layer(z_test).argmax(1) == y_test).float().mean().item())
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
    return history


@pytest.mark.parametrize("batch_size", [64, 1000])
def test_without_mixup_the_probe_is_a_plain_loop(batch_size):
    sets, how = (
        both(apart=0.3),
        dict(epochs=6, lr=0.1, weight_decay=1e-2, batch_size=batch_size, seed=3),
    )
    accuracy, history = sgd_probe(*sets, **how)
    expected = plain_loop(*sets, **how)
    assert (
        len(set(history)) > 2
        and history == pytest.approx(expected, abs=1e-6)
        and accuracy == history[-1]
    )


def test_the_rate_falls_along_a_cosine_to_zero(monkeypatch):
    rates, step = [], torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD,
        "step",
        lambda self, *args: rates.append(self.param_groups[0]["lr"]) or step(self, *args),
    )
    sgd_probe(*both(), epochs=5, lr=0.3, batch_size=100)
    assert rates == pytest.approx([0.15 * (1 + math.cos(math.pi * k / 20)) for k in range(20)])
    assert cosine(20, 20, start=0.3) == 0


def test_the_probe_reaches_the_optimum_on_separable_features():
    for apart in (0.4, 1.0):
        sets = both(n=2000, apart=apart)
        assert sgd_probe(*sets)[0] == pytest.approx(probe.linear_probe(*sets), abs=0.01)
    assert sgd_probe(*sets)[0] > 0.99


def test_random_labels_stay_at_chance():
    z, y, z_test, _ = both(n=2000)
    draw = torch.Generator().manual_seed(0)
    y, y_test = torch.randint(0, 4, (2, 2000), generator=draw)
    assert sgd_probe(z, y, z_test, y_test)[0] == pytest.approx(
        0.25, abs=0.04
    )  # 4 standard deviations
    assert few_shot(z, y, z_test, y_test, shots=[20])[20][0] == pytest.approx(0.25, abs=0.04)


def test_features_of_any_scale_give_the_same_accuracy():
    z, y, z_test, y_test = both(apart=0.3)
    dead = torch.full((400, 1), 0.1)
    moved, moved_test = (torch.cat([1000 * v + 7000, dead], 1) for v in (z, z_test))
    ours, theirs = (
        sgd_probe(*sets)[0] for sets in ((z, y, z_test, y_test), (moved, y, moved_test, y_test))
    )
    assert ours == pytest.approx(theirs, abs=0.02)


def test_a_seed_gives_the_same_probe_and_leaves_the_global_one_alone():
    sets = both(apart=0.3)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    for mixup in (0.0, 0.5):
        histories = [sgd_probe(*sets, seed=seed, mixup=mixup, epochs=3)[1] for seed in (0, 0, 1)]
        assert histories[0] == histories[1] != histories[2]
    assert torch.equal(state, torch.random.get_rng_state())


def test_mixup_mixes_features_and_targets_alike(monkeypatch):
    seen, loss = [], F.cross_entropy
    monkeypatch.setattr(
        F, "cross_entropy", lambda logits, target: seen.append(target) or loss(logits, target)
    )
    z, y, z_test, y_test = both(apart=1.0)
    accuracy, _ = sgd_probe(z, y, z_test, y_test, mixup=1.0, epochs=5, batch_size=100)
    targets = torch.cat(seen)
    torch.testing.assert_close(targets.sum(1), torch.ones(len(targets)))
    shares = torch.stack([target.masked_fill(target < 1e-6, 2).min() for target in seen])
    assert (
        (targets > 1e-6).sum(1) <= 2
    ).all() and shares.unique().numel() > 10  # two classes at most, a share a batch
    assert accuracy > 0.95


def test_mixed_features_are_where_their_targets_say():
    from replearn.pretrain.evaluation import _mixed

    x, rng = torch.eye(6), np.random.default_rng(0)  # features that are their own targets
    mixed, target = _mixed(x, x.clone(), 1.0, rng)
    assert torch.equal(mixed, target) and not torch.equal(mixed, x)
    assert _mixed(x, x, 0.0, rng) == (x, x)


def test_a_class_never_seen_in_training_counts_as_wrong():
    z, y, z_test, y_test = both()
    some = y < 2
    accuracy = sgd_probe(z[some], y[some] + 7, z_test, y_test + 7)[0]
    assert 0.4 < accuracy <= 0.5


# Few labels


def test_every_class_is_drawn_exactly_so_often(monkeypatch):
    drawn, fit = [], probe.LinearProbe.fit
    monkeypatch.setattr(
        probe.LinearProbe, "fit", lambda self, z, y: drawn.append((z, y)) or fit(self, z, y)
    )
    z, y, z_test, y_test = both(n=403)  # classes of 100 and 101
    few_shot(z, y + 3, z_test, y_test + 3, shots=(1, 7), draws=3)
    assert [labels.bincount().tolist() for _, labels in drawn] == [
        [0, 0, 0] + [n] * 4 for n in (1, 1, 1, 7, 7, 7)
    ]
    assert not torch.equal(drawn[0][0], drawn[1][0])  # another draw, other pictures
    where = {tuple(row.tolist()): int(label) + 3 for row, label in zip(z, y, strict=True)}
    for rows, labels in drawn:  # each with the label that was its own
        assert [where[tuple(row.tolist())] for row in rows] == labels.tolist()


def test_more_labels_are_better_and_the_spread_is_that_of_the_draws():
    sets = both(apart=0.3, n=800)
    result = few_shot(*sets, shots=(1, 5, 50), draws=4)
    assert (
        list(result) == [1, 5, 50]
        and result[1][0] < result[5][0] < result[50][0]
        and result[1][1] > 0
    )
    assert (
        result
        == few_shot(*sets, shots=(1, 5, 50), draws=4)
        != few_shot(*sets, shots=(1, 5, 50), draws=4, seed=1)
    )
    alone = few_shot(*sets, shots=[5], draws=1)
    assert alone[5][1] == 0.0
    whole = few_shot(*sets, shots=[200], draws=2)[200]  # all there are: no two draws differ
    assert whole == (pytest.approx(probe.linear_probe(*sets)), pytest.approx(0, abs=1e-6))


def test_too_few_pictures_of_a_class_is_an_error():
    z, y, z_test, y_test = both(n=40)
    with pytest.raises(
        ValueError, match="expected at most 10, the pictures of the smallest class, found 11"
    ):
        few_shot(z, y, z_test, y_test, shots=(1, 11))


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
    function = few_shot if {"shots", "draws"} & set(options) else sgd_probe
    with pytest.raises(ValueError, match=error):
        function(*(sets | change).values(), **options)


# The report


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.json"
    encoder = Flat().train()
    encoder.norm.eval()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    other = blank(45), blank(24)
    made = evaluate(encoder, blank(90), blank(60), supervised=encoder, other=other, path=path)
    return made, path, encoder, before, other


def test_a_report_is_its_json(report):
    made, path, *_ = report
    assert json.loads(path.read_text()) == made and [p.name for p in path.parent.iterdir()] == [
        "report.json"
    ]
    assert set(made) == set(
        "linear_sgd probe_history linear knn few_shot cka_supervised transfer audit pictures "
        "feature_dim seconds".split()
    )
    assert made["pictures"] == {"train": 90, "test": 60} and made["feature_dim"] == 8
    assert list(made["few_shot"]) == ["1", "5", "20"] and len(made["probe_history"]) == 20


def test_the_encoder_is_bit_for_bit_what_it_was(report):
    _, _, encoder, before, _ = report
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    assert encoder.training and encoder.conv.training and not encoder.norm.training


def test_the_numbers_are_those_of_the_functions(report):
    made, _, encoder, _, other = report
    z, z_test, o, o_test = (
        probe.extract_features(encoder, s.images) for s in (blank(90), blank(60), *other)
    )
    sets = z, blank(90).labels, z_test, blank(60).labels
    assert made["cka_supervised"] == pytest.approx(1)
    assert made["linear"] == probe.linear_probe(*sets) and made["knn"] == probe.knn_accuracy(*sets)
    assert (made["linear_sgd"], made["probe_history"]) == sgd_probe(*sets)
    assert made["few_shot"] == {str(n): list(pair) for n, pair in few_shot(*sets).items()}
    assert made["transfer"] == probe.linear_probe(o, other[0].labels, o_test, other[1].labels)
    assert made["audit"]["pictures"] == 60 and made["linear"] > 0.9


def test_cka_with_another_encoder_is_below_one():
    made = evaluate(Flat(), blank(), blank(), supervised=models.small_cnn(4))
    assert -0.1 < made["cka_supervised"] < 0.999 and "transfer" not in made


def test_a_small_folder_and_a_collapsed_encoder_give_a_report_too():
    small = evaluate(
        Constant(), blank(12), blank(24)
    )  # four pictures a class; every picture the same features
    assert list(small["few_shot"]) == ["1"] and small["linear"] == pytest.approx(1 / 3)
    faint = evaluate(Faint(), blank(12), blank(24))
    assert min(faint["audit"]["invariance"].values()) == -1e6
    for report in (small, faint):
        assert json.loads(json.dumps(report, allow_nan=False)) == report


@pytest.mark.parametrize(
    "change, error, text",
    [
        (dict(encoder="shapes_simclr"), TypeError, "load_encoder"),
        (dict(train=torch.rand(3)), TypeError, "ImageSet"),
        (dict(other=(blank(),)), TypeError, "a pair"),
        (dict(test=blank(20)), ValueError, "test: expected 21 pictures"),
        (dict(train=blank(30, classes=1)), ValueError, "two or more classes"),
        (dict(mixup=-1), ValueError, "mixup"),
    ],
)
def test_a_bad_report_is_refused(change, error, text):
    given = dict(encoder=Flat(), train=blank(30), test=blank(24)) | change
    with pytest.raises(error, match=text):
        evaluate(**given)


def test_a_folder_that_cannot_be_written_is_found_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="could not write to this folder"):
        evaluate(Flat(), blank(30), blank(24), path=tmp_path / "file" / "report.json")


def test_a_failed_write_keeps_the_old_report(tmp_path, monkeypatch):
    import os

    path = tmp_path / "report.json"
    path.write_text("old")
    monkeypatch.setattr(
        os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="the disk is full"):
        evaluate(Flat(), blank(30), blank(24), path=path)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


# Encoders


def test_an_untrained_twin_has_the_architecture_and_nothing_else():
    trained = models.load("shapes_simclr")
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    twin, again, other = (random_like(trained, seed=seed) for seed in (0, 0, 1))
    torch.manual_seed(0)
    fresh = models.small_cnn(32)
    for (
        name,
        value,
    ) in fresh.state_dict().items():  # the distribution of a new network, not the trained values
        assert twin.state_dict()[name].shape == value.shape
        torch.testing.assert_close(
            twin.state_dict()[name].float().std(correction=0),
            value.float().std(correction=0),
            rtol=0.1,
            atol=1e-6,
        )
    assert all(
        torch.equal(a, b) for a, b in zip(twin.parameters(), again.parameters(), strict=True)
    )
    for name, weight in twin.named_parameters():
        if weight.ndim > 1:
            assert not torch.equal(weight, before[name]) and not torch.equal(
                weight, other.get_parameter(name)
            )
    assert (
        all(torch.equal(before[name], value) for name, value in trained.state_dict().items())
        and not twin.training
    )


class Token(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.arange(100.0))


def test_parameters_without_a_rule_are_shuffled():
    twin = random_like(Token())
    assert not torch.equal(twin.token, Token().token) and torch.equal(
        twin.token.sort().values, Token().token
    )


def same(a, b):
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_an_encoder_is_found_by_name_path_and_folder(tmp_path):
    encoder = models.small_cnn(4)
    models.save(encoder, tmp_path / "encoder", architecture=["small_cnn", 4], data="shapes")
    for name in (tmp_path, tmp_path / "encoder", str(tmp_path / "encoder.safetensors")):
        assert same(load_encoder(name), encoder)
    assert same(load_encoder("shapes_simclr"), models.load("shapes_simclr"))
    with pytest.raises(ValueError, match="no encoder 'nothing'"):
        load_encoder("nothing")


def test_a_foreign_or_damaged_encoder_is_refused(tmp_path):
    models.save(models.small_cnn(4), tmp_path / "encoder", architecture=["small_cnn", 8])
    with pytest.raises(ValueError, match="the card and the weights of one encoder"):
        load_encoder(tmp_path)
    (tmp_path / "encoder.json").write_text("{}")
    with pytest.raises(ValueError, match="found KeyError"):
        load_encoder(tmp_path)
    models.save(models.small_cnn(4), tmp_path / "encoder", architecture=["small_cnn", 4])
    (tmp_path / "encoder.safetensors").write_bytes(b"?")
    with pytest.raises(ValueError, match="damaged"):
        load_encoder(tmp_path)


def test_an_encoder_of_timm_is_found_too(tmp_path):
    pytest.importorskip("timm")
    from dataclasses import asdict, replace

    from replearn.pretrain.recipe import SHAPES, networks

    recipe = replace(SHAPES, network="timm:resnet10t")
    encoder = networks(recipe)[0]
    models.save(
        encoder, tmp_path / "encoder", architecture=[recipe.network, 1], recipe=asdict(recipe)
    )
    assert same(load_encoder(tmp_path), encoder)
    card = tmp_path / "encoder.json"
    card.write_text(card.read_text().replace('"sha256": "', '"sha256": "0'))
    with pytest.raises(ValueError, match="expected SHA-256 0"):
        load_encoder(tmp_path)


# What a person sees


def test_the_table_has_a_row_an_encoder(report):
    made = report[0] | dict(linear=0.987)
    bare = {k: v for k, v in made.items() if k not in ("cka_supervised", "transfer")}
    bare["few_shot"] = {"1": [0.5, 0.02]}
    head, line, first, second = compare({"ours": made, "random weights": bare}).splitlines()
    assert head.split()[:3] == ["encoder", "SGD", "linear"] and "CKA" in head and set(line) == {"-"}
    assert (
        len({len(head), len(line), len(first), len(second)}) == 1 and len(head) <= 81
    )  # as wide as a page
    assert "98.7" in first and "1.00" in first and "50.0" in second and second.count("–") == 4
    with pytest.raises(ValueError, match="expected one or more"):
        compare({})


class Light(nn.Module):
    """Brightness in two directions, so that the nearest by cosine are the equally bright ones."""

    def forward(self, x):
        light = x.mean((1, 2, 3))
        return torch.stack([light, 0.3 - light], 1)


def test_the_gallery_shows_the_nearest_and_never_the_query_itself():
    import matplotlib.pyplot as plt

    pool = blank(60)
    figure = gallery(Light(), pool.subset([0, 1]), pool, k=3)
    titles = [ax.get_title() for ax in figure.axes]
    shown = [ax.images[0].get_array() for ax in figure.axes]
    assert titles == ["dark"] * 4 + ["gray"] * 4
    assert all((shown[row] != shown[row + i]).any() for row in (0, 4) for i in (1, 2, 3))
    dashed = gallery(Light(), pool.subset([0]), pool.subset(pool.labels == 2), k=2)
    assert [ax.get_title() for ax in dashed.axes] == ["dark", "light", "light"]
    with pytest.raises(ValueError, match="k: expected 1 to 59, the pictures of the pool, found 60"):
        gallery(Light(), pool.subset([0]), pool, k=60)
    plt.close("all")


def test_the_curve_has_a_line_an_encoder(report):
    import matplotlib.pyplot as plt

    ax = probe_curve({"ours": report[0], "theirs": report[0]})
    assert [line.get_label() for line in ax.lines] == ["ours", "theirs"]
    assert list(ax.lines[0].get_ydata()) == pytest.approx(
        [100 * v for v in report[0]["probe_history"]]
    )
    plt.close("all")


def command(*arguments):
    parser = argparse.ArgumentParser()
    _add_evaluate(parser.add_subparsers())
    args = parser.parse_args(["evaluate", *map(str, arguments)])
    args.run(args)


def test_the_command_prints_a_table_and_writes_json_and_figures(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    models.save(
        models.small_cnn(4), run / "encoder", architecture=["small_cnn", 4], data="shapes: few"
    )
    records = [dict(step=k, epoch=k, loss=3 - k, knn=0.1 * k, effective_rank=2.0) for k in (1, 2)]
    (run / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    models.save(models.small_cnn(4), tmp_path / "labels", architecture=["small_cnn", 4])
    command(
        run,
        "--size",
        60,
        "--test-size",
        40,
        "--supervised",
        tmp_path / "labels",
        "--other",
        "digits",
        "--json",
        tmp_path / "new" / "r.json",
        "--figure",
        tmp_path / "figures",
        "--device",
        "cpu",
    )
    written = json.loads((tmp_path / "new" / "r.json").read_text())
    assert (
        list(written["reports"]) == ["run", "labels", "untrained"] and written["data"] == "shapes"
    )
    assert written["reports"]["run"]["pictures"] == {"train": 60, "test": 40}
    assert ["cka_supervised" in r for r in written["reports"].values()] == [True, False, True]
    assert capsys.readouterr().out.splitlines()[1:] == compare(written["reports"]).splitlines()
    pictures = {path.name: path.read_bytes()[:4] for path in (tmp_path / "figures").iterdir()}
    assert pictures == {f"{name}.png": b"\x89PNG" for name in ("audit", "gallery", "log", "probe")}


def test_encoders_whose_names_end_alike_keep_a_row_each(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        models.save(
            models.small_cnn(4),
            tmp_path / folder / "encoder",
            architecture=["small_cnn", 4],
            data="shapes",
        )
    paths = [str(tmp_path / folder / "encoder") for folder in ("a", "b")]
    command(
        paths[0],
        "--size",
        60,
        "--test-size",
        40,
        "--supervised",
        paths[1],
        "--json",
        tmp_path / "r.json",
    )
    assert list(json.loads((tmp_path / "r.json").read_text())["reports"]) == [*paths, "untrained"]


@pytest.mark.parametrize(
    "arguments, error",
    [
        (["nothing"], "no encoder 'nothing'"),
        (["shapes_simclr", "--device", "abacus"], "device: expected"),
        (["shapes_simclr", "--data", "nothing"], "expected shapes, digits, cifar10"),
        (["shapes_simclr", "--size", 40, "--test-size", 5], "test: expected 21 pictures"),
    ],
)
def test_the_command_refuses_in_a_sentence(arguments, error):
    with pytest.raises(ValueError, match=error):
        command(*arguments)
