"""Measure what the lessons say beside their own cells, so that no number stands there unmeasured.

python -m scripts.side_experiments                  # all; about a quarter of an hour on one core
python -m scripts.side_experiments more_steps gram_in_float32 --seeds 2

A lesson says in a sentence or two what a variation of its experiment gives, "measured outside this
notebook". Each function here is one such variation. It executes the cells of the lesson that it
needs, with one thing replaced, and returns numbers. They go to
benchmarks/results/side_experiments.json, one entry an experiment; other entries stay as they are.
`python -m tools.lint_course` compares the sentences with the entries.
"""

import argparse
import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jupytext
import matplotlib
import matplotlib.pyplot as plt
import torch

from benchmarks.shared import RESULTS, machine
from replearn import data, models, probe, train
from replearn.files import write_json
from replearn.pretrain.step import new_run, train_step
from scripts import checkpoints
from tools import notebooks

SEEDS = 5
PATH = RESULTS / "side_experiments.json"

Names = dict[str, Any]  # what the cells of a lesson have defined
Numbers = dict[str, float | list[float]]


class Experiment(NamedTuple):
    """What is measured, and which sentence rests on it."""

    measure: Callable[[int], Numbers]  # from a seed
    lesson: str
    words: str  # of the sentence, as it stands in the lesson
    settings: dict[str, float]  # numbers of the sentence that were chosen, not measured
    most_seeds: int = SEEDS  # fewer where a seed takes long


# --- the cells of a lesson ------------------------------------------------------------------------


def code_of(lesson: str, parts: Sequence[str], replace: Mapping[str, str] | None = None) -> str:
    """Return the code of some cells of a lesson, in the lesson's order.

    Args:
        lesson: Its number, "03".
        parts: One piece of code for each cell, which stands in no other cell.
        replace: `{code of these cells: other code}`; each piece must stand there once.

    Raises:
        ValueError: A piece of code stands in no cell, or in several.
    """
    (source,) = notebooks.sources([lesson])
    nb = jupytext.reads(source.read_text("utf-8"), fmt="md:myst")
    cells = [cell.source for cell in nb.cells if cell.cell_type == "code"]
    chosen = set()
    for part in parts:
        places = [place for place, cell in enumerate(cells) if part in cell]
        if len(places) != 1:
            raise ValueError(
                f"lesson {lesson}: expected one cell with {part!r}, found {len(places)}: "
                "correct scripts/side_experiments.py"
            )
        chosen.update(places)
    code = "\n\n".join(cells[place] for place in sorted(chosen))
    for old, new in (replace or {}).items():
        if code.count(old) != 1:
            raise ValueError(
                f"lesson {lesson}: expected {old!r} once, found it {code.count(old)} times: "
                "correct scripts/side_experiments.py"
            )
        code = code.replace(old, new)
    return code


def run_cells(
    lesson: str, seed: int, parts: Sequence[str], replace: Mapping[str, str] | None = None
) -> Names:
    """Execute some cells of a lesson at a seed and at the cpu profile, whatever machine it is.

    Args:
        lesson: See `code_of`.
        seed: Of the lesson.
        parts: See `code_of`.
        replace: See `code_of`.

    Returns:
        The names that the cells have defined.
    """
    code = code_of(lesson, parts, replace)
    os.environ.update(REPLEARN_SEED=str(seed), REPLEARN_PROFILE="cpu", REPLEARN_STATIC="1")
    matplotlib.use("Agg")
    names: Names = {}
    with contextlib.redirect_stdout(io.StringIO()):  # what the lesson prints
        exec(compile(code, f"<lesson {lesson}>", "exec"), names)
    plt.close("all")
    return names


# --- lesson 01 ------------------------------------------------------------------------------------


def shared_votes(seed: int) -> Numbers:
    """HOG whose pixels divide their vote between the two nearest directions.

    All else stays: cells, blocks, pictures. How far does the object's first degree move it, in
    units of the distance to another class?
    """
    cells = ["lesson = Lesson(", "import matplotlib", "PIXEL = 2 / 32", "seen = data.load("]
    cells += ["def hog(images", "def embed(network)", "def draw(**changed)", "def camera(images"]
    cells += ["def relative_move", "def hog_moves"]
    # Only HOG is measured, so the other representations need not be made.
    only_hog = {
        '"pixels": pixels, "PCA": pca, "HOG": hog,\n            "untrained": embed(untrained), '
        '"learned": embed(encoder)': '"HOG": hog',
        'FOUR = ["pixels", "PCA", "HOG", "learned"]': 'FOUR = ["HOG"]',
    }
    one_vote = """\
    which = (angle * bins / math.pi).long().clamp(max=bins - 1)
    votes = x.new_zeros(len(x), bins, *x.shape[2:])
    votes.scatter_(1, which, strength)  # each pixel, one vote
"""
    two_votes = """\
    place = angle * bins / math.pi - 0.5  # the middle of a direction is a whole number
    share = place - place.floor()
    lower = place.floor().long() % bins
    votes = x.new_zeros(len(x), bins, *x.shape[2:])
    votes.scatter_add_(1, lower, (1 - share) * strength)
    votes.scatter_add_(1, (lower + 1) % bins, share * strength)
"""
    numbers = {}
    for name, changed in (("one vote", {}), ("shared votes", {one_vote: two_votes})):
        names = run_cells("01", seed, cells, only_hog | changed)
        one_degree = names["object_turned"](1)
        numbers[name] = names["hog_moves"](one_degree)
    numbers["shared over one"] = numbers["shared votes"] / numbers["one vote"]
    return numbers


# --- lesson 02 ------------------------------------------------------------------------------------


def list_by_one_color(seed: int) -> Numbers:
    """A control task whose class depends on the object's color alone, not on a pair of colors.

    The linear probe and the pixels stay. Random lists often give two colors the same class, so the
    share of the most frequent class stands beside the accuracy.
    """
    cells = ["import copy", "lesson = Lesson(", "both = data.load(", "def describe_pixels"]
    cells += ["def linear_labels", "def both_tasks"]
    changed = {
        '6 * part.factors["color"] + part.factors["background"]': 'part.factors["color"]',
        "torch.randint(10, (36,))": "torch.randint(10, (6,))",
    }
    names = run_cells("02", seed, cells, changed)
    names["Z"] = {"pixels": [names["describe_pixels"](part.images) for part in names["parts"]]}
    _, on_the_list = names["both_tasks"]("pixels", names["linear_labels"])
    labels = names["secret"][2]
    return {"linear": on_the_list, "most frequent": (labels.bincount().max() / len(labels)).item()}


# --- lesson 03 ------------------------------------------------------------------------------------


CKA = ["from itertools import", "def features(encoder", "def center(x)", "H = torch.eye(len(K)"]
CKA += ["def feature_cka"]


def without_centering(seed: int) -> Numbers:
    """CKA of the supervised and the random encoder, with features centered and as they are."""
    names = run_cells(
        "03",
        seed,
        CKA,
    )
    pair = [names["Z"][name].double() for name in ("supervised", "random")]
    centered = names["feature_cka"](*pair).item()

    def as_it_is(x: torch.Tensor) -> torch.Tensor:
        return x

    names["center"] = as_it_is
    return {"centered": centered, "not centered": names["feature_cka"](*pair).item()}


def gram_in_float32(seed: int) -> Numbers:
    """How far the lesson's Gram form in float32 is off, with 50 added to every feature.

    CKA does not change with an offset; 500 pictures, SimCLR and the supervised encoder.
    """
    names = run_cells(
        "03",
        seed,
        CKA,
    )
    pair = [names["Z"][name][:500] for name in ("SimCLR", "supervised")]
    truth = names["feature_cka"](*[x.double() for x in pair]).item()
    numbers = {"truth": truth}
    for offset in (0, 50):
        moved = [x + offset for x in pair]
        by_gram = names["gram_cka"](*[x @ x.T for x in moved]).item()
        by_features = names["feature_cka"](*moved).item()
        numbers[f"error of the Gram form, offset {offset}"] = abs(by_gram - truth)
        numbers[f"error of the feature form, offset {offset}"] = abs(by_features - truth)
    return numbers


# --- lesson 04 ------------------------------------------------------------------------------------


def labels_or_steps(seed: int) -> Numbers:
    """Training from scratch on the new shapes, its steps chosen apart from the labels.

    In the lesson 10 labels a shape get 45 steps and 1,000 get 272.
    """
    cells = ["lesson = Lesson(", "def task(train_set", "shapes = data.load("]
    cells += ["def features(encoder", "def draw(t, n", "def tune(backbone", "def fresh(seed)"]
    changed = {"20 + int(P.tune * (len(index) / t.classes) ** 0.5)": "P.steps"}
    names = run_cells("04", seed, cells, changed)
    near = names["near"]
    numbers = {}
    for labels, steps in ((10, 272), (1000, 45), (1000, 652)):
        names["P"].steps = steps
        index = names["draw"](near, labels, seed=0)
        backbone = names["fresh"](0)
        head = torch.nn.Linear(256, near.classes)
        right = names["tune"](backbone, head, near, index)
        numbers[f"{labels} labels, {steps} steps"] = right
    return numbers


# --- lesson 07 ------------------------------------------------------------------------------------


def whole_captions(seed: int) -> Numbers:
    """CLIP trained on whole captions only, asked with one word: the color, and the shape.

    The network, the pictures and the number of steps stay.
    """
    cells = ["lesson = Lesson(", "train_set = data.load(", "class Tokenizer", "class TextEncoder"]
    cells += ["class Clip(", "def say_less", "def fit_clip", "def read(clip"]
    names = run_cells("07", seed, [*cells, "def choices(z, clip"])
    train_set, test_set = names["train_set"], names["test_set"]
    clip, _ = names["fit_clip"](train_set.images, train_set.captions, shorten=names["whole"])
    z = names["see"](clip, test_set.images)
    numbers = {}
    for kind, words in (("color", names["colors"]), ("shape", train_set.class_names)):
        chosen = names["choices"](z, clip, ["{}"], words)
        numbers[kind] = (chosen == test_set.factors[kind]).float().mean().item()
    return numbers


def sigmoid_in_place_of_softmax(seed: int) -> Numbers:
    """CLIP trained with its softmax and with SigLIP's sum over pairs, all else as in the lesson.

    Read are the shape and the color from prompts of one word, and R@1 from text to picture among
    1,000 test pictures. SigLIP starts at its paper's scale and bias.
    """
    cells = ["lesson = Lesson(", "train_set = data.load(", "class Tokenizer", "class TextEncoder"]
    cells += ["class Clip(", "def say_less", "def fit_clip", "def read(clip", "def recalls("]
    cells += ["def choices(z, clip", "def siglip_loss("]
    softmax_step = """\
        value = losses.clip_loss(clip.image(x), clip.text(texts),
                                 temperature=temperature)
"""
    sigmoid_step = """\
        value = siglip_loss(clip.image(x), clip.text(texts), clip.log_scale, clip.bias)
"""
    softmax_start = "self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))"
    sigmoid_start = """\
self.log_scale = nn.Parameter(torch.tensor(math.log(10)))
        self.bias = nn.Parameter(torch.tensor(-10.0))"""
    changes = {"softmax": {}, "sigmoid": {softmax_step: sigmoid_step, softmax_start: sigmoid_start}}
    numbers = {}
    for loss, changed in changes.items():
        names = run_cells("07", seed, cells, changed)
        train_set, test_set = names["train_set"], names["test_set"]
        clip, _ = names["fit_clip"](train_set.images, train_set.captions)
        z = names["see"](clip, test_set.images)
        for kind, words in (("color", names["colors"]), ("shape", train_set.class_names)):
            chosen = names["choices"](z, clip, ["{}"], words)
            right = (chosen == test_set.factors[kind]).float().mean()
            numbers[f"{loss}: {kind}"] = right.item()
        captions = test_set.captions[:1000]
        found = names["recalls"](z[:1000], names["read"](clip, captions), captions)
        numbers[f"{loss}: R@1"] = found[0]
    return numbers


# --- lesson 08 ------------------------------------------------------------------------------------

MIXTURES = ["import itertools", "def mcc(z", "def decode(z)", "def rotation(", "class MLPs"]
MIXTURES += ["class IVAE", "def new_model", "def posterior_means", "def factors(", "def mix("]
MIXTURES += ["def excess_kurtosis", "def classical(", "def turned_with_u", "starts, few = 3, 3"]
MIXTURES += ["chosen = [tries", "pearson = {"]


def rate_of_the_prior(seed: int) -> Numbers:
    """One learning rate for all, and three and five times as much for the prior's parameters.

    Five data sets, one start each; the MCC of each data set.
    """
    numbers = {}
    for factor in (1, 3, 5):
        changed = {
            "[lr, 3 * lr]": f"[lr, {factor} * lr]",
            "starts, few = 3, 3": "starts, few = 1, 1",
        }
        names = run_cells("08", seed, MIXTURES, changed)
        numbers[f"rate x{factor}"] = names["pearson"]["iVAE"].tolist()
        numbers[f"mean, rate x{factor}"] = names["pearson"]["iVAE"].mean().item()
    return numbers


def more_bent_mixing(seed: int) -> Numbers:
    """The mixing's leaky ReLUs have a slope of 0.2 in place of 0.5; means over five mixtures."""
    changed = {
        "z, x, u = make()": "z, x, u = make(slope=0.2)",
        "starts, few = 3, 3": "starts, few = 3, 1",
    }
    pearson = run_cells("08", seed, MIXTURES, changed)["pearson"]
    kept = ("FastICA", "PCA, turned with u", "iVAE")
    return {name: pearson[name].mean().item() for name in kept}


def heavy_tails(seed: int) -> Numbers:
    """Only the variances change, over 40 segments: heavy tails; means over the mixtures."""
    changed = {"z, x, u = make()": 'z, x, u = make(change="only variances", segments=40)'}
    pearson = run_cells("08", seed, MIXTURES, changed)["pearson"]
    kept = ("FastICA", "PCA, turned with u", "iVAE", "VAE")
    return {name: pearson[name].mean().item() for name in kept}


# --- lesson 09 ------------------------------------------------------------------------------------


def more_steps(seed: int) -> Numbers:
    """Two temperatures trained for twice as many steps: how far apart are they on the way?

    The gaps are 0.05 minus 0.5, at the steps at which the lesson looks.
    """
    cells = [
        "lesson = Lesson(",
        "class Scramble",
        "RECIPE = dict(",
        "def alignment(z1",
        "LOOKS = [",
        "def look()",
    ]
    names = run_cells(
        "09",
        seed,
        [*cells, "batches = train.batches("],
        {"pictures=2000, steps=300": "pictures=2000, steps=600"},
    )
    gaps = torch.tensor(names["paths"][0.05]) - torch.tensor(names["paths"][0.5])
    numbers: Numbers = {}
    for step, (alignment, uniformity) in zip(names["LOOKS"], gaps.tolist(), strict=True):
        if step in (60, 300, 600):
            numbers[f"alignment, step {step}"] = alignment
            numbers[f"uniformity, step {step}"] = uniformity
    return numbers


# --- lesson 11 ------------------------------------------------------------------------------------


def trained_on_color(seed: int) -> Numbers:
    """The supervised encoder's recipe with the object's color as label: its invariances."""
    cells = ["lesson = Lesson(", "def invariance(z", "test_set = data.load(", "same = redraw()"]
    names = run_cells("11", seed, cells)
    train_set = data.load("shapes", seed=seed)
    train.set_seed(seed)
    encoder = models.small_cnn(checkpoints.WIDTH)
    checkpoints.supervised(encoder, train_set.images, train_set.factors["color"])
    h = probe.extract_features(encoder, names["same"])
    numbers = {}
    for factor in ("hue", "shape"):
        h_changed = probe.extract_features(encoder, names["redrawn"][factor])
        numbers[factor] = names["invariance"](h, h_changed)
    return numbers


def new_last_layer_later(seed: int) -> Numbers:
    """A last layer fitted on 500 random pictures, on features of 200 steps and of the longer run.

    Both networks were trained on tied backgrounds; read is the accuracy with random ones.
    """
    cells = ["lesson = Lesson(", "test_set = data.load(", "def features(", "def fresh("]
    cells += ["spurious = data.load(", "def supervised(", "SETS = {", "moments = [P.longer"]
    names = run_cells("11", seed, [*cells, "def new_last_layer("])
    return {name: names["refitted"][name][0] for name in ("tied", "tied, longer", "free")}


# --- lesson 12 ------------------------------------------------------------------------------------


def cut_off(seed: int) -> Numbers:
    """60 updates of a cosine planned for 60, for 120 and for 600: accuracy of the neighbors."""
    names = run_cells(
        "12",
        seed,
        [
            "import contextlib",
            "lesson = Lesson(",
            "recipe = replace(SHAPES, width",
            "few = train_set",
        ],
    )
    few, test_set = names["few"], names["test_set"]
    numbers = {}
    for planned in (60, 120, 600):
        run = new_run(names["recipe"], names["train_set"].images)
        run.steps = planned
        for _ in range(60):
            train_step(run)
        h, h_test = (probe.extract_features(run.online[0], part.images) for part in (few, test_set))
        numbers[f"planned for {planned}"] = probe.knn_accuracy(
            h, few.labels, h_test, test_set.labels
        )
    return numbers


EXPERIMENTS = {
    "shared_votes": Experiment(shared_votes, "01", "the object's first degree moves HOG", {}),
    "list_by_one_color": Experiment(
        list_by_one_color, "02", "a list by the color of the object alone", {}
    ),
    "without_centering": Experiment(
        without_centering, "03", "For the supervised and the random encoder of this lesson", {}
    ),
    "gram_in_float32": Experiment(gram_in_float32, "03", "with an offset of 50", {"offset": 50}),
    "labels_or_steps": Experiment(
        labels_or_steps,
        "04",
        "with the 272 steps of 1,000",
        {"labels": 10, "many labels": 1000, "few steps": 45, "steps": 272, "more steps": 652},
        most_seeds=3,
    ),
    "whole_captions": Experiment(
        whole_captions, "07", "Trained on whole captions only", {}, most_seeds=3
    ),
    "sigmoid_in_place_of_softmax": Experiment(
        sigmoid_in_place_of_softmax, "07", "SigLIP's loss in place of CLIP's", {}, most_seeds=3
    ),
    "rate_of_the_prior": Experiment(
        rate_of_the_prior, "08", "one rate for all", {"data sets": 5}, most_seeds=2
    ),
    "more_bent_mixing": Experiment(
        more_bent_mixing,
        "08",
        "it bent more",
        {"slope": 0.2, "slope in the lesson": 0.5, "mixtures": 5},
        most_seeds=3,
    ),
    "heavy_tails": Experiment(
        heavy_tails, "08", "with 40 segments", {"segments": 40}, most_seeds=3
    ),
    "more_steps": Experiment(more_steps, "09", "With twice as many steps", {}, most_seeds=3),
    "trained_on_color": Experiment(
        trained_on_color, "11", "Train the same network to name the color", {}, most_seeds=1
    ),
    "new_last_layer_later": Experiment(
        new_last_layer_later, "11", "After the longer training", {"pictures": 500}
    ),
    "cut_off": Experiment(cut_off, "12", "the run that was cut off", {"updates": 60}),
}


# --- the record -----------------------------------------------------------------------------------


def entry(name: str, seeds: int) -> dict[str, Any]:
    """Measure at every seed and return what is stored.

    Args:
        name: The experiment.
        seeds: How many, from 0 on; some experiments take fewer.
    """
    experiment = EXPERIMENTS[name]
    seeds = min(seeds, experiment.most_seeds)
    start = time.monotonic()
    runs = []
    for seed in range(seeds):
        runs.append(experiment.measure(seed))
        print(name, seed, runs[-1], flush=True)
    return {
        "lesson": experiment.lesson,
        "words": experiment.words,
        "question": " ".join((experiment.measure.__doc__ or "").split()),
        "settings": experiment.settings,
        "command": f"python -m scripts.side_experiments {name} --seeds {seeds}",
        "seeds": list(range(seeds)),
        "numbers": {label: [run[label] for run in runs] for label in runs[0]},
        "seconds": round(time.monotonic() - start),
        **machine("numpy", "scikit-learn"),
    }


def store(name: str, measured: dict[str, Any]) -> None:
    """Put one entry into the record, beside the others and in the order of this file."""
    record = json.loads(PATH.read_text("utf-8")) if PATH.exists() else {}
    record[name] = measured
    write_json(PATH, {name: record[name] for name in EXPERIMENTS if name in record})


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the experiments that were named, or all.

    Args:
        arguments: The words after `python -m scripts.side_experiments`; None for those of this
            process.

    Raises:
        SystemExit: There is no such experiment.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"default: {SEEDS}")
    args = parser.parse_args(arguments)
    unknown = sorted(set(args.names) - set(EXPERIMENTS))
    if unknown:
        sys.exit(f"no experiment {', '.join(unknown)}; there are {', '.join(EXPERIMENTS)}")
    for name in args.names or EXPERIMENTS:
        store(name, entry(name, args.seeds))


if __name__ == "__main__":
    main()
