"""A right hash around wrong content: cards, checkpoints and bundles of another form.

A valid file is taken, and one thing in it is changed: each entry dropped, each value replaced by
others of each type and by extreme ones, each tensor dropped, cut, retyped, made NaN. The hash is
computed anew, so that it is right. Then the file either loads, and what it says is what is loaded,
or there is one sentence: what was expected, what was found, what to do. The slow tests make all
changes, the others one of a few.
"""

import copy
import hashlib
import json
import math
import shutil
import warnings
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from safetensors.torch import save as to_bytes

from replearn import _schema, models
from replearn.pretrain import SHAPES, checkpoint, pretrain, state
from replearn.pretrain.step import new_run

pytestmark = pytest.mark.usefixtures("one_silent_thread")
LONGEST = 1500  # characters of a sentence
VALUES = [
    None,
    True,
    0,
    -1,
    7,
    10**30,
    0.5,
    1e308,
    math.nan,
    math.inf,
    "",
    "text",
    "\ud800",  # half a character, which JSON can spell
    [],
    [[[[]]]],
    ["small_cnn", 4],
    [1] * 1000,
    {},
    {"a": {"b": None}},
]


def places(value, place=()):
    """Yield the place of every entry inside a value, as a tuple of keys and indices."""
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))[:3]
    else:
        items = []
    for key, item in items:
        yield (*place, key)
        yield from places(item, (*place, key))


def changed(record, place, change):
    """Return a copy of a record in which `change(container, key)` was done at a place."""
    record = copy.deepcopy(record)
    container = record
    for key in place[:-1]:
        container = container[key]
    change(container, place[-1])
    return record


def variants_of(record):
    """Yield (what was changed, the record with the change) for every change of an entry."""
    for place in places(record):

        def drop(container, key):
            del container[key]

        yield f"{place} dropped", changed(record, place, drop)
        for value in VALUES:

            def put(container, key, value=value):
                container[key] = value

            yield f"{place} = {value!r:.40}", changed(record, place, put)
    for whole in VALUES:
        yield f"all = {whole!r:.40}", whole


def variants_of_tensor(x):
    """Yield (what was changed, the tensor with the change), None for one that is dropped."""
    yield "dropped", None
    yield "with an axis more", x[None].clone()
    yield "empty", x.flatten()[:0].clone()
    yield "float64", x.double()
    yield "int8", x.to(torch.int8)
    yield "bool", x.bool()
    if x.ndim:
        yield "cut", x[:-1].clone()
        yield "longer", torch.cat([x, x[:1]])
        yield "flat", x.flatten()[None].clone()
    if x.is_floating_point():
        for value in (math.nan, math.inf, -1e30):
            other = x.clone().reshape(-1)
            other[-1] = value
            yield f"{value} in it", other.reshape(x.shape)


def variants_of_tensors(tensors):
    """Yield (what was changed, the tensors with the change)."""
    # A file's order differs from run to run, and with it which changes a test of some would make.
    for name, x in sorted(tensors.items()):
        for what, other in variants_of_tensor(x):
            rest = {key: value for key, value in tensors.items() if key != name}
            yield f"{name} {what}", rest if other is None else {**rest, name: other}
        renamed = {key if key != name else f"{name}.x": value for key, value in tensors.items()}
        yield f"{name} renamed", renamed
    yield "one more", {**tensors, "more": torch.ones(2)}
    yield "none", {}


def one_of(number):
    """Run a test with one change of so many, and as a slow test with all."""
    return pytest.mark.parametrize(
        "step", [number, pytest.param(1, marks=pytest.mark.slow, id="all")]
    )


class Outcomes:
    """Counts what loads and what is refused, and keeps what is neither."""

    def __init__(self):
        self.loaded = 0
        self.refused = 0
        self.wrong = []

    def attempt(self, what, load, is_right):
        """Load; `is_right` says whether what was loaded is what the file says."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                found = load()
        except ValueError as error:
            sentence = str(error)
            is_a_sentence = "\n" not in sentence and len(sentence) < LONGEST
            says_what = any(word in sentence for word in ("expected", "another recipe", "another"))
            if type(error) is ValueError and is_a_sentence and says_what:
                self.refused += 1
            else:
                self.wrong.append(f"{what}: {type(error).__name__}: {sentence[:300]}")
        except Exception as error:
            self.wrong.append(f"{what}: {type(error).__name__}: {str(error)[:300]}")
        else:
            self.loaded += 1
            if not is_right(found):
                self.wrong.append(f"{what}: loaded wrongly")

    def check(self, loaded, refused):
        """At least so many were loaded, and so many refused; all of them rightly."""
        print(f"{self.loaded} loaded, {self.refused} refused")
        assert not self.wrong, "\n".join([f"{len(self.wrong)} wrong", *self.wrong[:20]])
        assert self.loaded >= loaded
        assert self.refused >= refused


def equal(found, expected):
    """Whether two dicts hold the same tensors, whatever their precision."""
    if set(found) != set(expected):
        return False
    return all(torch.equal(found[name], x.to(found[name].dtype)) for name, x in expected.items())


# --- cards ---


@one_of(3)
def test_a_card_of_any_form_loads_rightly_or_is_refused_in_a_sentence(tmp_path, step):
    torch.manual_seed(0)
    path = tmp_path / "mine"
    models.save(
        models.small_cnn(4),
        path,
        architecture=["small_cnn", 4],
        side=32,
        data="shapes",
        scores={"knn": 0.5},
    )
    weights = (tmp_path / "mine.safetensors").read_bytes()
    card = json.loads((tmp_path / "mine.json").read_text())
    encoder = models.load(path)
    tensors = encoder.state_dict()
    outcomes = Outcomes()

    for what, other in islice(variants_of(card), 0, None, step):
        (tmp_path / "mine.json").write_text(json.dumps(other))
        outcomes.attempt(
            what, lambda: models.load(path), lambda found: equal(found.state_dict(), tensors)
        )
        outcomes.attempt(f"card: {what}", lambda: models.card(path), lambda found: True)

    for what, others in islice(variants_of_tensors(tensors), 0, None, step):
        weights = to_bytes({name: x.contiguous() for name, x in others.items()})
        (tmp_path / "mine.safetensors").write_bytes(weights)
        sha256 = hashlib.sha256(weights).hexdigest()
        (tmp_path / "mine.json").write_text(json.dumps({**card, "sha256": sha256}))
        outcomes.attempt(
            what,
            lambda: models.load(path),
            lambda found, others=others: equal(found.state_dict(), others),
        )
    outcomes.check(loaded=60 // step, refused=300 // step)


# --- checkpoints ---

TINY = replace(SHAPES, width=4, hidden=8, out=8, batch_size=8, epochs=1, queue=16)
SGD = replace(TINY, optimizer="sgd", queue=0)


def random_images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8, generator=generator)


def write_checkpoint(folder, tensors, text):
    """Write a checkpoint whose hash is right, whatever is in it."""
    notes = {"about": text, "sha256": checkpoint._sha256(tensors, text)}
    (folder / checkpoint.LAST).write_bytes(to_bytes(tensors, metadata=notes))


@one_of(13)
@pytest.mark.parametrize("recipe", [TINY, SGD], ids=["adamw", "sgd"])
def test_a_checkpoint_of_any_form_loads_rightly_or_is_refused_in_a_sentence(tmp_path, recipe, step):
    images = random_images()
    pretrain(recipe, images, folder=tmp_path, device="cpu")
    tensors, about = checkpoint.load(tmp_path)
    (tmp_path / checkpoint.LAST).unlink()
    outcomes = Outcomes()
    fresh = []  # a run at step 0, as long as none was restored into it

    def resumed():
        run = fresh[0] if fresh else new_run(recipe, images)
        run.folder = tmp_path
        fresh[:] = [run]
        assert state.resume(run)
        fresh.clear()
        return run

    def attempt(what, some_tensors, some_about):
        write_checkpoint(tmp_path, some_tensors, json.dumps(some_about))

        def is_right(run):
            position = (run.step, run.steps, run.seconds)
            expected = tuple(some_about[name] for name in ("step", "steps", "seconds"))
            return equal(state.tensors_of(run), some_tensors) and position == expected

        outcomes.attempt(what, resumed, is_right)

    attempt("nothing", tensors, about)
    assert outcomes.loaded == 1
    if recipe is TINY:
        for what, other in islice(variants_of(about), 0, None, step):
            if isinstance(other, dict):
                other.setdefault("format", checkpoint.FORMAT)  # else it is another's file
            attempt(what, tensors, other)
    for what, others in islice(variants_of_tensors(tensors), 0, None, step):
        attempt(what, others, about)
    outcomes.check(loaded=1, refused=400 // step)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "9" * 5000])
def test_a_checkpoint_that_says_no_json_is_refused(tmp_path, text):
    write_checkpoint(tmp_path, {"x": torch.ones(2)}, f"{text}{checkpoint.FORMAT}")
    with pytest.raises(ValueError, match=r"expected JSON, found .*--no-resume\) to start over"):
        checkpoint.load(tmp_path)


# --- bundles ---


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The functions of a service, and a bundle as `export` writes it."""
    for package in ("fastapi", "onnx", "onnxruntime"):
        pytest.importorskip(package)
    import test_serve
    from safetensors.numpy import save

    from replearn.serve import bundle

    some = test_serve.fake_bundle()
    contents = dict.fromkeys(bundle.FILES, b"x")
    contents |= dict.fromkeys(bundle.MODELS.values(), test_serve.embed_as_onnx())
    contents[bundle.INDEX] = save(
        dict(
            head_weight=some.weight,
            head_bias=some.bias,
            features=some.features.astype(np.float16)[:5],
            labels=some.labels.astype(np.int64)[:5],
            images=some.images[:5],
        )
    )
    folder = tmp_path_factory.mktemp("forms") / "bundle"
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    manifest = dict(
        format=bundle.FORMAT,
        class_names=list(test_serve.CLASS_NAMES),
        side=test_serve.SIDE,
        feature_dim=test_serve.DIM,
        card={"architecture": ["small_cnn", 4], "note": "tiny"},
        measured={"rows": {"INT8 ONNX": {"points": -1.0}}},
        precision="int8",
        precision_reason="-1.0 points of accuracy",
    )
    sign(folder, manifest)
    return folder, manifest


def sign(folder, manifest, *, with_files=True):
    """Write the manifest of a bundle with the right hashes."""
    from replearn.serve import bundle

    if with_files:
        hashes = {}
        for name in bundle.FILES:
            hashes[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        manifest = {"files": hashes, **manifest}
    if isinstance(manifest, dict):
        manifest = {**manifest, "sha256": bundle.digest(manifest)}
    (folder / bundle.MANIFEST).write_text(json.dumps(manifest))


def works(opened):
    """Whether the service can be built from a bundle, and answers in numbers."""
    from replearn.serve import app

    h = opened.embed(opened.images[:1])[0]
    answer = app.classification(opened, h)
    neighbors = app.find_neighbors(opened, h, len(opened.features), with_images=True)
    json.dumps([answer, neighbors], allow_nan=False)
    return app.build(opened, opened.precision, app.Limits()) is not None


def test_a_manifest_of_any_form_opens_rightly_or_is_refused_in_a_sentence(served, tmp_path):
    from replearn.serve import bundle

    valid, manifest = served
    folder = shutil.copytree(valid, tmp_path / "bundle")
    files = bundle.read_manifest(folder)["files"]
    outcomes = Outcomes()
    for what, other in variants_of({**manifest, "files": files}):
        try:
            sign(folder, other, with_files=False)
        except UnicodeEncodeError:
            continue
        outcomes.attempt(what, lambda: bundle.open_bundle(folder), works)
    for what, other in variants_of(files):
        sign(folder, {**manifest, "files": other})
        outcomes.attempt(f"files: {what}", lambda: bundle.open_bundle(folder), works)
    outcomes.check(loaded=35, refused=300)


def test_an_index_of_any_form_opens_rightly_or_is_refused_in_a_sentence(served, tmp_path):
    from safetensors.torch import load

    from replearn.serve import bundle

    valid, manifest = served
    folder = shutil.copytree(valid, tmp_path / "bundle")
    tensors = load((folder / bundle.INDEX).read_bytes())
    changes = list(variants_of_tensors(tensors))
    for label in (-1, 3, 2**40):
        changes.append((f"label {label}", {**tensors, "labels": torch.full((5,), label)}))
    long_features = {**tensors, "features": 2 * tensors["features"]}
    changes.append(("features of length 2", long_features))
    none_kept = {name: x[:0] if len(x) == 5 else x for name, x in tensors.items()}
    changes.append(("no training pictures", none_kept))
    outcomes = Outcomes()
    for what, others in changes:
        (folder / bundle.INDEX).write_bytes(to_bytes(others))
        sign(folder, manifest)
        outcomes.attempt(what, lambda: bundle.open_bundle(folder), works)
    outcomes.check(loaded=0, refused=45)


def onnx_model(*, weights=None, location=None, feature_dim=24, output_type=1, given="images"):
    """Return a network as ONNX: a mean over the image, times weights (3, D)."""
    from onnx import TensorProto, helper, numpy_helper

    if weights is None:
        weights = np.ones((3, feature_dim), np.float32)
    tensor = numpy_helper.from_array(weights, "w")
    if location is not None:
        from onnx.external_data_helper import set_external_data

        set_external_data(tensor, location=location, offset=0, length=weights.nbytes)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
    nodes = [
        helper.make_node("GlobalAveragePool", [given], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["m"], name="a node of this location"),
        helper.make_node("Cast", ["m"], ["features"], to=output_type),
    ]
    sides = ["n", 3, 32, 32]
    graph = helper.make_graph(
        nodes,
        "g",
        inputs=[helper.make_tensor_value_info(given, TensorProto.FLOAT, sides)],
        outputs=[helper.make_tensor_value_info("features", output_type, ["n", "d"])],
        initializer=[tensor],
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


def test_a_network_that_reads_other_files_or_gives_something_else_is_refused(
    served, tmp_path, monkeypatch
):
    from replearn.serve import bundle

    valid, manifest = served
    folder = shutil.copytree(valid, tmp_path / "bundle")
    weights = np.ones((3, 24), np.float32)
    for place in (folder, tmp_path):
        weights.tofile(place / "w.bin")
    monkeypatch.chdir(tmp_path)

    def open_with(model):
        (folder / bundle.MODELS["int8"]).write_bytes(model)
        sign(folder, manifest)
        return bundle.open_bundle(folder)

    assert works(open_with(onnx_model()))  # though a node has "location" in its name
    for location in ("w.bin", "../w.bin", str(tmp_path / "w.bin"), "bundle/w.bin", "/etc/hosts"):
        with pytest.raises(ValueError, match="expected an ONNX file that holds its weights itself"):
            open_with(onnx_model(location=location))
    refused = {
        b"": "expected an ONNX file that onnxruntime can run",
        b"location": "expected an ONNX file that onnxruntime can run",
        onnx_model()[:-40]: "expected an ONNX file that onnxruntime can run",
        onnx_model(given="pixels"): 'expected a network of "images"',
        onnx_model(feature_dim=23): r"expected features of shape \(1, 24\)",
        onnx_model(output_type=11): "float32 for a picture, found .* float64",
        onnx_model(weights=weights * np.nan): "expected finite features",
    }
    for model, sentence in refused.items():
        with pytest.raises(ValueError, match=sentence):
            open_with(model)


# --- the check itself ---


def test_what_a_sentence_says():
    form = _schema.Record({"a": _schema.Record({"b": _schema.Whole(1, 9)})})
    for value, sentence in (
        ({}, "x: expected the entry 'a', found none; fetch it again"),
        ([], "x: expected an object with entries, found a list of 0; fetch it again"),
        ({"a": {"b": 0}}, "x: a: b: expected a whole number from 1 to 9, found 0; fetch it again"),
    ):
        with pytest.raises(ValueError) as error:
            _schema.check("x", value, form, remedy="fetch it again")
        assert str(error.value) == sentence
    _schema.check("x", {"a": {"b": 9}, "more": None}, form, remedy="")
