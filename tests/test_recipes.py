"""The comparison of recipes: its runs can be cut off, its intervals cover, its words say what was changed."""

import argparse
import json
import math
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from replearn.data import ImageSet
from replearn.pretrain import pretrain
from scripts import recipes, recipes_table

NOISE = dict(knn=0.01, linear=0.005)  # of one run


def record(name, seed, knn, linear):
    """As `recipes.one` gives it, with the least that the table needs."""
    recipe = json.loads(json.dumps(asdict(recipes.recipes()[name])))
    return dict(
        name=name,
        seed=seed,
        knn=knn,
        linear=linear,
        recipe=recipe,
        pictures=100,
        knn_over_time=[[1.0, knn - 0.1], [2.0, knn]],
    )


def group_of(effects, seeds, generator):
    """Runs whose accuracy is 0.5, a recipe's effect, one of the seed that all recipes share, and noise."""
    shared = generator.normal(0, 0.05, size=max(seeds.values()))
    return {
        name: {
            s: record(
                name,
                s,
                *(0.5 + effect + shared[s] + generator.normal(0, sd) for sd in NOISE.values()),
            )
            for s in range(seeds[name])
        }
        for name, effect in effects.items()
    }


EFFECTS = dict(
    lightly=0.0, lightly_1_temperature=0.04, course=0.05, course_blur=0.04, course_stem=-0.05
)


@pytest.mark.parametrize(
    "seeds", [[3, 3, 3, 3, 3], [2, 2, 3, 2, 1]], ids=["balanced", "not balanced"]
)
def test_95_percent_intervals_cover_the_true_difference_in_95_percent(seeds):
    generator, inside = (
        np.random.default_rng(0),
        {(key, what): [] for key in NOISE for what in ("gain", "step")},
    )
    for _ in range(400):
        for row in recipes_table.rows(
            group_of(EFFECTS, dict(zip(EFFECTS, seeds, strict=True)), generator)
        ):
            bases = dict(
                gain=row["base"],
                step="lightly_1_temperature" if row["name"] == "course" else "lightly",
            )
            for (key, what), found in inside.items():
                if f"{key}_{what}" in row:
                    mean, half = row[f"{key}_{what}"]
                    found.append(
                        abs(mean - 100 * (EFFECTS[row["name"]] - EFFECTS[bases[what]])) <= half
                    )
    for (_, what), found in inside.items():
        assert len(found) == 400 * dict(gain=4, step=2)[what]
        assert 0.925 < np.mean(found) < 0.975


def test_of_one_recipe_the_interval_is_that_of_the_paired_t_test():
    group = group_of(
        {"lightly": 0, "course": 0.05}, dict(lightly=4, course=4), np.random.default_rng(1)
    )
    (row,) = (row for row in recipes_table.rows(group) if row["name"] == "course")
    for key in NOISE:
        ours, theirs = (
            [100 * run[key] for run in group[name].values()] for name in ("course", "lightly")
        )
        found = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
        mean, half = row[f"{key}_gain"]
        assert (mean - half, mean + half) == pytest.approx((found.low, found.high))


def test_seeds_without_a_partner_do_not_count_and_one_pair_has_no_interval():
    group = group_of(
        {"lightly": 0, "course": 0.05}, dict(lightly=1, course=3), np.random.default_rng(2)
    )
    (row,) = (row for row in recipes_table.rows(group) if row["name"] == "course")
    mean, half = row["knn_gain"]
    assert mean == pytest.approx(100 * (group["course"][0]["knn"] - group["lightly"][0]["knn"]))
    assert math.isnan(half)
    assert recipes_table.gain(row, "knn") == f"{mean:+.1f}"


def test_rows_stand_in_the_order_of_the_steps_and_then_of_the_accuracy():
    names = [
        "course_stem",
        "source",
        "course",
        "lightly_2_loss",
        "course_blur",
        "lightly",
        "lightly_1_temperature",
    ]
    effects = dict.fromkeys(names, 0.0) | EFFECTS
    rows = recipes_table.rows(group_of(effects, dict.fromkeys(names, 2), np.random.default_rng(3)))
    order = "lightly lightly_1_temperature lightly_2_loss course source course_blur course_stem"
    assert [row["name"] for row in rows] == order.split()
    said = {row["name"]: row["change"] for row in rows}
    assert said["lightly_1_temperature"] == "temperature 0.5 → 0.2"
    assert said["lightly_2_loss"] == "and loss nt xent → decoupled contrastive"
    assert (
        said["course"]
        == "and lr 0.06 → 0.1, warmup 0 → 0.05, crop (0.08, 1) → (0.2, 1), hidden 512 → 2048"
    )
    assert said["course_blur"] == "blur 0 → 0.5"
    assert said["source"].startswith("batch size 128 → 256")
    steps = {row["name"]: row["knn_step"][0] for row in rows if "knn_step" in row}
    assert sum(steps.values()) == pytest.approx(
        next(row for row in rows if row["name"] == "course")["knn_gain"][0]
    )
    table = recipes_table.table(rows)
    assert (
        "| lr 0.06 → 0.1, warmup 0 → 0.05, crop (0.08, 1) → (0.2, 1), hidden 512 → 2048 | " in table
    )
    assert (
        table.index("Differences to lightly's")
        < table.index("| source |")
        < table.index("Differences to ours")
    )
    picture = recipes_table.picture(rows)
    assert all(
        f">{name.replace('_', ' ')}</text>" in picture for name in names if name != "lightly"
    )


def test_the_curve_holds_the_mean_and_the_ends_of_the_seeds():
    group = {
        "lightly": {s: record("lightly", s, knn, 0.4) for s, knn in enumerate((0.4, 0.5, 0.6))}
    }
    assert recipes_table.growth(group) == {
        "lightly": [pytest.approx((200, 40, 30, 50)), pytest.approx((400, 50, 40, 60))]
    }


def test_steps_lead_from_lightlys_recipe_to_ours_and_every_change_changes_something():
    known = recipes.recipes()
    assert known["lightly"] == recipes.LIGHTLY
    assert (
        replace(known["lightly_4_hidden"], **recipes.STEPS[-1]) == known["course"] == recipes.COURSE
    )
    assert len({json.dumps(asdict(recipe), sort_keys=True) for recipe in known.values()}) == len(
        known
    )


# --- a run ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch, tmp_path, one_silent_thread):
    """The command line's arguments for 40 epochs on 256 pictures of noise, results and checkpoints in tmp_path."""
    generator = torch.Generator().manual_seed(0)

    def load(name, split="train", size=None):
        images = torch.randint(
            0, 256, (256, 3, 32, 32), dtype=torch.uint8, generator=generator.manual_seed(len(split))
        )
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
    )


def stored():
    (path,) = recipes.RESULTS.glob("*.json")
    return path.name, json.loads(path.read_text("utf-8"))


def test_a_run_that_is_cut_off_goes_on_to_the_same_numbers(small, monkeypatch):
    monkeypatch.setattr(
        recipes,
        "pretrain",
        lambda *args, checkpoint_seconds, **options: pretrain(
            *args, checkpoint_seconds=0, **options
        ),
    )  # a checkpoint after every record
    recipes.run(small)
    name, whole = stored()
    assert name == "small_cnn-4_2.05e+04_lightly_0.json"
    assert (
        len(whole["knn_over_time"]) == len(whole["loss_over_time"]) == 4
        and len(whole["linear_over_time"]) == 3
    )
    (recipes.RESULTS / name).unlink()

    small.folder += "_again"
    small.minutes = 0
    calls = 0
    while True:
        calls += 1
        assert calls < 50
        times = iter([0, 0, 0])  # there is time to begin and for one record; at the next it is over
        monkeypatch.setattr(
            recipes, "time", SimpleNamespace(monotonic=lambda times=times: next(times, 1))
        )
        try:
            recipes.run(small)
            break
        except SystemExit as error:
            assert "paused; the same command goes on" in str(error)
    _, pieces = stored()
    assert calls > 2
    timed = {"seconds", "pictures_a_second", "peak_gb"}
    assert {k: v for k, v in pieces.items() if k not in timed} == {
        k: v for k, v in whole.items() if k not in timed
    }


def test_what_is_stored_is_not_run_again(small, monkeypatch, capsys):
    path = recipes.RESULTS / f"{recipes.label('lightly', 0, small)}.json"
    path.write_text("{}", "utf-8")
    monkeypatch.setattr(recipes, "one", lambda *_: pytest.fail("ran again"))
    recipes.run(small)
    assert capsys.readouterr().out == "done\n" and path.read_text("utf-8") == "{}"


def test_a_recipe_that_is_not_there_is_told(small):
    small.recipes = ["lightly", "best"]
    with pytest.raises(
        SystemExit, match="no recipe best; there are source, lightly, lightly_1_temperature"
    ):
        recipes.run(small)
