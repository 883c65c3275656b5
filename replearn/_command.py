"""What all commands share: every wrong use ends in one sentence, and an exit code that is not 0.

Loads nothing but the standard library.
"""

import argparse
import difflib
import math
import re
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

Result = TypeVar("Result")
MOST_SEED = 2**32 - 1  # what all generators take
INTERRUPTED = 130  # the exit code after Ctrl-C, as shells have it


class Parser(argparse.ArgumentParser):
    """A parser of arguments that says what is wrong in one sentence, without the long usage."""

    def parse_known_args(self, args=None, namespace=None):
        """Parse the arguments; unknown ones are an error of the command that they were given to."""
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._meant(unknown)}")
        return namespace, unknown

    def error(self, message: str) -> NoReturn:
        """End the process with a sentence on standard error and the exit code 2."""
        choices = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if choices:
            message += did_you_mean(choices[1], re.findall(r"[\w.:-]+", choices[2]))
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")

    def _meant(self, unknown: list[str]) -> str:
        options = [option for action in self._actions for option in action.option_strings]
        for word in unknown:
            if word.startswith("-"):
                return did_you_mean(word.split("=")[0], options)
        return ""


def did_you_mean(name: str, known: list[str] | tuple[str, ...]) -> str:
    """Return a question about the known name that is most like a wrong one.

    Args:
        name: The wrong name.
        known: All names that there are.

    Returns:
        ", did you mean …?", or nothing if none is like it.

    Example:
        >>> did_you_mean("shapes_simcrl", ["shapes_simclr", "shapes_vae"])
        ', did you mean shapes_simclr?'
        >>> did_you_mean("elephant", ["shapes_simclr", "shapes_vae"])
        ''
    """
    close = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {close[0]}?" if close else ""


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """Return a `type` for arguments that are whole numbers in a range.

    Args:
        low: The smallest.
        high: The largest, or None.

    Example:
        >>> whole(1)("20")
        20
        >>> whole(0, 65535)("-1")
        Traceback (most recent call last):
        argparse.ArgumentTypeError: expected a whole number from 0 to 65,535, found '-1'
    """
    expected = f"a whole number of {low:,} or more"
    if high is not None:
        expected = f"a whole number from {low:,} to {high:,}"

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise ArgumentTypeError(f"expected {expected}, found {_shown(text)}") from None
        if number < low or (high is not None and number > high):
            raise ArgumentTypeError(f"expected {expected}, found {_shown(text)}")
        return number

    return read


def number(low: float, *, above: bool = False) -> Callable[[str], float]:
    """Return a `type` for arguments that are finite numbers of a least size.

    Args:
        low: The smallest.
        above: Whether the smallest itself is too small.

    Example:
        >>> number(0, above=True)("0.5")
        0.5
        >>> number(0, above=True)("0")
        Traceback (most recent call last):
        argparse.ArgumentTypeError: expected a number above 0, found '0'
    """
    expected = f"a number above {low:g}" if above else f"a number of {low:g} or more"

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value < math.inf or (above and value == low):  # NaN fails every comparison
            raise ArgumentTypeError(f"expected {expected}, found {_shown(text)}")
        return value

    return read


def run(function: Callable[[argparse.Namespace], Result], args: argparse.Namespace) -> Result:
    """Run a command; a problem that a person can mend ends in a sentence.

    Args:
        function: The command.
        args: What the parser made of its arguments.

    Returns:
        What the command returns.

    Raises:
        SystemExit: There was such a problem, or Ctrl-C.
    """
    if hasattr(sys.stdout, "reconfigure"):  # a path may hold bytes that are no text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return function(args)
    except ValueError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {_of_system(error)}")
    except RuntimeError as error:
        if "home directory" not in str(error):  # of Path.expanduser
            raise
        sys.exit(
            "error: expected paths that exist here, found one that begins with ~ and the name of "
            "no user; write it without ~"
        )
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _of_system(error: OSError) -> str:
    """Return an error as a sentence; our own are sentences already."""
    if error.errno is None or error.strerror is None or error.filename is None:
        return str(error)
    path = error.filename
    if isinstance(path, bytes):
        path = path.decode("utf-8", "replace")
    return (
        f"{path}: expected a path that can be used here, found: {error.strerror}; check its "
        "spelling and its permissions, or choose another one"
    )


def _shown(text: Any) -> str:
    return repr(text) if len(text) <= 40 else f"{text[:40]!r}…"
