"""The lesson: header, budgets, predictions, claims, photographs and summary; in a script and in a real kernel."""

import json
import re
import sys
import types

import numpy as np
import pytest
import torch

from replearn.lesson import ClaimError, Lesson
from replearn.lesson import formatting as plain
from replearn.lesson import lesson as core

HERE = "from replearn.lesson import Lesson, Frames, live\n"


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("PROFILE", "SEED", "STRICT", "STATIC", "RESULTS"):
        monkeypatch.delenv(f"REPLEARN_{name}", raising=False)


@pytest.fixture
def lesson(capsys):
    made = Lesson("06")
    capsys.readouterr()
    return made


# --- header, profile, seed --------------------------------------------------------------------------------------------


def test_the_header_says_what_to_expect(capsys):
    lesson = Lesson("03")
    text = capsys.readouterr().out
    assert "Lesson 03 · Comparing representations: CKA" in text and "Data: shapes" in text
    assert re.search(r"Device: .+ \((cpu|gpu) profile\)", text) and re.search(
        r"Time: about \d+ minutes", text
    )
    assert lesson.number == Lesson(3).number == Lesson("3").number == "03"
    assert isinstance(lesson.device, torch.device)


def test_all_twelve_lessons_are_listed_and_no_other():
    assert list(core.LESSONS) == [f"{number:02d}" for number in range(1, 13)]
    for odd in ("13", "0", "cka", -1):
        with pytest.raises(ValueError, match="expected a number from 01 to 12"):
            Lesson(odd)


def test_the_profile_follows_the_machine_and_the_environment(monkeypatch):
    budgets = dict(cpu=dict(steps=10), gpu=dict(steps=1000))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Lesson("01").profile(**budgets).steps == 10
    monkeypatch.setenv("REPLEARN_PROFILE", "gpu")
    assert Lesson("01").profile(**budgets).steps == 1000 and Lesson("01").profile_name == "gpu"
    monkeypatch.setenv("REPLEARN_PROFILE", "tpu")
    with pytest.raises(ValueError, match="expected cpu or gpu, found 'tpu'"):
        Lesson("01")


def test_the_two_profiles_have_the_same_names(lesson):
    with pytest.raises(ValueError, match=r"found \['epochs'\] in one of them only"):
        lesson.profile(cpu=dict(steps=1), gpu=dict(steps=2, epochs=3))


def test_the_seed_comes_from_the_environment(monkeypatch):
    def draw():
        return Lesson("01").seed, torch.rand(1).item()

    first = draw()
    assert first == draw() and first[0] == 0
    monkeypatch.setenv("REPLEARN_SEED", "4")
    assert draw()[0] == 4 and draw()[1] != first[1]


# --- predict ----------------------------------------------------------------------------------------------------------


def test_a_prediction_is_plain_html_with_a_text(lesson, monkeypatch, capsys):
    lesson.predict("Which wins?", ["pixels", "SimCLR"], answer="SimCLR")
    assert capsys.readouterr().out == "Predict: Which wins?\n  ( ) pixels\n  ( ) SimCLR\n"
    pages = []
    monkeypatch.setattr(core, "show", lambda page, text: pages.append(page))
    lesson.predict("Is a < b?", ["yes & no", "<script>"], answer="yes")
    lesson.predict("Another?", ["yes", "no"])
    assert (
        all("<script" not in page for page in pages)
        and "Is a &lt; b?" in pages[0]
        and "&lt;script&gt;" in pages[0]
    )
    assert pages[0].count('type="radio"') == 2 and pages[0].count("<label") == 2
    assert "<fieldset" in pages[0] and "<legend>" in pages[0] and "stopPropagation" in pages[0]
    assert "<details" in pages[0] and "<details" not in pages[1]
    names = [set(re.findall(r'name="([^"]+)"', page)) for page in pages]
    ids = [name for page in pages for name in re.findall(r'\bid="([^"]+)"', page)]
    assert (
        len(names[0]) == len(names[1]) == 1
        and not names[0] & names[1]
        and len(ids) == len(set(ids))
    )


# --- claim ------------------------------------------------------------------------------------------------------------


def test_a_claim_prints_its_numbers_in_short(lesson, capsys):
    lesson.claim("a beats b", True, a=0.81372, b=0.4)
    assert capsys.readouterr().out == "✓ a beats b (a 0.814, b 0.4)\n"
    lesson.claim(
        "a beats b", np.bool_(False), a=(0.81372, "%"), time=(12.345, "s"), n=10000, top_1="cat"
    )
    assert capsys.readouterr().out == "✗ a beats b (a 81.4 %, time 12.3 s, n 10000, top 1 cat)\n"
    lesson.claim(
        "it holds",
        torch.tensor(2) > 1,
        values=torch.tensor([0.12345, 2.0]),
        shares=([0.5, 0.25], "%"),
    )
    assert capsys.readouterr().out == "✓ it holds (values [0.123, 2], shares [50, 25] %)\n"
    lesson.claim("it holds", True, pair=(1.0, 2.0))
    assert capsys.readouterr().out == "✓ it holds (pair [1, 2])\n"
    lesson.claim("no numbers", True)
    assert capsys.readouterr().out == "✓ no numbers\n"


def test_a_claim_with_nan_does_not_hold(lesson, capsys):
    for value in (
        float("nan"),
        torch.tensor(torch.nan),
        np.array([1.0, np.nan]),
        (float("nan"), "%"),
    ):
        lesson.claim("a beats b", True, a=value)
        assert (
            capsys.readouterr().out.startswith("✗ a beats b (a ") and not lesson.claims[-1]["holds"]
        )


def test_a_claim_needs_one_true_or_false(lesson):
    for holds in (
        0.7,
        1,
        "yes",
        None,
        torch.tensor([True, False]),
        np.array([True]),
        torch.tensor(1.0),
        [True],
    ):
        with pytest.raises(TypeError, match="expected one True or False"):
            lesson.claim("a beats b", holds)
    assert lesson.claims == []


def test_a_failed_claim_raises_only_where_it_is_strict(lesson, monkeypatch, capsys):
    lesson.claim("a beats b", False, a=1.0)
    monkeypatch.setenv("REPLEARN_STRICT", "1")
    with pytest.raises(ClaimError, match=re.escape("✗ a beats b (a 1)")):
        lesson.claim("a beats b", False, a=1.0)
    lesson.claim("a beats b", True)
    assert isinstance(ClaimError("x"), AssertionError)


def test_a_claim_made_twice_counts_once(lesson):
    lesson.claim("a beats b", False, a=1)
    lesson.claim("c beats d", True)
    lesson.claim("a beats b", True, a=2)
    assert [claim["sentence"] for claim in lesson.claims] == ["c beats d", "a beats b"]
    assert lesson.claims[1]["holds"] and lesson.claims[1]["numbers"] == {"a": 2}


def test_numbers_in_short():
    shown = {
        0.000123456: "0.000123",
        12345.6: "12346",
        1e9: "1e+09",
        -0.5: "-0.5",
        3: "3",
        True: "True",
    }
    assert {value: plain.text(value) for value in shown} == shown
    assert plain.text(list(range(20))) == "[0, 1, 2, 3, 4, 5, 6, 7, …]"
    assert plain.plain(torch.tensor([[1, 2]])) == [[1, 2]] and plain.plain(np.float32(0.5)) == 0.5


# --- exercises --------------------------------------------------------------------------------------------------------


def unwritten(similarity):
    raise NotImplementedError


def test_check_prints_once_and_never_raises(lesson, capsys):
    result = lesson.check("mask_self_pairs", unwritten)
    assert capsys.readouterr().out == result.text + "\n" and result.text.startswith(
        "not attempted: mask_self_pairs"
    )
    assert lesson.check(
        "mask_self_pairs", lambda s: s.masked_fill(torch.eye(len(s)).bool(), -torch.inf)
    ).right
    assert not lesson.check("no_such_exercise", unwritten).right
    assert (
        "no exercise 'no_such_exercise' in lesson 06; expected one of: nt_xent"
        in capsys.readouterr().out
    )


def test_hints_come_one_by_one(lesson, capsys):
    texts = []
    for _ in range(5):
        lesson.hint("nt_xent")
        texts.append(capsys.readouterr().out)
    assert [text[:11] for text in texts] == [
        "Hint 1 of 3",
        "Hint 2 of 3",
        "Hint 3 of 3",
        "No more hin",
        "No more hin",
    ]
    lesson.hint("ema_update")
    assert capsys.readouterr().out.startswith("Hint 1 of 3")


def test_the_solution_is_folded(lesson, monkeypatch, capsys):
    lesson.solution("nt_xent")
    assert "def nt_xent(z1, z2, temperature):" in capsys.readouterr().out
    monkeypatch.setattr(core, "show", lambda page, text: print(page))
    lesson.solution("nt_xent")
    assert capsys.readouterr().out.startswith("<details><summary>Solution: nt_xent</summary>")


# --- photographs, progress, finish ------------------------------------------------------------------------------------


def fake_data(monkeypatch, *, available, load):
    import replearn

    module = types.SimpleNamespace(available=lambda name: available, load=load)
    monkeypatch.setitem(sys.modules, "replearn.data", module)
    monkeypatch.setattr(replearn, "data", module, raising=False)


def test_photographs_where_they_are_on_disk(lesson, monkeypatch, capsys):
    calls = []
    fake_data(
        monkeypatch,
        available=True,
        load=lambda name, **options: calls.append((name, options)) or len(calls),
    )
    assert lesson.photographs(train=500, test=100) == (1, 2) and capsys.readouterr().out == ""
    train, test = dict(split="train", size=500, seed=0), dict(split="test", size=100, seed=0)
    assert calls == [("cifar10", train), ("cifar10", test)]
    assert lesson.data == "shapes and cifar10"


def test_no_photographs_is_one_sentence_not_an_error(lesson, monkeypatch, capsys):
    lesson.profile_name = "cpu"
    fake_data(
        monkeypatch, available=False, load=lambda *a, **k: pytest.fail("no download without a GPU")
    )
    assert lesson.photographs(train=500, test=100) is None
    out, err = capsys.readouterr()
    assert (
        out.startswith("No photographs: CIFAR-10 is not on this disk")
        and out.count("\n") == 1
        and not err
    )

    def offline(*_, **__):
        raise OSError("cifar10: no network\nmore detail")

    lesson.profile_name = "gpu"
    fake_data(monkeypatch, available=False, load=offline)
    assert lesson.photographs() is None
    assert capsys.readouterr().out.startswith("No photographs: cifar10: no network To get them, ")
    assert lesson.data == "shapes"


def test_progress_counts_and_is_silent_where_nobody_watches(capfd):
    lesson = Lesson("06")
    capfd.readouterr()
    assert list(lesson.progress(3, "training")) == [0, 1, 2]
    bar = lesson.progress(["a", "b"])
    assert list(bar) == ["a", "b"]
    bar.set_postfix(loss=0.5)
    assert capfd.readouterr() == ("", "")


def test_the_summary_is_printed_and_stored(lesson, monkeypatch, capsys, tmp_path):
    lesson.claim("a beats b", True, a=torch.tensor(0.5), b=[1, 2])
    lesson.claim("c beats d", True, c=float("nan"))
    monkeypatch.setenv("REPLEARN_RESULTS", str(tmp_path / "new"))
    capsys.readouterr()
    lesson.finish()
    summary = r"Lesson 06: 1 of 2 claims held, \d+\.\d minutes, \w+ profile, seed 0\.\n"
    assert re.fullmatch(summary, capsys.readouterr().out)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["06.json"], (
        "nothing half-written beside it"
    )
    text = (tmp_path / "new" / "06.json").read_text("utf-8")
    record = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert record["claims"] == [
        dict(sentence="a beats b", holds=True, numbers=dict(a=0.5, b=[1, 2])),
        dict(sentence="c beats d", holds=False, numbers=dict(c=None)),
    ]
    assert (
        record["held"] == 1
        and record["lesson"] == "06"
        and record["seed"] == 0
        and record["seconds"] >= 0
    )
    assert set(record["versions"]) == {"replearn", "python", "torch", "numpy"}
    assert {"profile", "device", "data", "title"} <= set(record)


# --- in a kernel ------------------------------------------------------------------------------------------------------

CELLS = {
    "header": HERE + "import os\nlesson = Lesson('06')",
    "predict": "lesson.predict('Which wins?', ['pixels', 'SimCLR'], answer='SimCLR')",
    "claim": "lesson.claim('two is more than one', 2 > 1, two=2)",
    "check": "def ema_update(target_parameters, online_parameters, momentum):\n    ...\n\n"
    "lesson.check('ema_update', ema_update)",
    "check in the middle": "lesson.check('ema_update', ema_update)\nx = 1",
    "crash": "def ema_update(a, b, c):\n    return a['key']\n\nresult = lesson.check('ema_update', ema_update)",
    "forever": "import replearn.lesson.exercises.limits as guard\nguard.LIMIT = 0.5\ndef ema_update(a, b, c):\n"
    "    while True:\n        pass\n\nlesson.check('ema_update', ema_update)",
    "solution": "lesson.solution('ema_update')",
    "frames": "import matplotlib.pyplot as plt\n"
    "Frames.from_function(lambda k: plt.plot([0, k])[0].figure, range(3), title='Lines', slider='slope')",
    "frames of figures": "figures = []\nfor k in range(3):\n    figures.append(plt.figure(figsize=(2, 1)))\n"
    "    plt.plot([0, k])\nFrames(figures, title='Lines')",
    "live, stored": "os.environ['REPLEARN_STATIC'] = '1'\nseen = []\n"
    "def draw(slope, kind):\n    seen.append((slope, kind))\n    plt.plot([0, slope])\n"
    "live(draw, slope=(0, 10, 2), kind=['a', 'b'])\nprint(seen)",
    "live": "os.environ['REPLEARN_STATIC'] = '0'\nseen.clear()\n"
    "def draw(slope, kind, flip, word, k):\n    seen.append((slope, kind, flip, word, k))\n"
    "    plt.plot([0, slope])\n"
    "live(draw, slope=(0.0, 1.0, 0.25), kind=['a', 'b'], flip=True, word='x', k=dict(min=1, max=9, value=3))",
    "live moved": "import ipywidgets, gc\n"
    "slider = [w for w in gc.get_objects() if type(w) is ipywidgets.FloatSlider][0]\n"
    "slider.value = 0.75\nprint(seen[0], seen[-1])",
    "progress": "print(type(lesson.progress(2, 'training')).__module__)\nfor _ in lesson.progress(2, 'training'): pass",
    "finish": "lesson.finish()",
    "python": "import sys\nprint(sys.executable)",
}


@pytest.fixture(scope="module")
def outputs():
    """The outputs of all cells of one notebook, run in a kernel of this Python."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS.values()]
    nb = nbformat.v4.new_notebook(cells=cells)
    for _ in range(
        3
    ):  # on a busy machine a kernel's message is lost now and then: a fresh kernel, then
        try:
            nbclient.NotebookClient(
                nb, timeout=60, kernel_name="python3", extra_arguments=["--log-level=40"]
            ).execute()
            break
        except nbclient.exceptions.CellTimeoutError as error:
            late = error
    else:
        raise late
    return dict(zip(CELLS, [cell.outputs for cell in cells], strict=True))


def kinds(cell_outputs):
    return [output.get("name") or sorted(output["data"]) for output in cell_outputs]


def printed(cell_outputs):
    return "".join(output.get("text", "") for output in cell_outputs)


def test_kernel_is_the_python_under_test(outputs):
    assert printed(outputs["python"]).strip() == sys.executable


def test_kernel_nothing_goes_to_stderr(outputs):
    assert not [
        output for cell in outputs.values() for output in cell if output.get("name") == "stderr"
    ]


def test_kernel_html_has_a_plain_text_beside_it(outputs):
    for name in ("header", "predict", "solution"):
        assert kinds(outputs[name]) == [["text/html", "text/plain"]], name
    assert outputs["header"][0]["data"]["text/plain"].startswith(
        "Lesson 06 · Contrastive learning: SimCLR\nDevice: "
    )
    assert outputs["predict"][0]["data"]["text/plain"].startswith("Predict: Which wins?")


def test_kernel_check_shows_once(outputs):
    for name in ("check", "check in the middle"):
        assert (
            kinds(outputs[name]) == ["stdout"]
            and printed(outputs[name]).count("not attempted") == 1
        )
    assert kinds(outputs["claim"]) == ["stdout"]
    assert "found TypeError in the line `return a['key']`" in printed(outputs["crash"])
    assert "does not come to an end" in printed(outputs["forever"])


def test_kernel_frames_show_once(outputs):
    for name in ("frames", "frames of figures"):
        assert kinds(outputs[name]) == [["image/png", "text/html", "text/plain"]], name
        assert "Lines" in outputs[name][0]["data"]["text/plain"]


def test_kernel_live_is_one_static_figure_in_stored_outputs(outputs):
    assert [kind for kind in kinds(outputs["live, stored"]) if kind != "stdout"] == [
        ["image/png", "text/plain"]
    ]
    assert printed(outputs["live, stored"]) == "[(4, 'a')]\n"


def test_kernel_live_redraws_inside_its_widget(outputs):
    assert kinds(outputs["live"]) == [["application/vnd.jupyter.widget-view+json", "text/plain"]], (
        "no figure leaks out"
    )
    assert printed(outputs["live moved"]) == "(0.5, 'a', True, 'x', 3) (0.75, 'a', True, 'x', 3)\n"


def test_kernel_progress_is_a_widget(outputs):
    assert "tqdm.notebook" in printed(outputs["progress"])
    assert printed(outputs["finish"]).startswith("Lesson 06: 1 of 1 claims held, ")
