"""`check`: a learner's function on trial, with a sentence for everything that can go wrong with it."""

import inspect
import os
import traceback
from dataclasses import dataclass, field

import torch

from replearn.lesson.exercises import limits as guard
from replearn.lesson.exercises.compare import difference, inputs_text, kind

GRADING_SEED = 0  # grades: everybody gets the same inputs, and the same points a second time


@dataclass(frozen=True)
class Result:
    """What `check` found: text (one sentence), score (share of inputs answered right), inputs of the first failure."""

    text: str
    score: float = 0.0
    inputs: tuple = field(default=(), repr=False)

    @property
    def right(self):
        return self.score == 1.0

    def _ipython_display_(self):
        """Nothing: `lesson.check` has printed the text, and a notebook must not show it twice."""


def check(exercise, fn, *, seed=None):
    """Run `fn` on fresh inputs (a new seed each call) beside the solution; never raises, never writes to stderr."""
    if not callable(fn):
        return Result(
            f"✗ wrong: expected a function {_signature(exercise)}, found {type(fn).__name__}"
        )
    generator = torch.Generator().manual_seed(
        int.from_bytes(os.urandom(4), "big") if seed is None else seed
    )
    passed, total, complaint, failed = 0, 1, None, ()
    try:
        # The notebook's own random stream must not depend on whether an exercise was solved.
        with (
            torch.random.fork_rng(devices=[]),
            torch.enable_grad(),
            guard.silence(),
            guard.time_limit(),
        ):
            torch.manual_seed(generator.initial_seed())
            cases = exercise.cases(generator)
            total = len(cases)
            for label, arguments in cases.items():
                failed = arguments if complaint is None else failed
                sentence = _try(exercise, fn, label, arguments, generator)
                if sentence == "":
                    return Result(_not_attempted(exercise))
                passed += sentence is None
                if sentence and complaint is None:
                    complaint = (
                        f"{sentence}, on {label}: {inputs_text(exercise.solution, arguments)}"
                    )
    except guard.TimeUp:
        complaint = (
            complaint or f"it does not come to an end: stopped after {guard.LIMIT:.0f} seconds"
        )
    except KeyboardInterrupt:
        complaint = complaint or "stopped before the end"
    except Exception as error:  # a fault of the exercise must not stop a learner's notebook
        complaint = complaint or f"the check itself failed ({type(error).__name__}: {error})"
    if complaint is None:
        return Result(f"✓ right: {exercise.name} ({total} of {total} checks)", 1.0)
    return Result(
        f"✗ wrong: {complaint} ({passed} of {total} checks right)", passed / total, failed
    )


def _try(exercise, fn, label, arguments, generator):
    """None if `fn` answers one case like the solution, "" if it is an empty stub, else a sentence."""
    inputs = _copy(arguments)
    expected = exercise.solution(*_copy(arguments))
    try:
        found = _call(exercise, fn, inputs)
    except (Exception, SystemExit) as error:
        # torch, too, raises NotImplementedError: "mean" not implemented for 'Long'.
        stub = isinstance(error, NotImplementedError) and "not implemented for" not in str(error)
        return "" if stub else _crash(error, fn)
    if _is_stub(found):
        return ""
    if sentence := _judge(exercise, found, expected, arguments):
        return sentence
    if difference(arguments, inputs, 0.0):
        return "it changes its input: expected the arguments as they were, found one modified in place (work on a copy)"
    return _try_again(exercise, fn, label, arguments, generator)


def _try_again(exercise, fn, label, arguments, generator):
    """A second call: the same answer, and the same gradients where the exercise compares them."""
    wanted = exercise.gradient_of if label not in exercise.no_gradient else ()
    mine, theirs = _copy(arguments, wanted), _copy(arguments, wanted)
    expected = exercise.solution(*mine)
    try:
        found = _call(exercise, fn, theirs)
        if _judge(exercise, found, expected, arguments):
            return (
                "expected the same answer for the same input, found another one at the second call"
            )
        if not wanted:
            return None
        if not getattr(found, "requires_grad", False):
            return (
                "the value is right, but expected a tensor that carries gradients, found one that does not "
                "(.item(), .detach(), numpy and torch.no_grad() cut them)"
            )
        # Entries of -inf (masked logits) get no weight: no gradient passes through them later. A weighted sum, because
        # the first call of autograd.grad with grad_outputs imports for a second and a half.
        weights = torch.randn(expected.shape, generator=generator) * torch.isfinite(
            expected.detach()
        )
        found = torch.autograd.grad(
            (found * weights).sum(), [theirs[i] for i in wanted], allow_unused=True
        )
    except (Exception, SystemExit) as error:
        return _crash(error, fn)
    expected = torch.autograd.grad(
        (expected * weights).sum(), [mine[i] for i in wanted], allow_unused=True
    )
    for position, right, mine_too in zip(wanted, expected, found, strict=True):
        right, mine_too = (
            torch.zeros_like(mine[position]) if g is None else g for g in (right, mine_too)
        )
        if sentence := difference(right, mine_too, 10 * exercise.tolerance):
            name = list(inspect.signature(exercise.solution).parameters)[position]
            return f"the value is right, but its gradient with respect to {name} is not: {sentence}"
    return None


def _judge(exercise, found, expected, arguments):
    try:
        if exercise.judge:
            return exercise.judge(found, expected, *_copy(arguments))
        return difference(expected, found, exercise.tolerance)
    except Exception:  # an answer so odd that it cannot even be compared
        return f"expected {kind(expected)}, found {kind(found)}"


def _call(exercise, fn, arguments):
    try:
        inspect.signature(fn).bind(*arguments)
    except TypeError:  # perhaps keyword-only arguments
        return fn(
            **dict(zip(inspect.signature(exercise.solution).parameters, arguments, strict=True))
        )
    except ValueError:  # no signature: a built-in
        pass
    return fn(*arguments)


def _is_stub(found):
    if isinstance(found, (tuple, list)) and found:
        return all(_is_stub(item) for item in found)
    return found is None or found is ...


def _copy(value, wanted=()):
    """Arguments whose tensors are copies; those at the positions `wanted` require a gradient."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [_copy(item) for item in value]
        return type(value)(
            item.requires_grad_() if i in wanted else item for i, item in enumerate(items)
        )
    return value


def _crash(error, fn):
    filename = getattr(getattr(fn, "__code__", None), "co_filename", None)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == filename and frame.line
    ]
    where = f" in the line `{frames[-1].line[:80]}`" if frames else ""
    message = " ".join(str(error).split())
    message = message if len(message) <= 160 else message[:160] + "…"
    return f"expected a result, found {type(error).__name__}{where}" + (
        f" ({message})" if message else ""
    )


def _not_attempted(exercise):
    effort = f"difficulty {exercise.difficulty} of 3, about {exercise.minutes} minutes"
    return f'not attempted: {exercise.name} ({effort}; lesson.hint("{exercise.name}") helps)'


def _signature(exercise):
    return f"{exercise.name}{inspect.signature(exercise.solution)}"
