"""Every exercise accepts right answers and rejects usual mistakes; whatever a learner's function does is survived."""

import inspect
import re
import sys
import time

import numpy as np
import pytest
import torch

from replearn.lesson import exercises
from replearn.lesson import lesson as core
from replearn.lesson.exercises import Exercise, check
from replearn.lesson.exercises.compare import difference, inputs_text

ALL = [(lesson, name) for lesson in core.LESSONS for name in exercises.names(lesson)]
SEEDS = range(20)
BROKEN = "found (Type|Value|Runtime|Index|Attribute|Key)Error"


@pytest.fixture(params=ALL, ids=lambda pair: "-".join(pair))
def exercise(request):
    return exercises.get(*request.param)


# --- the exercises ----------------------------------------------------------------------------------------------------


def test_the_exercises_of_the_first_lessons_are_there():
    assert exercises.names("01") == ["precision_at_k", "cosine_similarity_matrix", "breaks_hog"]
    assert exercises.names("02") == ["probe_loss_and_gradient", "fix_leak", "selectivity"]
    assert exercises.names("06") == ["nt_xent", "mask_self_pairs", "ema_update"]
    assert exercises.names("99") == []


def test_an_exercise_ships_what_it_needs(exercise):
    assert len(exercise.wrong) >= 3 and len(exercise.alternatives) >= 2
    assert (
        2 <= len(exercise.hints) <= 3 and exercise.difficulty in (1, 2, 3) and exercise.minutes > 0
    )
    assert inspect.getdoc(exercise.solution), "the docstring is the task"


def test_right_answers_are_accepted(exercise):
    for answer in (exercise.solution, *exercise.alternatives):
        for seed in SEEDS:
            result = check(exercise, answer, seed=seed)
            assert result.right and result.score == 1.0, (seed, answer, result.text)
            assert result.text.startswith("✓ right")


def test_usual_mistakes_are_rejected(exercise):
    for mistake, answer in exercise.wrong.items():
        for seed in SEEDS:
            result = check(exercise, answer, seed=seed)
            assert not result.right and result.score < 1.0, (mistake, seed)
            assert (
                result.text.startswith("✗ wrong: ")
                and "expected" in result.text
                and "found" in result.text
            )
            assert ", on " in result.text, "the sentence names the input"
            assert not re.search(BROKEN, result.text), (
                mistake,
                "is rejected only because it crashes",
                result,
            )


def test_the_source_shown_runs_by_itself(exercise):
    source = exercise.source()
    assert f"def {exercise.name}(" in source and "@" not in source.split("def ")[0]
    space = {}
    exec(compile(source, "<solution>", "exec"), space)
    assert check(exercise, space[exercise.name]).right


def test_empty_stubs_are_not_attempted(exercise):
    def unwritten(*arguments):
        raise NotImplementedError

    for stub in (unwritten, lambda *a: None, lambda *a: ..., lambda *a: (None, None)):
        result = check(exercise, stub)
        assert (
            result.text.startswith(f"not attempted: {exercise.name} (difficulty ")
            and result.score == 0.0
        )
        assert not result.right


def test_feedback_is_quick(exercise):
    started = time.perf_counter()
    check(exercise, exercise.solution)
    assert time.perf_counter() - started < 2.0


def test_inputs_are_fresh_at_every_call(exercise):
    def seen():
        calls = []
        check(exercise, lambda *arguments: calls.append(arguments))
        return calls[0]

    assert difference(seen(), seen(), 0.0) is not None


# --- the engine -------------------------------------------------------------------------------------------------------


def double(x, k):
    """Twice x, plus k."""
    return 2 * x + k


DOUBLE = Exercise(
    solution=double,
    hints=("a", "b"),
    wrong={},
    alternatives=(),
    gradient_of=(0,),
    cases=lambda generator: {
        "some numbers": (torch.randn(3, 2, generator=generator), 1),
        "one number": (torch.randn(1, 1, generator=generator), 2.0),
    },
)


def text(fn, exercise=DOUBLE):
    result = check(exercise, fn)
    assert not result.right
    # A crash quotes its line, which here is the test's own: what is asserted must not be found there.
    return re.sub(r" in the line `.*`", "", result.text)


def test_values_types_shapes_and_dtypes_are_told_apart():
    assert "expected shape (3, 2), found shape (2, 3)" in text(lambda x, k: double(x, k).T)
    assert "expected shape (3, 2), found a single number" in text(lambda x, k: double(x, k).sum())
    assert "expected a Tensor of shape (3, 2), found a list" in text(
        lambda x, k: double(x, k).tolist()
    )
    assert "found 'red'" in text(lambda x, k: "red")
    assert "expected floating-point numbers (torch.float32), found torch.int64" in text(
        lambda x, k: x.long()
    )
    assert "found torch.bool" in text(lambda x, k: x > 0)
    assert "expected finite numbers, found NaN" in text(lambda x, k: double(x, k) * torch.nan)
    sentence = text(lambda x, k: 2 * x)
    assert (
        "(6 of 6 values differ), on some numbers: x (3, 2), k = 1 (0 of 2 checks right)" in sentence
    )


def test_the_failing_input_can_be_tried_again():
    result = check(DOUBLE, lambda x, k: double(x, k) if len(x) == 3 else x)
    assert result.score == 0.5 and "on one number" in result.text
    assert (
        torch.is_tensor(result.inputs[0])
        and result.inputs[0].shape == (1, 1)
        and result.inputs[1] == 2.0
    )


def test_the_place_that_is_wrong_is_named():
    def almost(x, k):
        return double(x, k) + (torch.arange(x.numel()).view(x.shape) == 3)

    assert "at [1, 1]" in text(almost) and "(1 of 6 values differ)" in text(almost)


def test_gradients_are_checked_too():
    assert "carries gradients" in text(lambda x, k: double(x, k).detach())
    assert "carries gradients" in text(lambda x, k: double(x, k).detach().numpy())
    wrong_slope = text(lambda x, k: double(x, k).detach() + x - x.detach())
    assert "the value is right, but its gradient with respect to x is not: expected" in wrong_slope


def test_a_changed_input_is_noticed():
    assert "it changes its input" in text(lambda x, k: x.mul_(2).add_(k))


def test_a_random_answer_is_noticed():
    answers = iter([0.0, 1.0] * 4)
    assert "another one at the second call" in text(lambda x, k: double(x, k) + next(answers))


def test_the_notebooks_random_stream_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    check(DOUBLE, lambda x, k: double(x, k) + torch.rand(1))
    check(DOUBLE, lambda x, k: torch.manual_seed(5) and double(x, k))
    assert torch.rand(1) == expected


def test_other_correct_ways_of_writing_are_accepted():
    values = Exercise(solution=double, hints=(), wrong={}, alternatives=(), cases=DOUBLE.cases)
    assert check(DOUBLE, lambda x, *, k: double(x, k)).right
    assert check(DOUBLE, lambda x, k: double(x.double(), k)).right
    assert check(values, lambda x, k: double(x, k).numpy()).right
    assert check(values, lambda x, k: double(x, k) + 1e-6).right


def test_crashes_are_told_with_their_line_and_text():
    def crashes(x, k):
        return x @ x

    sentence = check(DOUBLE, crashes).text
    assert (
        "found RuntimeError in the line `return x @ x`" in sentence
        and "cannot be multiplied" in sentence
    )
    assert "ZeroDivisionError" in text(lambda x, k: 1 / 0)
    assert "(\"GeluKernelImpl\" not implemented for 'Long')" in text(
        lambda x, k: torch.nn.functional.gelu(x.long())
    )
    assert "SystemExit" in text(lambda x, k: exit())
    assert "RecursionError" in text(text_forever)
    assert "missing" in text(lambda x, k, extra: x)
    assert text("a text").startswith("✗ wrong: expected a function double(x, k), found str")


def text_forever(x, k):
    return text_forever(x, k)


def test_odd_answers_never_raise():
    for odd in (
        object(),
        {1: 2},
        [],
        (),
        "",
        b"",
        float,
        lambda: 1,
        {1},
        torch.empty(0),
        torch.tensor(1j),
        [None, 1],
        np.array(["a"], dtype=object),
    ):
        for exercise in (DOUBLE, *(exercises.get(*pair) for pair in ALL)):
            assert not check(exercise, lambda *arguments, odd=odd: odd).right


def test_a_function_that_never_ends_is_cut_off(monkeypatch):
    monkeypatch.setattr("replearn.lesson.exercises.limits.LIMIT", 0.3)

    def forever(x, k):
        while True:
            try:
                x = torch.add(
                    x, 1
                )  # a call: without one Python 3.10 cannot interrupt this loop, by Ctrl-C either
            except Exception:
                pass

    started = time.perf_counter()
    assert "it does not come to an end: stopped after" in text(forever)
    assert time.perf_counter() - started < 3
    assert check(DOUBLE, double).right, "the alarm is switched off afterwards"
    time.sleep(0.4)


def test_a_function_that_only_waits_is_cut_off_later(monkeypatch):
    monkeypatch.setattr("replearn.lesson.exercises.limits.LIMIT", 0.2)
    started = time.perf_counter()
    assert "it does not come to an end" in text(lambda x, k: time.sleep(60))
    assert 0.7 < time.perf_counter() - started < 10


def test_an_import_is_not_cut_in_two(monkeypatch, tmp_path):
    monkeypatch.setattr("replearn.lesson.exercises.limits.LIMIT", 0.2)
    spin = "import time\nend = time.process_time() + 0.8\nwhile time.process_time() < end: pass\nk = 1\n"
    (tmp_path / "slow_to_import.py").write_text(spin)
    monkeypatch.syspath_prepend(tmp_path)

    def imports(x, k):
        import slow_to_import

        return double(x, slow_to_import.k)

    check(DOUBLE, imports)
    assert sys.modules["slow_to_import"].k == 1


def test_stopping_by_hand_is_survived():
    def stopped(x, k):
        raise KeyboardInterrupt

    assert "stopped before the end" in text(stopped)


def test_a_chatty_function_is_kept_quiet(capfd):
    def chatty(x, k):
        import warnings

        print("debug")
        print("oh", file=sys.stderr)
        warnings.warn("careful", stacklevel=1)
        return double(x, k)

    assert check(DOUBLE, chatty).right
    assert capfd.readouterr() == ("", "")


def test_a_judge_accepts_several_right_answers():
    def anything_odd(k):
        """An odd number above k."""
        return 2 * int(k) + 1

    odd = Exercise(
        solution=anything_odd,
        hints=(),
        wrong={},
        alternatives=(),
        cases=lambda generator: {"three": (3,)},
        judge=lambda found, _, k: (
            None if found % 2 and found > k else f"expected odd, found {found}"
        ),
    )
    assert check(odd, lambda k: k + 2).right and check(odd, anything_odd).right
    assert "expected odd, found 4" in text(lambda k: 4, odd)
    assert "found 'x'" in text(lambda k: "x", odd)


def test_a_faulty_exercise_does_not_stop_the_notebook():
    faulty = Exercise(
        solution=double,
        hints=(),
        wrong={},
        alternatives=(),
        cases=lambda generator: {"none": (1 / 0,)},
    )
    assert "the check itself failed (ZeroDivisionError" in text(double, faulty)


def test_unknown_names_name_the_known_ones():
    with pytest.raises(
        ValueError,
        match="no exercise 'cka' in lesson 06; expected one of: nt_xent, mask_self_pairs",
    ):
        exercises.get("06", "cka")


def test_differences_in_words():
    assert (
        difference(0.5, torch.tensor(0.5)) is None and difference(True, torch.tensor(True)) is None
    )
    assert (
        difference(1.0, 1) is None
        and difference("a", "a") is None
        and difference((1, "a"), [1, "a"]) is None
    )
    assert difference(0.4170, 0.4171, 1e-6) == "expected 0.417, found 0.4171"
    assert difference({"a": 1}, {"a": 2}) == "at 'a': expected 1, found 2"
    assert difference({"a": 1}, {"b": 1}).startswith("expected a dict with ['a']")
    assert difference((1, 2), (1, 3)) == "value 2 of 2: expected 2, found 3"
    assert difference((1, 2), (1,)) == "expected 2 values (a tuple), found a tuple of 1"
    assert difference(torch.zeros(2), torch.full((2,), 1e-9)) is None
    assert difference(torch.tensor([-torch.inf, 0.0]), torch.tensor([-torch.inf, 0.0])) is None
    assert "expected -inf at [0], found -1e+09" in difference(
        torch.tensor([-torch.inf]), torch.tensor([-1e9])
    )
    assert inputs_text(double, (torch.ones(2, 3), 0.25)) == "x (2, 3), k = 0.25"
