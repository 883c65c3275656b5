"""How long work speaks: what it does, about how long it takes, how far it is.

One helper for everything that takes more than a few seconds. Where a person watches, in a terminal
or a notebook, it is a bar with the time left. In a pipe or a log it is a line every few percent.
Nothing is said where REPLEARN_STATIC is 1, which is a page that nobody sees while it runs.

Loads nothing but the standard library before it draws a bar.
"""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from tqdm import tqdm

Item = TypeVar("Item")
MEASURED = 3  # steps before the time of all of them is told
LINE_EVERY = 0.05  # of the work, between two lines
LEAST_SECONDS = 2.0  # between two lines: what is quick is silent


def duration(seconds: float) -> str:
    """Return a time in words.

    Args:
        seconds: 0 or more.

    Returns:
        Seconds, minutes or hours.

    Example:
        >>> duration(40), duration(720), duration(5400)
        ('40 s', '12 min', '1.5 h')
    """
    minutes = seconds / 60
    if minutes < 1.5:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h"


def counted(count: float, noun: str) -> str:
    """Return a number of things in words.

    Args:
        count: How many.
        noun: What, in the singular.

    Example:
        >>> counted(1, "step"), counted(2000, "step"), counted(2.5, "epoch")
        ('1 step', '2,000 steps', '2.5 epochs')
    """
    number = f"{count:,}" if isinstance(count, int) else f"{count:,.4g}"
    return f"{number} {noun}" if count == 1 else f"{number} {noun}s"


def say(text: str, bar: "tqdm | None" = None) -> None:
    """Print a line of its own, above the bar; nothing where REPLEARN_STATIC is 1.

    Args:
        text: The line.
        bar: The bar that is shown, or None.
    """
    if bar is not None and not bar.disable:
        bar.write(text, file=sys.stderr)
    elif not is_static():
        print(text, file=sys.stderr, flush=True)


def is_static() -> bool:
    """Whether nobody sees what is said."""
    return os.environ.get("REPLEARN_STATIC") == "1"


def is_watched() -> bool:
    """Whether a bar can be drawn: in a terminal, or in a notebook."""
    return sys.stderr.isatty() or in_kernel()


def in_kernel() -> bool:
    """Whether this is a notebook's kernel (JupyterLab, Colab, nbclient).

    A script has none, and neither has IPython in a terminal.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return hasattr(shell, "kernel")


class Progress:
    """Shows how far a piece of work is.

    Args:
        text: What is done, such as "fine-tuning".
        total: How much there is, in steps, images or anything that can be counted.
        start: How much of it was done before, in an earlier process.
        unit: What is counted, in the singular; "%" where nothing is.
        silent: Show nothing, as in all processes but the first.
        keep: Whether a bar stays on the screen at the end.
        least_seconds: Between two lines.
    """

    def __init__(
        self,
        text: str,
        total: float,
        *,
        start: float = 0,
        unit: str = "step",
        silent: bool = False,
        keep: bool = True,
        least_seconds: float = LEAST_SECONDS,
    ) -> None:
        from tqdm.auto import tqdm

        self.text = text
        self.total = total
        self.start = start
        self.unit = unit
        self.done = start
        self.least_seconds = least_seconds
        silent = silent or is_static()
        self.bar = tqdm(
            total=total,
            initial=start,
            desc=text,
            unit=unit,
            leave=keep,
            disable=silent or not is_watched(),
        )
        self.has_lines = not silent and self.bar.disable
        self.began = time.monotonic()
        self.line_at = start  # how much was done at the last line
        self.line_time = self.began
        self.announced = False

    def show(self, done: float, note: str = "", *, always: bool = False) -> None:
        """Show how much is done.

        Args:
            done: In all, the start included.
            note: What else there is to say, such as the loss.
            always: Print a line at once where there are lines: something was measured.
        """
        self.bar.update(done - self.done)
        self.done = done
        if note:
            self.bar.set_postfix_str(note)
        if not self.has_lines:
            return
        now = time.monotonic()
        is_far = done - self.line_at >= LINE_EVERY * self.total
        is_late = now - self.line_time >= self.least_seconds
        if always or (is_far and is_late):
            say(self._line(note, now))
            self.line_at = done
            self.line_time = now

    def announce(self, done: float) -> None:
        """Say once, after a few steps, how long all of it takes; a bar says so anyway.

        Args:
            done: In all, the start included.
        """
        few = min(MEASURED, self.total - self.start)
        if self.announced or done - self.start < few:
            return
        self.announced = True
        if self.has_lines:
            left = _at_least_a_second(self._seconds_left(done, time.monotonic()))
            to_go = counted(self.total - self.start, self.unit)
            say(f"{self.text}: {to_go}, about {left}")

    def say(self, text: str) -> None:
        """Print a line of its own, above the bar."""
        say(text, self.bar)

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()

    def _line(self, note: str, now: float) -> str:
        percent = 100 * self.done / self.total
        parts = [f"{self.text}: {percent:.0f} %"]
        if self.unit != "%":
            parts.append(f"{self.unit} {_amount(self.done)} of {_amount(self.total)}")
        if note:
            parts.append(note)
        if self.done < self.total:
            parts.append(f"about {_at_least_a_second(self._seconds_left(self.done, now))} left")
        return " · ".join(parts)

    def _seconds_left(self, done: float, now: float) -> float:
        return (now - self.began) / (done - self.start) * (self.total - done)


def _amount(amount: float) -> str:
    return f"{amount:,.1f}" if isinstance(amount, float) else f"{amount:,}"


def _at_least_a_second(seconds: float) -> str:
    return duration(max(1, seconds))


def steps(items: Iterable[Item], text: str, total: int, *, unit: str = "step") -> Iterator[Item]:
    """Yield some items, and show how many of them are done.

    Args:
        items: What the work goes through.
        text: What is done, such as "training".
        total: How many items there are.
        unit: What an item is, in the singular.

    Example:
        >>> list(steps("ab", "spelling", 2))
        ['a', 'b']
    """
    progress = Progress(text, total, unit=unit, keep=False)
    try:
        for count, item in enumerate(items, start=1):
            yield item
            progress.show(count)
    finally:
        progress.close()


class Parts:
    """Shows work that has a few parts of different length, such as a report.

    Args:
        text: What is done.
        seconds: {name of a part: about how long it takes}, in their order; estimates, of which only
            the proportions count once something is done.
    """

    def __init__(self, text: str, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self.done = 0.0
        self.progress = Progress(text, 100, unit="%")

    def __call__(self, part: str) -> None:
        """Note that a part is done; a part that was not expected changes nothing."""
        self.done += self.seconds.get(part, 0.0)
        percent = 100 * self.done / sum(self.seconds.values())
        self.progress.show(round(percent, 1), part)

    def __enter__(self) -> "Parts":
        return self

    def __exit__(self, *about_an_error: object) -> None:
        self.progress.close()
