"""The comparison of recipes: runs can be cut off, intervals cover, words say what was changed."""

import argparse
import json
import math
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy import stats

from replearn.data import ImageSet
from replearn.pretrain import pretrain
from scripts import recipes, recipes_table

NOISE = {"knn": 0.01, "linear": 0.005}  # of one run
EFFECTS = {
    "lightly": 0.0,
    "lightly_1_temperature": 0.04,
    "course": 0.05,
    "course_blur": 0.04,
    "course_stem": -0.05,
}
TWO = {"lightly": 0.0, "course": 0.05}


# --- the table ------------------------------------------------------------------------------------


def run_record(name, seed, knn, linear):
    """A record as `recipes.one` gives it, with the least that the table needs."""
    recipe = recipes.recipe_named(name)
    return {
        "name": name,
        "seed": seed,
        "knn": knn,
        "linear": linear,
        "recipe": json.loads(json.dumps(asdict(recipe))),  # tuples become lists, as in a file
        "pictures": 100,
        "knn_over_time": [[1.0, knn - 0.1], [2.0, knn]],
    }


def group_of(effects, seeds, generator):
    """Runs whose accuracy is 0.5, a recipe's effect, one of the seed that all share, and noise.

    seeds: how many each recipe has.
    """
    of_seed = generator.normal(0, 0.05, size=max(seeds.values()))
    group = {}
    for name, effect in effects.items():
        group[name] = {}
        for seed in range(seeds[name]):
            expected = 0.5 + effect + of_seed[seed]
            knn = expected + generator.normal(0, NOISE["knn"])
            linear = expected + generator.normal(0, NOISE["linear"])
            group[name][seed] = run_record(name, seed, knn, linear)
    return group


def row_of(name, group):
    (row,) = [row for row in recipes_table.rows(group) if row["name"] == name]
    return row


class Difference(NamedTuple):
    """Which difference an interval is about."""

    probe: str
    what: str


def true_difference(row, what):
    """The difference of the effects that a gain or a step estimates, in points."""
    base = row["base"]
    if what == "step":
        base = "lightly_1_temperature" if row["name"] == "course" else "lightly"
    return 100 * (EFFECTS[row["name"]] - EFFECTS[base])


def covered_by_intervals(group):
    """Whether each interval of a group covers the true difference, as (Difference, bool)."""
    for row in recipes_table.rows(group):
        for probe in NOISE:
            for what in ("gain", "step"):
                if f"{probe}_{what}" in row:
                    mean, half_width = row[f"{probe}_{what}"]
                    is_covered = abs(mean - true_difference(row, what)) <= half_width
                    yield Difference(probe, what), is_covered


@pytest.mark.parametrize(
    "seeds", [[3, 3, 3, 3, 3], [2, 2, 3, 2, 1]], ids=["balanced", "not balanced"]
)
def test_95_percent_intervals_cover_the_true_difference_in_95_percent(seeds):
    generator = np.random.default_rng(0)
    seeds_of = dict(zip(EFFECTS, seeds, strict=True))
    covered = {}
    for _ in range(400):
        for difference, is_covered in covered_by_intervals(group_of(EFFECTS, seeds_of, generator)):
            covered.setdefault(difference, []).append(is_covered)
    assert len(covered) == 4
    in_a_group = {"gain": 4, "step": 2}
    for difference, values in covered.items():
        assert len(values) == 400 * in_a_group[difference.what]
        assert 0.925 < np.mean(values) < 0.975


def test_of_one_recipe_the_interval_is_that_of_the_paired_t_test():
    group = group_of(TWO, {"lightly": 4, "course": 4}, np.random.default_rng(1))
    row = row_of("course", group)
    for probe in NOISE:
        ours = [100 * run[probe] for run in group["course"].values()]
        theirs = [100 * run[probe] for run in group["lightly"].values()]
        expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
        mean, half_width = row[f"{probe}_gain"]
        assert mean - half_width == pytest.approx(expected.low)
        assert mean + half_width == pytest.approx(expected.high)


def test_seeds_without_a_partner_do_not_count_and_one_pair_has_no_interval():
    group = group_of(TWO, {"lightly": 1, "course": 3}, np.random.default_rng(2))
    row = row_of("course", group)
    mean, half_width = row["knn_gain"]
    assert mean == pytest.approx(100 * (group["course"][0]["knn"] - group["lightly"][0]["knn"]))
    assert math.isnan(half_width)
    assert recipes_table.gain(row, "knn") == f"{mean:+.1f}"


def test_the_recipe_to_choose_gains_in_both_probes():
    accuracies = {  # kNN, linear
        "lightly": (0.40, 0.50),
        "course": (0.45, 0.55),
        "course_blur": (0.55, 0.54),  # most in kNN, and loses in the other
        "course_views_4": (0.46, 0.60),
        "course_views_4_mean_and_half_lr": (0.48, 0.57),
        "dkobak": (0.90, 0.90),  # not ours
    }
    group = {}
    for name, (knn, linear) in accuracies.items():
        group[name] = {seed: run_record(name, seed, knn, linear) for seed in (0, 1)}
    rows = recipes_table.rows(group)
    assert recipes_table.chosen(rows) == "course_views_4_mean_and_half_lr"
    worse = [row for row in rows if not row["name"].startswith("course_views")]
    assert recipes_table.chosen(worse) == "course"


def test_records_from_before_a_field_get_its_default():
    """Two large views and no mean: what all runs had."""
    name = "course_views_4_mean"
    group = {}
    for each in ("lightly", "course", name):
        record = run_record(each, 0, 0.5, 0.5)
        if each != name:
            for field in ("n_views", "mean_target", "predictor"):
                del record["recipe"][field]
        group[each] = {0: record}
    change = row_of(name, group)["change"]
    assert change == "batch size 128 → 64, n views 2 → 4, mean target no → yes"
    assert [views for views, *_ in recipes_table.growth(group)["course"]] == [200, 400]


def test_runs_on_held_out_pictures_are_a_group_of_their_own(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(recipes_table, "RESULTS", tmp_path)
    about = dict(network="resnet18", views=400_000, variant="as published", bf16=False)
    for number, measured_on in enumerate([{}, {"measured_on": "validation"}]):
        for name, accuracy in (("lightly", 0.4), ("course", 0.5), ("course_byol", 0.6)):
            record = run_record(name, 0, accuracy, accuracy) | about | measured_on
            (tmp_path / f"{name}_{number}.json").write_text(json.dumps(record), "utf-8")
    assert [about[-1] for about in recipes_table.results()] == ["test", "validation"]
    recipes_table.main()
    before, held_out = capsys.readouterr().out.split("on held-out training pictures")
    assert "to choose" not in before
    assert "to choose, by kNN and the linear probe: course_byol" in held_out
    assert "loss decoupled contrastive → byol, predictor 0 → 512" in held_out


ORDER = [
    "lightly",
    "lightly_1_temperature",
    "lightly_2_loss",
    "course",
    "source",
    "course_blur",
    "course_stem",
]


@pytest.fixture(scope="module")
def rows():
    """The rows of a group of seven recipes, given in another order than that of the table."""
    names = [*ORDER[3:][::-1], *ORDER[:3][::-1]]
    effects = {name: EFFECTS.get(name, 0.0) for name in names}
    seeds = dict.fromkeys(names, 2)
    return recipes_table.rows(group_of(effects, seeds, np.random.default_rng(3)))


def test_rows_stand_in_the_order_of_the_steps_and_then_of_the_accuracy(rows):
    assert [row["name"] for row in rows] == ORDER


def test_words_say_what_was_changed(rows):
    change = {row["name"]: row["change"] for row in rows}
    to_ours = "lr 0.06 → 0.1, warmup 0 → 0.05, crop (0.08, 1) → (0.2, 1), hidden 512 → 2048"
    assert change["lightly"] == "as published"
    assert change["lightly_1_temperature"] == "temperature 0.5 → 0.2"
    assert change["lightly_2_loss"] == "and loss nt xent → decoupled contrastive"
    assert change["course"] == f"and {to_ours}"
    assert change["course_blur"] == "blur 0 → 0.5"
    assert change["source"].startswith("batch size 128 → 256")


def test_the_steps_add_up_to_the_whole_way(rows):
    steps = [row["knn_step"][0] for row in rows if "knn_step" in row]
    (course,) = [row for row in rows if row["name"] == "course"]
    assert sum(steps) == pytest.approx(course["knn_gain"][0])


def test_the_tables_have_the_steps_and_both_bases(rows):
    text = recipes_table.markdown_tables(rows)
    to_ours = "lr 0.06 → 0.1, warmup 0 → 0.05, crop (0.08, 1) → (0.2, 1), hidden 512 → 2048"
    assert f"| {to_ours} | " in text
    lightly = text.index("Differences to lightly's")
    source = text.index("| source |")
    ours = text.index("Differences to ours")
    assert lightly < source < ours


def test_the_curve_holds_the_mean_and_the_ends_of_the_seeds():
    accuracies = (0.4, 0.5, 0.6)
    runs = {seed: run_record("lightly", seed, knn, 0.4) for seed, knn in enumerate(accuracies)}
    first, second = recipes_table.growth({"lightly": runs})["lightly"]
    assert first == pytest.approx((200, 40, 30, 50))
    assert second == pytest.approx((400, 50, 40, 60))


# --- the recipes ----------------------------------------------------------------------------------


def test_steps_lead_from_lightlys_recipe_to_ours():
    known = recipes.recipes()
    assert known["lightly"] == recipes.LIGHTLY
    assert known["course"] == recipes.COURSE
    assert replace(known["lightly_4_hidden"], **recipes.STEPS[-1]) == recipes.COURSE


def test_every_change_changes_something():
    known = recipes.recipes()
    texts = {json.dumps(asdict(recipe), sort_keys=True) for recipe in known.values()}
    assert len(texts) == len(known)


def test_dkobaks_recipe_is_lightlys_with_what_we_know_of_it():
    known = recipes.recipes()["dkobak"]
    assert known.batch_size == 512
    assert known.grayscale == 0.1
    assert known.lr == 6e-2 * known.batch_size / 128
    changed = replace(known, batch_size=128, lr=recipes.LIGHTLY.lr, grayscale=0.2)
    assert changed == recipes.LIGHTLY


@pytest.mark.parametrize("name", ["views_4", "views_4_mean", "views_8", "views_8_mean", "fastsiam"])
def test_a_step_with_many_views_makes_as_many_views(name):
    recipe = recipes.recipes()[f"course_{name}"]
    assert recipe.batch_size * recipe.n_views == 2 * recipes.COURSE.batch_size


def test_changes_can_be_joined():
    joined = recipes.recipe_named("course_views_4_mean_and_half_lr")
    assert joined == replace(recipes.COURSE, n_views=4, batch_size=64, mean_target=True, lr=0.05)
    for name in ("course_views_4_and_best", "lightly_and_blur", "course_"):
        with pytest.raises(KeyError):
            recipes.recipe_named(name)


# --- a run ----------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch, tmp_path, one_silent_thread):
    """Arguments for 40 epochs on 256 images of noise, results and checkpoints in tmp_path."""

    def load(name, split="train", size=None):
        generator = torch.Generator().manual_seed(len(split))
        images = torch.randint(0, 256, (256, 3, 32, 32), dtype=torch.uint8, generator=generator)
        return ImageSet(images, torch.arange(256) % 10, tuple("0123456789"))

    monkeypatch.setattr(recipes.data, "load", load)
    monkeypatch.setattr(recipes, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    return argparse.Namespace(
        recipes=["lightly"],
        seeds=[0],
        views=20480.0,
        network="small_cnn",
        width=4,
        size=None,
        minutes=60,
        folder=str(tmp_path / "runs"),
        variant="noise",
        compile=False,
        bf16=False,
        test=True,
    )


def stored_result():
    """The only file of results: its path and its record."""
    (path,) = recipes.RESULTS.glob("*.json")
    return path, json.loads(path.read_text("utf-8"))


def without_clock(record):
    timed = {"seconds", "pictures_a_second", "peak_gb"}
    return {key: value for key, value in record.items() if key not in timed}


def save_after_every_record(*args, checkpoint_seconds, **options):
    return pretrain(*args, checkpoint_seconds=0, **options)


def time_for_one_record():
    """A clock: there is time to begin and for one record; at the next it is over."""
    times = iter([0, 0, 0])

    def monotonic():
        return next(times, 1)

    return SimpleNamespace(monotonic=monotonic)


def run_in_pieces(args, monkeypatch):
    """Call `recipes.run` with time for one record until it says done; return the calls."""
    for calls in range(1, 50):
        monkeypatch.setattr(recipes, "time", time_for_one_record())
        try:
            recipes.run(args)
        except SystemExit as error:
            assert "paused; the same command goes on" in str(error)
        else:
            return calls
    raise AssertionError("it never says done")


def test_a_run_that_is_cut_off_goes_on_to_the_same_numbers(small, monkeypatch):
    monkeypatch.setattr(recipes, "pretrain", save_after_every_record)
    recipes.run(small)
    path, whole = stored_result()
    assert path.name == "small_cnn-4_2.05e+04_lightly_0.json"
    assert len(whole["knn_over_time"]) == 4
    assert len(whole["loss_over_time"]) == 4
    assert len(whole["linear_over_time"]) == 3
    path.unlink()

    small.folder += "_again"
    small.minutes = 0
    assert run_in_pieces(small, monkeypatch) > 2
    _, in_pieces = stored_result()
    assert without_clock(in_pieces) == without_clock(whole)


def test_choosing_never_sees_the_test_set(small, monkeypatch):
    load = recipes.data.load

    def load_training_images(name, split="train", size=None):
        assert split == "train"
        return load(name, split, size)

    monkeypatch.setattr(recipes.data, "load", load_training_images)
    small.test = False
    small.views = 1024
    train, held_out = recipes.image_sets(small)
    assert (len(train), len(held_out)) == (231, 25)
    everything = [image.tobytes() for image in load("cifar10").images.numpy()]
    parts = [image.tobytes() for image in torch.cat([train.images, held_out.images]).numpy()]
    assert sorted(parts) == sorted(everything)  # none of them in both
    assert held_out.labels.bincount(minlength=10).tolist() == pytest.approx([2.5] * 10, abs=0.5)
    small.size = 100
    fewer, same = recipes.image_sets(small)
    assert len(fewer) == 100
    assert torch.equal(same.images, held_out.images)
    assert torch.equal(fewer.images, train.images[:100])

    small.size = None
    recipes.run(small)
    path, record = stored_result()
    assert path.name == "small_cnn-4_validation_1.02e+03_lightly_0.json"
    assert record["measured_on"] == "validation"
    assert record["pictures"] == 231


def test_as_many_views_in_all_are_fewer_epochs(small, monkeypatch):
    small.recipes = ["course_views_4_mean"]
    small.views = 2048
    recipes.run(small)
    _, record = stored_result()
    assert record["measured_on"] == "test"
    assert record["recipe"]["epochs"] == 2048 / 4 / 256
    assert record["recipe"]["n_views"] == 4


def test_what_is_stored_is_not_run_again(small, monkeypatch, capsys):
    def run_again(*_):
        pytest.fail("ran again")

    path = recipes.RESULTS / f"{recipes.label('lightly', 0, small)}.json"
    path.write_text("{}", "utf-8")
    monkeypatch.setattr(recipes, "one", run_again)
    recipes.run(small)
    assert capsys.readouterr().out == "done\n"
    assert path.read_text("utf-8") == "{}"


def test_a_recipe_that_is_not_there_is_told(small):
    small.recipes = ["lightly", "best"]
    told = "no recipe best; there are source, dkobak, lightly, lightly_1_temperature"
    with pytest.raises(SystemExit, match=told):
        recipes.run(small)
