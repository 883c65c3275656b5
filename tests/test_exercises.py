"""The exercises and their checker.

Every exercise accepts right answers and rejects usual mistakes. Whatever a learner's function does,
the checker survives it and says what is wrong.
"""

import inspect
import re
import sys
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from replearn.lesson import exercises
from replearn.lesson.exercises import Exercise, check, checker, limits
from replearn.lesson.exercises.compare import difference, inputs_text
from replearn.lesson.lesson import EVERY_LESSON

ALL = [(lesson, name) for lesson in EVERY_LESSON for name in exercises.names(lesson)]
SEEDS = range(20)
BROKEN = "found (Type|Value|Runtime|Index|Attribute|Key)Error"


@pytest.fixture(params=ALL, ids=lambda pair: "-".join(pair))
def exercise(request):
    return exercises.get(*request.param)


# --- the exercises ---


def test_the_exercises_of_the_first_lessons_are_there():
    assert exercises.names("01") == ["precision_at_k", "cosine_similarity_matrix", "breaks_hog"]
    assert exercises.names("02") == ["probe_loss_and_gradient", "fix_leak", "selectivity"]
    assert exercises.names("06") == ["nt_xent", "mask_self_pairs", "ema_update"]
    assert exercises.names("99") == []


def test_an_exercise_ships_what_it_needs(exercise):
    assert len(exercise.wrong) >= 3
    assert len(exercise.alternatives) >= 2
    assert 2 <= len(exercise.hints) <= 3
    assert exercise.difficulty in (1, 2, 3)
    assert exercise.minutes > 0
    assert inspect.getdoc(exercise.solution), "the docstring is the task"


def test_right_answers_are_accepted(exercise):
    for answer in (exercise.solution, *exercise.alternatives):
        for seed in SEEDS:
            result = check(exercise, answer, seed=seed)
            assert result.right, (seed, answer, result.text)
            assert result.score == 1.0
            assert result.text.startswith("✓ right")


def test_usual_mistakes_are_rejected(exercise, monkeypatch):
    monkeypatch.setattr(checker, "NAMING_SECONDS", -1.0)  # the next test is about the names
    for mistake, answer in exercise.wrong.items():
        for seed in SEEDS:
            result = check(exercise, answer, seed=seed)
            assert not result.right, (mistake, seed)
            assert result.score < 1.0
            assert result.text.startswith("✗ wrong: ")
            assert "expected" in result.text
            assert "found" in result.text
            assert ", on " in result.text, "the sentence names the input"
            only_crashes = re.search(BROKEN, result.text)
            assert not only_crashes, (mistake, result.text)


def test_usual_mistakes_are_named(exercise, monkeypatch):
    monkeypatch.setattr(checker, "NAMING_SECONDS", 60.0)
    sentences = [" ".join(inspect.getdoc(wrong).split()) for wrong in exercise.wrong.values()]
    for mistake, answer in exercise.wrong.items():
        text = check(exercise, answer, seed=0).text
        if "found it modified" in text or "it changes its input" in text:
            continue
        named = text.partition(". This is a known mistake: ")[2]
        assert named, (mistake, text)
        assert any(sentence.startswith(named) for sentence in sentences)


def test_the_source_shown_runs_by_itself(exercise):
    source = exercise.source()
    assert f"def {exercise.name}(" in source
    assert "@" not in source.split("def ")[0]
    space = {}
    exec(compile(source, "<solution>", "exec"), space)
    assert check(exercise, space[exercise.name]).right


def unwritten(*arguments):
    raise NotImplementedError


def gives_none(*arguments):
    return None


def gives_dots(*arguments):
    return ...


def gives_two_nones(*arguments):
    return None, None


@pytest.mark.parametrize("forgetful", [gives_none, gives_two_nones])
def test_a_forgotten_return_is_told(exercise, forgetful):
    result = check(exercise, forgetful)
    assert result.text.startswith("✗ wrong: your function returned ")
    assert "None" in result.text
    assert result.score == 0.0


@pytest.mark.parametrize("stub", [unwritten, gives_dots])
def test_empty_stubs_are_not_attempted(exercise, stub):
    result = check(exercise, stub)
    assert result.text.startswith(f"not attempted: {exercise.name} (difficulty ")
    assert result.score == 0.0
    assert not result.right


def test_feedback_is_quick(exercise):
    started = time.process_time()  # of this process alone, however busy the machine is
    check(exercise, exercise.solution)
    assert time.process_time() - started < 2.0


def test_inputs_are_fresh_at_every_call(exercise):
    def first_inputs():
        calls = []

        def remembers(*arguments):
            calls.append(arguments)

        check(exercise, remembers)
        return calls[0]

    assert difference(first_inputs(), first_inputs(), 0.0) is not None


def test_unknown_names_name_the_known_ones():
    sentence = "no exercise 'cka' in lesson 06; expected one of: nt_xent, mask_self_pairs"
    with pytest.raises(ValueError, match=sentence):
        exercises.get("06", "cka")


# --- the checker ---


def double(x, k):
    """Twice x, plus k."""
    return 2 * x + k


def double_cases(generator):
    return {
        "some numbers": (torch.randn(3, 2, generator=generator), 1),
        "one number": (torch.randn(1, 1, generator=generator), 2.0),
    }


DOUBLE = Exercise(
    solution=double,
    hints=("a", "b"),
    wrong={},
    alternatives=(),
    gradient_of=(0,),
    cases=double_cases,
)
DOUBLE_VALUES = replace(DOUBLE, gradient_of=())


def odd_above(k):
    """An odd number above k."""
    return 2 * int(k) + 1


def odd_judge(answer, _, k):
    if answer % 2 and answer > k:
        return None
    return f"expected odd, found {answer}"


ODD_ABOVE = Exercise(
    solution=odd_above,
    hints=(),
    wrong={},
    alternatives=(),
    cases=lambda generator: {"three": (3,)},
    judge=odd_judge,
)


def complaint(fn, exercise=DOUBLE):
    """What the checker says of a wrong function.

    Without the line that it quotes of a crash: here that is the test's own line, which holds the
    words that the test looks for.
    """
    result = check(exercise, fn)
    assert not result.right
    return re.sub(r" in the line `.*`", "", result.text)


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (lambda x, k: double(x, k).T, "expected shape (3, 2), found shape (2, 3)"),
        (lambda x, k: double(x, k).sum(), "expected shape (3, 2), found a single number"),
        (lambda x, k: double(x, k).tolist(), "the value is right, but expected a tensor that"),
        (lambda x, k: [1, "a"], "expected a Tensor of shape (3, 2), found a list"),
        (lambda x, k: [[1.0], [2.0, 3.0]], "expected a Tensor of shape (3, 2), found a list"),
        (lambda x, k: "red", "found 'red'"),
        (
            lambda x, k: x.long(),
            "expected floating-point numbers (torch.float32), found torch.int64",
        ),
        (lambda x, k: x > 0, "found torch.bool"),
        (lambda x, k: double(x, k) * torch.nan, "expected finite numbers, found NaN"),
        (
            lambda x, k: 2 * x,
            "(6 of 6 values differ), on some numbers: x (3, 2), k = 1 (0 of 2 checks right)",
        ),
    ],
)
def test_values_types_shapes_and_dtypes_are_told_apart(wrong, sentence):
    assert sentence in complaint(wrong)


def test_the_failing_input_can_be_tried_again():
    def right_for_three_rows(x, k):
        return double(x, k) if len(x) == 3 else x

    result = check(DOUBLE, right_for_three_rows)
    assert result.score == 0.5
    assert "on one number" in result.text
    x, k = result.inputs
    assert torch.is_tensor(x)
    assert x.shape == (1, 1)
    assert k == 2.0


def test_the_place_that_is_wrong_is_named():
    def almost(x, k):
        is_fourth = torch.arange(x.numel()).view(x.shape) == 3
        return double(x, k) + is_fourth

    sentence = complaint(almost)
    assert "at [1, 1]" in sentence
    assert "(1 of 6 values differ)" in sentence


def test_a_cut_gradient_is_noticed():
    assert "carries gradients" in complaint(lambda x, k: double(x, k).detach())
    assert "carries gradients" in complaint(lambda x, k: double(x, k).detach().numpy())


def test_a_wrong_gradient_is_noticed():
    def slope_of_1(x, k):
        return double(x, k).detach() + x - x.detach()

    expected = "the value is right, but its gradient with respect to x is not: expected"
    assert expected in complaint(slope_of_1)


def test_a_changed_input_is_noticed():
    assert "it changes its input" in complaint(lambda x, k: x.mul_(2).add_(k))


def test_a_random_answer_is_noticed():
    noise = iter([0.0, 1.0] * 4)
    sentence = complaint(lambda x, k: double(x, k) + next(noise))
    assert "another one at the second call" in sentence


def test_the_notebooks_random_stream_is_left_alone():
    def draws(x, k):
        return double(x, k) + torch.rand(1)

    def seeds(x, k):
        torch.manual_seed(5)
        return double(x, k)

    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    check(DOUBLE, draws)
    check(DOUBLE, seeds)
    assert torch.rand(1) == expected


@pytest.mark.parametrize(
    "exercise, right",
    [
        (DOUBLE, lambda x, *, k: double(x, k)),
        (DOUBLE, lambda x, k: double(x.double(), k)),
        (DOUBLE_VALUES, lambda x, k: double(x, k).numpy()),
        (DOUBLE_VALUES, lambda x, k: double(x, k) + 1e-6),
        (DOUBLE_VALUES, lambda x, k: double(x, k).tolist()),
        (DOUBLE_VALUES, lambda x, k: tuple(double(x, k))),
        (DOUBLE, lambda x, k: [list(row) for row in double(x, k)]),
        (DOUBLE, lambda x, k: (2 * row + k for row in x)),
        (ODD_ABOVE, lambda k: np.int64(k + 2)),
    ],
)
def test_other_correct_ways_of_writing_are_accepted(exercise, right):
    assert check(exercise, right).right


def test_a_crash_is_told_with_its_line_and_text():
    def crashes(x, k):
        return x @ x

    sentence = check(DOUBLE, crashes).text
    assert "found RuntimeError in the line `return x @ x`" in sentence
    assert "cannot be multiplied" in sentence


def never_returns(x, k):
    return never_returns(x, k)


@pytest.mark.parametrize(
    "crashes, sentence",
    [
        (lambda x, k: 1 / 0, "ZeroDivisionError"),
        (lambda x, k: exit(), "SystemExit"),
        (never_returns, "RecursionError"),
        (lambda x, k, extra: x, "missing"),
        (
            lambda x, k: torch.nn.functional.gelu(x.long()),  # raises NotImplementedError
            "(\"GeluKernelImpl\" not implemented for 'Long')",
        ),
    ],
)
def test_crashes_are_told(crashes, sentence):
    assert sentence in complaint(crashes)


def test_what_is_no_function_is_told():
    expected = "✗ wrong: expected a function double(x, k), found str"
    assert complaint("a text").startswith(expected)


ODD = [
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
]


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_odd_answers_never_raise(odd):
    def gives_it(*arguments):
        return odd

    for exercise in (DOUBLE, *(exercises.get(*pair) for pair in ALL)):
        assert not check(exercise, gives_it).right, exercise.name


def test_a_function_that_never_ends_is_cut_off(monkeypatch):
    monkeypatch.setattr("replearn.lesson.exercises.limits.LIMIT", 0.3)

    def forever(x, k):
        while True:
            try:
                # A call: without one Python 3.10 cannot interrupt this loop, by Ctrl-C either.
                x = torch.add(x, 1)
            except Exception:
                pass

    assert "it does not come to an end: stopped after" in complaint(forever)
    assert check(DOUBLE, double).right, "the alarm is switched off afterwards"
    time.sleep(0.4)  # an alarm that was left on would ring here


def test_a_function_that_only_waits_is_cut_off_later(monkeypatch):
    monkeypatch.setattr("replearn.lesson.exercises.limits.LIMIT", 0.2)
    ended = []

    def waits(x, k):
        time.sleep(60)
        ended.append(True)

    started = time.perf_counter()
    assert "it does not come to an end" in complaint(waits)
    assert not ended
    assert time.perf_counter() - started > 0.7  # a busy machine makes it longer, never shorter


SLOW_MODULE = """\
import time
end = time.process_time() + 0.8
while time.process_time() < end:
    pass
k = 1
"""


def test_an_import_is_not_cut_in_two(monkeypatch, tmp_path):
    monkeypatch.setattr("replearn.lesson.exercises.limits.LIMIT", 0.2)
    (tmp_path / "slow_to_import.py").write_text(SLOW_MODULE)
    monkeypatch.syspath_prepend(tmp_path)

    def imports(x, k):
        import slow_to_import

        return double(x, slow_to_import.k)

    check(DOUBLE, imports)
    assert sys.modules["slow_to_import"].k == 1


def test_stopping_by_hand_is_survived():
    def stopped(x, k):
        raise KeyboardInterrupt

    assert "stopped before the end" in complaint(stopped)


def test_what_a_function_prints_is_kept_for_the_lesson_to_show(capfd):
    def chatty(x, k):
        print("rows:", len(x))
        print("oh", file=sys.stderr)
        warnings.warn("careful", stacklevel=1)
        return double(x, k)

    result = check(DOUBLE, chatty)
    assert result.right
    assert result.printed == "rows: 3\n", "of the first input, once"
    assert capfd.readouterr() == ("", "")

    def wrong_for_one_row(x, k):
        print("rows:", len(x))
        return double(x, k) if len(x) == 3 else x

    result = check(DOUBLE, wrong_for_one_row)
    assert result.printed == "rows: 1\n", "of the input that the sentence is about"

    def endless(x, k):
        for _ in range(100):
            print("x" * 1000)
        return double(x, k)

    assert len(check(DOUBLE, endless).printed) <= limits.LONGEST_PRINT + 1


def twice_without_k(x, k):
    """Twice x, and k is left out."""
    return 2 * x


def cuts_the_gradient(x, k):
    """The value is detached, so that no gradient reaches x."""
    return double(x, k).detach()


WITH_MISTAKES = replace(DOUBLE, wrong={"no k": twice_without_k, "cut": cuts_the_gradient})


@pytest.mark.parametrize(
    "wrong, mistake",
    [
        (lambda x, k: x + x, "Twice x, and k is left out."),
        (lambda x, k: double(x, k).detach(), "The value is detached, so that no gradient"),
    ],
)
def test_an_answer_that_equals_a_known_mistake_is_named(wrong, mistake):
    assert f". This is a known mistake: {mistake}" in complaint(wrong, WITH_MISTAKES)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, k: 3 * x,
        lambda x, k: 2 * x if len(x) == 3 else 3 * x,  # the same in the first case only
        lambda x, k: 1 / 0,
        lambda x, k: double(x, k).T,
    ],
)
def test_other_wrong_answers_get_no_name(wrong):
    assert "known mistake" not in complaint(wrong, WITH_MISTAKES)


def test_a_judge_accepts_several_right_answers():
    assert check(ODD_ABOVE, odd_above).right
    assert check(ODD_ABOVE, lambda k: k + 2).right
    assert "expected odd, found 4" in complaint(lambda k: 4, ODD_ABOVE)
    assert "found 'x'" in complaint(lambda k: "x", ODD_ABOVE)


def test_a_faulty_exercise_does_not_stop_the_notebook():
    faulty = replace(DOUBLE, cases=lambda generator: {"none": (1 / 0,)})
    assert "the check itself failed (ZeroDivisionError" in complaint(double, faulty)


# --- the comparison ---


@pytest.mark.parametrize(
    "expected, answer",
    [
        (0.5, torch.tensor(0.5)),
        (True, torch.tensor(True)),
        (1.0, 1),
        ("a", "a"),
        ((1, "a"), [1, "a"]),
        (torch.zeros(2), torch.full((2,), 1e-9)),
        (0.5, torch.tensor([0.5])),
        (0.5, [0.5]),
        (torch.tensor([1.0, 2.0]), [1, 2.0]),
        (torch.tensor([1.0, 2.0]), (torch.tensor(1.0), np.float64(2.0))),
        (torch.tensor([[1, 2]]), [[1, 2]]),
        ((1.0, 2.0), torch.tensor([1.0, 2.0])),
        (torch.tensor([-torch.inf, 0.0]), torch.tensor([-torch.inf, 0.0])),
    ],
)
def test_equal_values_have_no_difference(expected, answer):
    assert difference(expected, answer) is None


@pytest.mark.parametrize(
    "expected, answer, sentence",
    [
        ({"a": 1}, {"a": 2}, "at 'a': expected 1, found 2"),
        ({"a": 1}, {"b": 1}, "expected a dict with ['a'], found a dict"),
        ((1, 2), (1, 3), "value 2 of 2: expected 2, found 3"),
        ((1, 2), (1,), "expected 2 values (a tuple), found a tuple of 1"),
        (
            torch.tensor([-torch.inf]),
            torch.tensor([-1e9]),
            "expected -inf at [0], found -1e+09 (1 of 1 values differ)",
        ),
    ],
)
def test_differences_in_words(expected, answer, sentence):
    assert difference(expected, answer) == sentence


def test_close_numbers_are_told_apart():
    assert difference(0.4170, 0.4171, 1e-6) == "expected 0.417, found 0.4171"


def test_inputs_in_words():
    assert inputs_text(double, (torch.ones(2, 3), 0.25)) == "x (2, 3), k = 0.25"
