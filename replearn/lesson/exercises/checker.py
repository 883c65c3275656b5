"""`check`: a learner's function beside the solution, and a sentence for whatever goes wrong."""

import inspect
import itertools
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from replearn.lesson.exercises import limits
from replearn.lesson.exercises.compare import difference, inputs_text, kind, stacked

if TYPE_CHECKING:
    from replearn.lesson.exercises import Exercise

GRADING_SEED = 0  # for grades: everybody gets the same inputs, and the same points a second time
LONGEST_MESSAGE = 160  # characters of an error's text that are shown
LONGEST_LINE = 80  # characters of the line that raised it
LONGEST_ITERATOR = 100_000  # items that are taken from an answer that is an iterator
NAMING_SECONDS = 2.0  # that may be spent on finding the known mistake which a wrong answer equals


@dataclass(frozen=True)
class Result:
    """What `check` says of a function.

    Attributes:
        text (str): One sentence.
        score (float): The share of inputs answered right, from 0 to 1.
        inputs (tuple): The arguments that were answered wrong first, to try them again.
        printed (str): What the function printed when it was called with them; with the first
            arguments of all if none were answered wrong.
        mistake (str): The name of the known mistake that the answers equal, or "".
    """

    text: str
    score: float = 0.0
    inputs: tuple = field(default=(), repr=False)
    printed: str = field(default="", repr=False)
    mistake: str = field(default="", repr=False)

    @property
    def right(self) -> bool:
        """Whether every input was answered right."""
        return self.score == 1.0

    def _ipython_display_(self) -> None:
        """Show nothing: `lesson.check` has printed the text, and a cell must not show it twice."""


class _NotAttempted(Exception):
    """The function is an empty stub."""


@dataclass
class _Outcome:
    """What came out of one case."""

    stage: str = "right"  # or "crash", "none", "value", "input", "second call", "gradient"
    sentence: str | None = None  # None if the answer is right
    answer: Any = None


@dataclass
class _Progress:
    """How far a check has come: it may be cut off at any moment."""

    total: int = 1
    passed: int = 0
    complaint: str | None = None  # the first one
    inputs: tuple = ()  # what it is about, or the case that is being tried
    printed: str = ""
    known_mistake: str = ""  # its name
    outcomes: list[_Outcome] = field(default_factory=list)  # of the cases so far

    def complain(self, sentence: str) -> None:
        if self.complaint is None:
            self.complaint = sentence


def check(exercise: "Exercise", fn: Callable, *, seed: int | None = None) -> Result:
    """Run a function beside the solution, on fresh inputs.

    It never raises, prints nothing, and leaves torch's random stream as it was. If the answers
    equal those of a known mistake, the sentence names it.

    Args:
        exercise: What the function is an answer to.
        fn: A learner's function.
        seed: Of the inputs; None draws a new one for each call.

    Returns:
        The sentence "✓ right", "✗ wrong" or "not attempted", and the share of right answers.

    Example:
        >>> from replearn.lesson import exercises
        >>> exercise = exercises.get("06", "mask_self_pairs")
        >>> check(exercise, exercise.solution).text
        '✓ right: mask_self_pairs (4 of 4 checks)'
    """
    if not callable(fn):
        task = f"{exercise.name}{inspect.signature(exercise.solution)}"
        return Result(f"✗ wrong: expected a function {task}, found {type(fn).__name__}")
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "big")
    progress = _Progress()
    try:
        # The notebook's own random stream must not depend on whether an exercise was solved.
        with (
            torch.random.fork_rng(devices=[]),
            torch.enable_grad(),
            limits.silence() as printed,
            limits.time_limit(),
        ):
            _try_all(exercise, fn, seed, progress, printed)
    except _NotAttempted:
        return Result(_not_attempted(exercise))
    except limits.TimeUp:
        progress.complain(f"it does not come to an end: stopped after {limits.LIMIT:.0f} seconds")
    except KeyboardInterrupt:
        progress.complain("stopped before the end")
    except Exception as error:  # a fault of the exercise must not stop a learner's notebook
        progress.complain(f"the check itself failed ({type(error).__name__}: {error})")

    total = progress.total
    passed = progress.passed
    if progress.complaint is None:
        text = f"✓ right: {exercise.name} ({total} of {total} checks)"
        return Result(text, 1.0, printed=progress.printed)
    text = f"✗ wrong: {progress.complaint} ({passed} of {total} checks right)"
    mistake = progress.known_mistake
    if mistake:
        text += f". This is a known mistake: {_described(exercise.wrong[mistake])}"
    return Result(text, passed / total, progress.inputs, progress.printed, mistake)


def _try_all(
    exercise: "Exercise", fn: Callable, seed: int, progress: _Progress, printed: limits.Printed
) -> None:
    """Try all cases, and write down in `progress` what comes out."""
    cases = _cases(exercise, seed)
    progress.total = len(cases)
    for label, arguments in cases.items():
        if progress.complaint is None:
            progress.inputs = arguments
        printed.clear()
        outcome = _try(exercise, fn, label, arguments, seed, printed)
        progress.outcomes.append(outcome)
        if outcome.sentence is None:
            progress.passed += 1
        elif progress.complaint is None:
            inputs = inputs_text(exercise.solution, arguments)
            progress.complain(f"{outcome.sentence}, on {label}: {inputs}")
            progress.printed = printed.text
        if len(progress.outcomes) == 1 and progress.complaint is None:
            progress.printed = printed.text
    if progress.complaint is not None:
        progress.known_mistake = _known_mistake(exercise, seed, progress.outcomes)


def _cases(exercise: "Exercise", seed: int) -> dict[str, tuple]:
    """Return the inputs that belong to a seed."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(generator.initial_seed())
    return exercise.cases(generator)


def _try(
    exercise: "Exercise",
    fn: Callable,
    label: str,
    arguments: tuple,
    seed: int,
    printed: limits.Printed | None = None,
) -> _Outcome:
    """Return whether `fn` answers one case as the solution does, and a sentence if it does not."""
    inputs = _copy(arguments)
    expected = exercise.solution(*_copy(arguments))
    torch.manual_seed(seed)  # a mistake that draws random numbers is to be recognized, too
    try:
        answer = _call(exercise, fn, inputs)
    except (Exception, SystemExit) as error:
        # torch, too, raises NotImplementedError: "mean" not implemented for 'Long'.
        if isinstance(error, NotImplementedError) and "not implemented for" not in str(error):
            raise _NotAttempted from None
        return _Outcome("crash", _crash(error, fn))
    finally:
        if printed is not None:
            printed.close()  # what the second call prints is the same once more
    if _is_dots(answer):
        raise _NotAttempted
    if _is_none(answer):
        sentence = f"your function returned {answer}: expected {kind(expected)}, found no `return`"
        return _Outcome("none", f"{sentence} with a value")
    sentence = _judge(exercise, answer, expected, arguments)
    if sentence:
        return _Outcome("value", sentence, answer)
    if difference(arguments, inputs, 0.0):
        sentence = (
            "it changes its input: expected the arguments as they were, found one modified in "
            "place (work on a copy)"
        )
        return _Outcome("input", sentence)
    return _try_again(exercise, fn, label, arguments, seed)


def _try_again(
    exercise: "Exercise", fn: Callable, label: str, arguments: tuple, seed: int
) -> _Outcome:
    """Return whether a second call gives the same answer and the right gradients."""
    positions = exercise.gradient_of if label not in exercise.no_gradient else ()
    solution_inputs = _copy(arguments, positions)
    learner_inputs = _copy(arguments, positions)
    expected = exercise.solution(*solution_inputs)
    try:
        answer = _call(exercise, fn, learner_inputs)
        if _judge(exercise, answer, expected, arguments):
            sentence = (
                "expected the same answer for the same input, found another one at the second call"
            )
            return _Outcome("second call", sentence)
        if not positions:
            return _Outcome()
        answer = stacked(answer)
        if answer is None or not answer.requires_grad:
            sentence = (
                "the value is right, but expected a tensor that carries gradients, found one that "
                "does not (.item(), .detach(), numpy and torch.no_grad() cut them)"
            )
            return _Outcome("gradient", sentence)
        # Entries of -inf (masked logits) get no weight: no gradient passes through them later. A
        # weighted sum, because the first call of autograd.grad with grad_outputs imports for a
        # second and a half.
        finite = torch.isfinite(expected.detach())
        generator = torch.Generator().manual_seed(seed)
        weights = torch.randn(expected.shape, generator=generator) * finite
        # A single number may come as a tensor of shape (1,).
        answered = _gradients(
            (answer.reshape(expected.shape) * weights).sum(), learner_inputs, positions
        )
    except (Exception, SystemExit) as error:
        return _Outcome("crash", _crash(error, fn))
    wanted = _gradients((expected * weights).sum(), solution_inputs, positions)
    parameters = list(inspect.signature(exercise.solution).parameters)
    for i, position in enumerate(positions):
        sentence = difference(wanted[i], answered[i], 10 * exercise.tolerance)
        if sentence:
            sentence = (
                "the value is right, but its gradient with respect to "
                f"{parameters[position]} is not: {sentence}"
            )
            return _Outcome("gradient", sentence)
    return _Outcome()


def _known_mistake(exercise: "Exercise", seed: int, outcomes: list[_Outcome]) -> str:
    """Return the name of the first known mistake that gives the same in every case, or ""."""
    if not any(outcome.stage in ("value", "gradient") for outcome in outcomes):
        return ""  # a crash says by itself what is wrong
    deadline = time.perf_counter() + NAMING_SECONDS
    for name, mistake in exercise.wrong.items():
        if time.perf_counter() > deadline:
            return ""
        if _gives_the_same(exercise, mistake, seed, outcomes):
            return name if _described(mistake) else ""
    return ""


def _described(mistake: Callable) -> str:
    """Return what is wrong with a known mistake, from its docstring."""
    description = inspect.getdoc(mistake) or ""
    return " ".join(description.split("\n\n")[0].split())


def _gives_the_same(
    exercise: "Exercise", mistake: Callable, seed: int, outcomes: list[_Outcome]
) -> bool:
    """Return whether a mistaken function has the same outcome as the learner's, case by case."""
    cases = _cases(exercise, seed)  # anew: a mistake may have changed a network among the inputs
    for (label, arguments), outcome in zip(cases.items(), outcomes, strict=True):
        try:
            other = _try(exercise, mistake, label, arguments, seed)
        except _NotAttempted:
            return False
        if other.stage != outcome.stage:
            return False
        if outcome.stage == "gradient" and other.sentence != outcome.sentence:
            return False
        if outcome.stage == "value" and not _same_answer(exercise, other, outcome):
            return False
    return True


def _same_answer(exercise: "Exercise", one: _Outcome, other: _Outcome) -> bool:
    """Return whether two wrong answers are equal; if a judge decides, whether it says the same."""
    if exercise.judge:
        return one.sentence == other.sentence
    try:
        return difference(one.answer, other.answer, exercise.tolerance) is None
    except Exception:  # an answer so odd that it cannot even be compared
        return False


def _gradients(
    value: torch.Tensor, arguments: Sequence, positions: Sequence[int]
) -> list[torch.Tensor]:
    """Return the gradient of one number for each argument at these positions, zero without one."""
    inputs = [arguments[position] for position in positions]
    gradients = torch.autograd.grad(value, inputs, allow_unused=True)
    filled = []
    for argument, gradient in zip(inputs, gradients, strict=True):
        filled.append(torch.zeros_like(argument) if gradient is None else gradient)
    return filled


def _judge(exercise: "Exercise", answer: Any, expected: Any, arguments: tuple) -> str | None:
    """Return None for a right value, else a sentence."""
    try:
        if exercise.judge:
            return exercise.judge(answer, expected, *_copy(arguments))
        return difference(expected, answer, exercise.tolerance)
    except Exception:  # an answer so odd that it cannot even be compared
        return f"expected {kind(expected)}, found {kind(answer)}"


def _call(exercise: "Exercise", fn: Callable, arguments: Sequence) -> Any:
    """Call a function by position, or by name if its arguments are keyword-only.

    What a generator yields is collected in a list.
    """
    by_name = {}
    try:
        inspect.signature(fn).bind(*arguments)
    except TypeError:
        names = inspect.signature(exercise.solution).parameters
        by_name = dict(zip(names, arguments, strict=True))
    except ValueError:  # a built-in, which has no signature
        pass
    answer = fn(**by_name) if by_name else fn(*arguments)
    if isinstance(answer, Iterator):
        return list(itertools.islice(answer, LONGEST_ITERATOR))
    return answer


def _is_dots(answer: Any) -> bool:
    """Return whether an answer is `...`, or several of these."""
    if isinstance(answer, (tuple, list)) and answer:
        return all(_is_dots(item) for item in answer)
    return answer is ...


def _is_none(answer: Any) -> bool:
    """Return whether an answer is None, or several of these."""
    if isinstance(answer, (tuple, list)) and answer:
        return all(_is_none(item) for item in answer)
    return answer is None


def _copy(value: Any, gradient_of: Sequence[int] = ()) -> Any:
    """Return arguments whose tensors are copies.

    Args:
        value: A tuple of arguments, or one of them.
        gradient_of: Positions of the arguments that get to require a gradient.
    """
    if isinstance(value, torch.Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [_copy(item) for item in value]
        for position in gradient_of:
            items[position].requires_grad_()
        return type(value)(items)
    return value


def _crash(error: BaseException, fn: Callable) -> str:
    """Return a sentence about an error, with the last line of the learner's own that led to it."""
    filename = getattr(getattr(fn, "__code__", None), "co_filename", None)
    where = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == filename and frame.line:
            where = f" in the line `{frame.line[:LONGEST_LINE]}`"
    message = " ".join(str(error).split())
    if len(message) > LONGEST_MESSAGE:
        message = message[:LONGEST_MESSAGE] + "…"
    if message:
        message = f" ({message})"
    return f"expected a result, found {type(error).__name__}{where}{message}"


def _not_attempted(exercise: "Exercise") -> str:
    effort = f"difficulty {exercise.difficulty} of 3, about {exercise.minutes} minutes"
    return f'not attempted: {exercise.name} ({effort}; lesson.hint("{exercise.name}") helps)'
