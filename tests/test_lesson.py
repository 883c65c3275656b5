"""The lesson: header, budgets, predictions, claims, photographs and summary.

In a script, and at the end of the file in the kernel of a notebook.
"""

import json
import re
import sys
import types

import numpy as np
import pytest
import torch

from replearn.lesson import ClaimError, Lesson, formatting, seeds
from replearn.lesson import lesson as lesson_module


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    """No variable of the environment changes the lesson."""
    for name in ("PROFILE", "SEED", "STRICT", "STATIC", "RESULTS"):
        monkeypatch.delenv(f"REPLEARN_{name}", raising=False)
    seeds.measured_claims.cache_clear()


@pytest.fixture
def lesson(capsys):
    """Lesson 06, whose header has been read."""
    made = Lesson("06")
    capsys.readouterr()
    return made


@pytest.fixture
def pages(monkeypatch):
    """The HTML that is shown, in a list; nothing is printed."""
    shown = []

    def show(page, text):
        shown.append(page)

    monkeypatch.setattr(lesson_module, "show", show)
    return shown


# --- header, profile, seed ---


def test_the_header_says_what_to_expect(capsys):
    lesson = Lesson("03")
    text = capsys.readouterr().out
    assert "Lesson 03 · Comparing representations: CKA" in text
    assert "Data: shapes" in text
    assert re.search(r"Device: .+ \((cpu|gpu) profile\)", text)
    assert re.search(r"Time: about \d+ minutes", text)
    assert isinstance(lesson.device, torch.device)


@pytest.mark.parametrize("number", ["03", "3", 3])
def test_a_lesson_has_its_number_in_two_digits(number):
    assert Lesson(number).number == "03"


@pytest.mark.parametrize("count, words", [(1, "1 thread "), (2, "2 threads ")])
def test_the_header_counts_the_threads(count, words, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(lesson_module, "_THREADS", count)
    Lesson("03")
    assert f"Device: CPU, {words}(cpu profile)" in capsys.readouterr().out


@pytest.fixture
def three_threads(monkeypatch):
    """A machine without a GPU, on which PyTorch uses three threads."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(lesson_module, "_THREADS", 3)
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(threads)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are split off on Linux only")
def test_a_lesson_has_one_thread_and_runs_that_use_the_others(three_threads, monkeypatch):
    used = []
    monkeypatch.setattr(
        lesson_module, "side_by_side", lambda *_, workers, **options: used.append(workers)
    )
    for _ in range(2):  # the first cells run again: the threads of the machine are the same
        lesson = Lesson("03")
        assert torch.get_num_threads() == 1
        lesson.side_by_side(str, [1, 2])
    assert used == [3, 3]


def test_where_no_process_can_be_split_off_a_lesson_has_all_threads(three_threads, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    Lesson("03")
    assert torch.get_num_threads() == 3


def test_all_twelve_lessons_are_listed_and_no_other():
    assert list(lesson_module.LESSONS) == [f"{number:02d}" for number in range(1, 13)]
    assert Lesson("F2").number == "F2"
    known = "expected a number from 01 to 12 or F1, F2, F3, F4, F5, found"
    for odd in ("13", "0", "cka", -1, "F9"):
        with pytest.raises(ValueError, match=known):
            Lesson(odd)


def test_the_profile_follows_the_machine_and_the_environment(monkeypatch):
    budgets = dict(cpu=dict(steps=10), gpu=dict(steps=1000))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Lesson("01").profile(**budgets).steps == 10
    monkeypatch.setenv("REPLEARN_PROFILE", "gpu")
    assert Lesson("01").profile(**budgets).steps == 1000
    assert Lesson("01").profile_name == "gpu"
    monkeypatch.setenv("REPLEARN_PROFILE", "tpu")
    with pytest.raises(ValueError, match="expected cpu or gpu, found 'tpu'"):
        Lesson("01")


def test_the_two_profiles_have_the_same_names(lesson):
    with pytest.raises(ValueError, match=r"found \['epochs'\] in one of them only"):
        lesson.profile(cpu=dict(steps=1), gpu=dict(steps=2, epochs=3))


def test_the_seed_comes_from_the_environment(monkeypatch):
    def draw():
        """The lesson's seed, and the first random number after it."""
        return Lesson("01").seed, torch.rand(1).item()

    seed, number = draw()
    assert seed == 0
    assert draw() == (seed, number)
    monkeypatch.setenv("REPLEARN_SEED", "4")
    other_seed, other_number = draw()
    assert other_seed == 4
    assert other_number != number


# --- predict ---


def test_a_prediction_has_a_text(lesson, capsys):
    lesson.predict("Which wins?", ["pixels", "SimCLR"])
    lesson.measured("SimCLR")
    asked = "Predict: Which wins?\n  ( ) pixels\n  ( ) SimCLR\n"
    assert capsys.readouterr().out == asked + "Measured: SimCLR.\n"


def test_a_prediction_is_plain_html(lesson, pages):
    lesson.predict("Is a < b?", ["yes & no", "<script>"])
    lesson.measured("a < b")
    page, measured = pages
    assert "<script" not in page
    assert "Is a &lt; b?" in page
    assert "&lt;script&gt;" in page
    assert page.count('type="radio"') == 2
    assert page.count("<label") == 2
    assert "<fieldset" in page
    assert "<legend>" in page
    assert "stopPropagation" in page
    assert "a &lt; b." in measured


def test_predictions_do_not_share_names_or_ids(lesson, pages):
    lesson.predict("One?", ["yes", "no"])
    lesson.predict("Another?", ["yes", "no"])
    first_names, second_names = (set(re.findall(r'name="([^"]+)"', page)) for page in pages)
    assert len(first_names) == len(second_names) == 1
    assert not first_names & second_names
    ids = re.findall(r'\bid="([^"]+)"', "".join(pages))
    assert len(ids) == len(set(ids)) == 6


def test_each_measurement_belongs_to_its_question(lesson, pages):
    lesson.predict("One?", ["yes", "no"])
    lesson.predict("Another?", ["yes", "no"])
    lesson.measured("no", question=2)
    number = lesson.number
    assert f'id="predict-{number}-2"' in pages[1]
    assert f'id="measured-{number}-2"' in pages[2]


@pytest.mark.parametrize("question", [0, 2])
def test_what_was_not_asked_was_not_measured(lesson, question):
    lesson.predict("One?", ["yes", "no"])
    with pytest.raises(ValueError, match="expected a question from 1 to 1"):
        lesson.measured("yes", question=question)


def test_the_kernel_remembers_what_was_chosen(lesson, monkeypatch, capsys):
    widgets = pytest.importorskip("ipywidgets")
    shown = []
    monkeypatch.setattr("replearn.lesson.lesson.is_static", lambda: False)
    monkeypatch.setattr("IPython.display.display", lambda *things, **_: shown.extend(things))
    lesson.predict("Which wins?", ["pixels", "SimCLR"])
    (box,) = shown
    asked, buttons = box.children
    assert "Which wins?" in asked.value
    assert isinstance(buttons, widgets.RadioButtons) and buttons.value is None
    lesson.measured("SimCLR")
    buttons.value = "pixels"
    lesson.measured("SimCLR")
    assert capsys.readouterr().out == "Measured: SimCLR.\nYou said: pixels. Measured: SimCLR.\n"


# --- claim ---


@pytest.mark.parametrize(
    "holds, numbers, text",
    [
        (True, {}, "✓ it holds"),
        (True, dict(a=0.81372, b=0.4), "✓ it holds (a 0.814, b 0.4)"),
        (np.bool_(False), dict(a=(0.81372, "%")), "✗ it holds (a 81.4 %)"),
        (np.bool_(False), dict(time=(12.345, "s"), n=10000), "✗ it holds (time 12.3 s, n 10000)"),
        (False, dict(top_1="cat"), "✗ it holds (top 1 cat)"),
        (
            torch.tensor(2) > 1,
            dict(values=torch.tensor([0.12345, 2.0])),
            "✓ it holds (values [0.123, 2])",
        ),
        (True, dict(shares=([0.5, 0.25], "%")), "✓ it holds (shares [50, 25] %)"),
        (True, dict(pair=(1.0, 2.0)), "✓ it holds (pair [1, 2])"),
    ],
)
def test_a_claim_prints_its_numbers_in_short(lesson, capsys, holds, numbers, text):
    lesson.claim("it holds", holds, **numbers)
    assert capsys.readouterr().out == text + "\n"


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        torch.tensor(torch.nan),
        np.array([1.0, np.nan]),
        (float("nan"), "%"),
    ],
)
def test_a_claim_with_nan_does_not_hold(lesson, capsys, value):
    lesson.claim("a beats b", True, a=value)
    assert capsys.readouterr().out.startswith("✗ a beats b (a ")
    assert not lesson.claims[-1]["holds"]


@pytest.mark.parametrize(
    "holds",
    [
        0.7,
        1,
        "yes",
        None,
        torch.tensor([True, False]),
        np.array([True]),
        torch.tensor(1.0),
        [True],
    ],
)
def test_a_claim_needs_one_true_or_false(lesson, holds):
    with pytest.raises(TypeError, match="expected one True or False"):
        lesson.claim("a beats b", holds)
    assert lesson.claims == []


def test_a_failed_claim_raises_only_where_it_is_strict(lesson, monkeypatch):
    lesson.claim("a beats b", False, a=1.0)
    monkeypatch.setenv("REPLEARN_STRICT", "1")
    with pytest.raises(ClaimError, match=re.escape("✗ a beats b (a 1)")):
        lesson.claim("a beats b", False, a=1.0)
    lesson.claim("a beats b", True)
    assert issubclass(ClaimError, AssertionError)


def test_a_claim_made_twice_counts_once(lesson):
    lesson.claim("a beats b", False, a=1)
    lesson.claim("c beats d", True)
    lesson.claim("a beats b", True, a=2)
    assert [claim["sentence"] for claim in lesson.claims] == ["c beats d", "a beats b"]
    assert lesson.claims[1] == dict(sentence="a beats b", holds=True, numbers={"a": 2})


@pytest.mark.parametrize(
    "number, text",
    [
        (0.000123456, "0.000123"),
        (12345.6, "12346"),
        (1e9, "1e+09"),
        (-0.5, "-0.5"),
        (3, "3"),
        (True, "True"),
        (list(range(20)), "[0, 1, 2, 3, 4, 5, 6, 7, …]"),
    ],
)
def test_numbers_in_short(number, text):
    assert formatting.to_text(number) == text


def test_tensors_and_arrays_become_plain():
    assert formatting.to_plain(torch.tensor([[1, 2]])) == [[1, 2]]
    assert formatting.to_plain(np.float32(0.5)) == 0.5


# --- exercises ---


def unwritten(similarity):
    raise NotImplementedError


def masked(similarity):
    itself = torch.eye(len(similarity)).bool()
    return similarity.masked_fill(itself, -torch.inf)


def test_check_prints_what_it_returns_once(lesson, capsys):
    result = lesson.check("mask_self_pairs", unwritten)
    assert capsys.readouterr().out == result.text + "\n"
    assert result.text.startswith("not attempted: mask_self_pairs")
    assert lesson.check("mask_self_pairs", masked).right


def test_check_does_not_raise_for_an_unknown_name(lesson, capsys):
    assert not lesson.check("no_such_exercise", unwritten).right
    sentence = "no exercise 'no_such_exercise' in lesson 06; expected one of: nt_xent"
    assert sentence in capsys.readouterr().out


def test_hints_come_one_by_one(lesson, capsys):
    beginnings = []
    for _ in range(5):
        lesson.hint("nt_xent")
        beginnings.append(capsys.readouterr().out[:11])
    hints = ["Hint 1 of 3", "Hint 2 of 3", "Hint 3 of 3"]
    assert beginnings == [*hints, "No more hin", "No more hin"]
    lesson.hint("ema_update")
    assert capsys.readouterr().out.startswith("Hint 1 of 3")


def test_the_solution_has_a_text(lesson, capsys):
    lesson.solution("nt_xent")
    assert "def nt_xent(z1, z2, temperature):" in capsys.readouterr().out


def test_the_solution_is_folded(lesson, pages):
    lesson.solution("nt_xent")
    assert pages[0].startswith("<details><summary>Solution: nt_xent</summary>")


# --- photographs, progress, finish ---


def fake_data(monkeypatch, *, available, load):
    """Replace replearn.data by a module with these two functions."""
    import replearn

    module = types.SimpleNamespace(available=lambda name: available, load=load)
    monkeypatch.setitem(sys.modules, "replearn.data", module)
    monkeypatch.setattr(replearn, "data", module, raising=False)


def test_photographs_where_they_are_on_disk(lesson, monkeypatch, capsys):
    calls = []

    def load(name, **options):
        calls.append((name, options))
        return len(calls)

    fake_data(monkeypatch, available=True, load=load)
    assert lesson.photographs(train=500, test=100) == (1, 2)
    assert capsys.readouterr().out == ""
    assert calls == [
        ("cifar10", dict(split="train", size=500, seed=0)),
        ("cifar10", dict(split="test", size=100, seed=0)),
    ]
    assert lesson.data == "shapes and cifar10"


def test_without_a_gpu_no_photographs_are_downloaded(lesson, monkeypatch, capsys):
    def load(*arguments, **options):
        pytest.fail("no download without a GPU")

    lesson.profile_name = "cpu"
    fake_data(monkeypatch, available=False, load=load)
    assert lesson.photographs(train=500, test=100) is None
    out, err = capsys.readouterr()
    assert out.startswith("No photographs: CIFAR-10 is not on this disk")
    assert out.count("\n") == 1
    assert err == ""


def test_no_photographs_is_one_sentence_not_an_error(lesson, monkeypatch, capsys):
    def offline(*arguments, **options):
        raise OSError("cifar10: no network\nmore detail")

    lesson.profile_name = "gpu"
    fake_data(monkeypatch, available=False, load=offline)
    assert lesson.photographs() is None
    assert capsys.readouterr().out.startswith("No photographs: cifar10: no network To get them, ")
    assert lesson.data == "shapes"


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_a_fault_of_ones_own_folder_is_named_and_no_gpu_is_blamed(
    lesson, monkeypatch, capsys, profile, tmp_path
):
    (tmp_path / "mine" / "cat").mkdir(parents=True)
    lesson.profile_name = profile
    assert lesson.photographs(name=str(tmp_path / "mine")) is None
    out = capsys.readouterr().out
    assert out.startswith(f"No photographs: {tmp_path / 'mine'}: expected pictures")
    assert "found the folders" in out
    assert "GPU" not in out and "CIFAR" not in out and out.count("\n") == 1


def own_folder(root, count, classes=()):
    """A folder of small pictures: flat, or with a folder for each class."""
    from PIL import Image

    for place in [root / name for name in classes] or [root]:
        place.mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (40, 30), (index % 256, 90, 30)).save(place / f"{index}.png")
    return root


def test_ones_own_pictures_flat_and_by_class(lesson, capsys, tmp_path):
    known, fresh = lesson.own_pictures(own_folder(tmp_path / "flat", 120))
    assert (len(known), len(fresh)) == (96, 24) and known.labels is fresh.labels is None
    reds = [part.images[:, 0, 0, 0].tolist() for part in (known, fresh)]
    assert sorted(reds[0] + reds[1]) == list(range(120)), "each picture once"
    assert lesson.data == "shapes and flat"

    folder = own_folder(tmp_path / "trees", 60, ("beech", "oak"))
    known, fresh = lesson.own_pictures(f" {folder} ", side=48)
    assert known.class_names == fresh.class_names == ("beech", "oak")
    assert (len(known), len(fresh), fresh.chance) == (96, 24, 0.5)
    assert known.images.shape[1:] == (3, 48, 48)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda root: "", "write the path of a folder between the quotes above."),
        (lambda root: "  ", "write the path of a folder between the quotes above."),
        (lambda root: root / "nowhere", "name: expected "),
        (lambda root: own_folder(root / "few", 20), "expected 100 pictures or more in "),
        (lambda root: own_folder(root / "one", 120, ("cat",)), "class"),
    ],
)
def test_where_ones_own_pictures_are_missing_one_sentence_says_so(
    lesson, capsys, tmp_path, make, said
):
    assert lesson.own_pictures(make(tmp_path)) is None
    out = capsys.readouterr().out
    assert out.startswith("No pictures of your own: ") and said in out and out.count("\n") == 1
    assert lesson.data == "shapes"


def test_progress_counts_and_is_silent_where_nobody_watches(capfd):
    lesson = Lesson("06")
    capfd.readouterr()
    assert list(lesson.progress(3, "training")) == [0, 1, 2]
    bar = lesson.progress(["a", "b"])
    assert list(bar) == ["a", "b"]
    bar.set_postfix(loss=0.5)
    assert capfd.readouterr() == ("", "")


def test_the_summary_is_printed(lesson, capsys):
    lesson.claim("a beats b", True, a=torch.tensor(0.5), b=[1, 2])
    lesson.claim("c beats d", True, c=float("nan"))
    capsys.readouterr()
    lesson.finish()
    summary = r"Lesson 06: 1 of 2 claims held, \d+\.\d minutes, \w+ profile, seed 0\.\n"
    assert re.fullmatch(summary, capsys.readouterr().out)


def not_json(name):
    pytest.fail(f"{name} is not JSON")


def test_the_record_is_stored(lesson, monkeypatch, tmp_path):
    folder = tmp_path / "new"
    monkeypatch.setenv("REPLEARN_RESULTS", str(folder))
    lesson.claim("a beats b", True, a=torch.tensor(0.5), b=[1, 2])
    lesson.claim("c beats d", True, c=float("nan"))
    lesson.finish()
    files = [path.name for path in folder.iterdir()]
    assert files == ["06.json"], "nothing half-written beside it"
    record = json.loads((folder / "06.json").read_text("utf-8"), parse_constant=not_json)
    assert record["claims"] == [
        dict(sentence="a beats b", holds=True, numbers=dict(a=0.5, b=[1, 2])),
        dict(sentence="c beats d", holds=False, numbers=dict(c=None)),
    ]
    assert record["held"] == 1
    assert record["lesson"] == "06"
    assert record["seed"] == 0
    assert record["seconds"] >= 0
    assert set(record["versions"]) == {"replearn", "python", "torch", "numpy"}
    assert {"profile", "device", "data", "title"} <= set(record)


# --- in a kernel ---

CELLS = {
    "header": """\
import os
from replearn.lesson import Frames, Lesson, live
lesson = Lesson('06')""",
    "predict": "lesson.predict('Which wins?', ['pixels', 'SimCLR'])",
    "measured": "lesson.measured('SimCLR')",
    "claim": "lesson.claim('two is more than one', 2 > 1, two=2)",
    "check": """\
def ema_update(target_parameters, online_parameters, momentum):
    ...

lesson.check('ema_update', ema_update)""",
    "check in the middle": """\
lesson.check('ema_update', ema_update)
x = 1""",
    "crash": """\
def ema_update(a, b, c):
    return a['key']

result = lesson.check('ema_update', ema_update)""",
    "forever": """\
from replearn.lesson.exercises import limits
limits.LIMIT = 0.5

def ema_update(a, b, c):
    while True:
        pass

lesson.check('ema_update', ema_update)""",
    "solution": "lesson.solution('ema_update')",
    "frames": """\
import matplotlib.pyplot as plt

def line(k):
    return plt.plot([0, k])[0].figure

Frames.from_function(line, range(3), title='Lines', slider='slope')""",
    "frames of figures": """\
figures = []
for k in range(3):
    figures.append(plt.figure(figsize=(2, 1)))
    plt.plot([0, k])
Frames(figures, title='Lines')""",
    "live, stored": """\
os.environ['REPLEARN_STATIC'] = '1'
seen = []

def draw(slope, kind):
    seen.append((slope, kind))
    plt.plot([0, slope])

live(draw, slope=(0, 10, 2), kind=['a', 'b'])
print(seen)""",
    "live": """\
os.environ['REPLEARN_STATIC'] = '0'
seen.clear()

def draw(slope, kind, flip, word, k):
    seen.append((slope, kind, flip, word, k))
    plt.plot([0, slope])

live(draw, slope=(0.0, 1.0, 0.25), kind=['a', 'b'], flip=True, word='x',
     k=dict(min=1, max=9, value=3))""",
    "live moved": """\
import ipywidgets, gc
slider = [widget for widget in gc.get_objects() if type(widget) is ipywidgets.FloatSlider][0]
slider.value = 0.75
print(seen[0], seen[-1])""",
    "progress": """\
print(type(lesson.progress(2, 'training')).__module__)
for _ in lesson.progress(2, 'training'): pass""",
    "finish": "lesson.finish()",
    "python": """\
import sys
print(sys.executable)""",
}
TRIES = 3  # on a busy machine a kernel's message is lost now and then


@pytest.fixture(scope="module")
def outputs():
    """The outputs of all cells of one notebook, run in a kernel of this Python: {name: outputs}."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS.values()]
    notebook = nbformat.v4.new_notebook(cells=cells)
    for attempt in range(1, TRIES + 1):
        client = nbclient.NotebookClient(
            notebook, timeout=60, kernel_name="python3", extra_arguments=["--log-level=40"]
        )
        try:
            client.execute()
            break
        except nbclient.exceptions.CellTimeoutError:
            if attempt == TRIES:
                raise
    return {name: cell.outputs for name, cell in zip(CELLS, cells, strict=True)}


def kinds(cell_outputs):
    """The stream of each output ("stdout"), or its kinds of data, sorted."""
    return [output.get("name") or sorted(output["data"]) for output in cell_outputs]


def printed(cell_outputs):
    return "".join(output.get("text", "") for output in cell_outputs)


def test_kernel_is_the_python_under_test(outputs):
    assert printed(outputs["python"]).strip() == sys.executable


def test_kernel_nothing_goes_to_stderr(outputs):
    for name, cell_outputs in outputs.items():
        assert "stderr" not in kinds(cell_outputs), name


def test_kernel_html_has_a_plain_text_beside_it(outputs):
    for name in ("header", "measured", "solution"):
        assert kinds(outputs[name]) == [["text/html", "text/plain"]], name
    header = outputs["header"][0]["data"]["text/plain"]
    assert header.startswith("Lesson 06 · Contrastive learning: SimCLR\nDevice: ")
    assert outputs["measured"][0]["data"]["text/plain"] == "Measured: SimCLR."


def test_kernel_a_prediction_has_buttons(outputs):
    widget = "application/vnd.jupyter.widget-view+json"
    assert kinds(outputs["predict"]) == [[widget, "text/plain"]]


def test_kernel_check_shows_once(outputs):
    for name in ("check", "check in the middle"):
        assert kinds(outputs[name]) == ["stdout"], name
        # The function in these cells is only `...`, which Python takes for a body without `return`.
        assert printed(outputs[name]).count("your function returned None") == 1, name
    assert kinds(outputs["claim"]) == ["stdout"]
    assert "found TypeError in the line `return a['key']`" in printed(outputs["crash"])
    assert "does not come to an end" in printed(outputs["forever"])


def test_kernel_frames_show_once(outputs):
    for name in ("frames", "frames of figures"):
        assert kinds(outputs[name]) == [["image/png", "text/html", "text/plain"]], name
        assert "Lines" in outputs[name][0]["data"]["text/plain"]


def test_kernel_live_is_one_static_figure_in_stored_outputs(outputs):
    cell_outputs = outputs["live, stored"]
    figures = [kind for kind in kinds(cell_outputs) if kind != "stdout"]
    assert figures == [["image/png", "text/plain"]]
    assert printed(cell_outputs) == "[(4, 'a')]\n"


def test_kernel_live_redraws_inside_its_widget(outputs):
    widget = ["application/vnd.jupyter.widget-view+json", "text/plain"]
    assert kinds(outputs["live"]) == [widget], "no figure leaks out"
    assert printed(outputs["live moved"]) == "(0.5, 'a', True, 'x', 3) (0.75, 'a', True, 'x', 3)\n"


def test_kernel_progress_is_a_widget(outputs):
    assert "tqdm.notebook" in printed(outputs["progress"])
    assert printed(outputs["finish"]).startswith("Lesson 06: 1 of 1 claims held, ")


# --- the range over seeds ---


def stored_claim(tmp_path, monkeypatch, held=(True, True)):
    """A lesson 03 whose claim "a sentence" was measured at two seeds, at the cpu profile."""
    numbers = [{"accuracy": 0.61, "loss": 1.5, "many": [1, 2]}, {"accuracy": 0.684, "loss": 1.5}]
    claims = [dict(sentence="a sentence", held=list(held), numbers=numbers)]
    (tmp_path / "03_cpu.json").write_text(json.dumps(dict(claims=claims)), "utf-8")
    monkeypatch.setattr(seeds, "FOLDER", tmp_path)
    monkeypatch.setenv("REPLEARN_PROFILE", "cpu")
    return Lesson("03")


def test_a_claim_shows_its_range_over_seeds(tmp_path, monkeypatch, capsys):
    lesson = stored_claim(tmp_path, monkeypatch)
    lesson.claim("a sentence", True, accuracy=(0.65, "%"), loss=1.5, many=[1, 2])
    printed = capsys.readouterr().out.splitlines()[-1]
    numbers = "accuracy 65 %, loss 1.5, many [1, 2]"
    assert printed == f"✓ a sentence ({numbers}; two seeds: accuracy 61 to 68 %, loss 1.5)"


def test_a_claim_says_at_how_many_seeds_it_held(tmp_path, monkeypatch, capsys):
    lesson = stored_claim(tmp_path, monkeypatch, held=(True, False))
    lesson.claim("a sentence", True, accuracy=(0.65, "%"))
    assert "two seeds: held at 1, accuracy 61 to 68 %)" in capsys.readouterr().out


def test_another_sentence_or_profile_has_no_range(tmp_path, monkeypatch, capsys):
    lesson = stored_claim(tmp_path, monkeypatch)
    lesson.claim("another sentence", True, accuracy=(0.65, "%"))
    monkeypatch.setenv("REPLEARN_PROFILE", "gpu")
    Lesson("03").claim("a sentence", True, accuracy=(0.65, "%"))
    assert "seeds" not in capsys.readouterr().out


def test_every_claim_of_the_lessons_was_measured_at_five_seeds():
    files = sorted(seeds.FOLDER.glob("*.json"))
    assert len(files) >= len(lesson_module.EVERY_LESSON)
    for path in files:
        record = json.loads(path.read_text("utf-8"))
        assert record["seeds"] == [0, 1, 2, 3, 4], path.name
        for claim in record["claims"]:
            assert all(claim["held"]), (path.name, claim["sentence"])
