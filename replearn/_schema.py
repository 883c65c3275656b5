"""What JSON from elsewhere has to look like: one description, one check, one sentence.

A checksum says that a file is what somebody wrote, not that it is what we read. Whoever reads a
card, a checkpoint or a bundle describes it once, as a `Record`, and uses its values only after
`check` has let them pass. NumPy and the standard library only: the service imports no PyTorch.
"""

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, Protocol

MOST_BYTES = 16_000_000  # of a JSON text; ours have some thousand


class Kind(Protocol):
    """What a value has to be."""

    def fault(self, value: Any) -> str | None:
        """Return "expected …, found …", with the place before it, or None if all is well."""


@dataclass(frozen=True)
class Text:
    """A text that can be written as UTF-8.

    Args:
        least: Fewest characters.
        most: Most characters.
        pattern: A regular expression for all of it, or None.
        expected: How the error calls it.
    """

    least: int = 0
    most: int = 10_000
    pattern: str | None = None
    expected: str = "a text"

    def fault(self, value: Any) -> str | None:
        """Return what is wrong with a value, or None."""
        if not isinstance(value, str) or not self.least <= len(value) <= self.most:
            return _differs(self.expected, value)
        if self.pattern is not None and not re.fullmatch(self.pattern, value):
            return _differs(self.expected, value)
        try:
            value.encode()
        except UnicodeEncodeError:  # JSON can spell half a character
            return _differs(self.expected, value)
        return None


SHA256 = Text(pattern="[0-9a-f]{64}", expected="64 hexadecimal digits")


@dataclass(frozen=True)
class Whole:
    """A whole number in a range.

    Args:
        low: The smallest.
        high: The largest.
    """

    low: int
    high: int

    def fault(self, value: Any) -> str | None:
        """Return what is wrong with a value, or None."""
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if is_whole and self.low <= value <= self.high:
            return None
        return _differs(f"a whole number from {self.low:,} to {self.high:,}", value)


@dataclass(frozen=True)
class Number:
    """A finite number in a range.

    Args:
        low: The smallest.
        high: The largest.
    """

    low: float = -math.inf
    high: float = math.inf

    def fault(self, value: Any) -> str | None:
        """Return what is wrong with a value, or None."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and self.low <= value <= self.high and abs(value) < math.inf:
            return None
        expected = "a finite number"
        if self.low > -math.inf:
            expected = f"a finite number of {self.low:g} or more"
        return _differs(expected, value)


@dataclass(frozen=True)
class Choice:
    """One of some texts.

    Args:
        options: The texts.
    """

    options: tuple[str, ...]

    def fault(self, value: Any) -> str | None:
        """Return what is wrong with a value, or None."""
        if isinstance(value, str) and value in self.options:
            return None
        return _differs(" or ".join(self.options), value)


@dataclass(frozen=True)
class EmptyOr:
    """An object without entries, or one of another kind.

    Args:
        kind: The other kind.
    """

    kind: Kind

    def fault(self, value: Any) -> str | None:
        """Return what is wrong with a value, or None."""
        return None if value == {} else self.kind.fault(value)


@dataclass(frozen=True)
class Row:
    """A list with one value of each of these kinds, in their order.

    Args:
        kinds: The kinds.
        expected: How the error calls the list.
    """

    kinds: tuple[Kind, ...]
    expected: str

    def fault(self, value: Any) -> str | None:
        """Return what is wrong with a value, or None."""
        if not isinstance(value, list) or len(value) != len(self.kinds):
            return _differs(self.expected, value)
        for index, (kind, item) in enumerate(zip(self.kinds, value, strict=True)):
            fault = kind.fault(item)
            if fault is not None:
                return _at(f"[{index}]", fault)
        return None


@dataclass(frozen=True)
class ListOf:
    """A list of values of one kind.

    Args:
        kind: The kind.
        most: The longest list.
    """

    kind: Kind
    most: int = 10_000

    def fault(self, value: Any) -> str | None:
        """Return what is wrong with a value, or None."""
        if not isinstance(value, list) or len(value) > self.most:
            return _differs(f"a list of at most {self.most:,}", value)
        for index, item in enumerate(value):
            fault = self.kind.fault(item)
            if fault is not None:
                return _at(f"[{index}]", fault)
        return None


@dataclass(frozen=True)
class Names:
    """A list of different texts.

    Args:
        most: The longest list.
    """

    most: int = 100_000

    def fault(self, value: Any) -> str | None:
        """Return what is wrong with a value, or None."""
        if not isinstance(value, list) or not 1 <= len(value) <= self.most:
            return _differs(f"a list of 1 to {self.most:,} names", value)
        name = Text(least=1, most=1000, expected="a name")
        seen = set()
        for index, item in enumerate(value):
            fault = name.fault(item)
            if fault is not None:
                return _at(f"[{index}]", fault)
            if item in seen:
                return _at(f"[{index}]", f"expected different names, found {item[:60]!r} twice")
            seen.add(item)
        return None


@dataclass(frozen=True)
class Record:
    """An object with these entries. Whatever else it holds is not looked at.

    Args:
        needed: Entries that have to be there.
        optional: Entries that may be there.
    """

    needed: dict[str, Kind] = field(default_factory=dict)
    optional: dict[str, Kind] = field(default_factory=dict)

    def fault(self, value: Any) -> str | None:
        """Return what is wrong with a value, or None."""
        if not isinstance(value, dict):
            return _differs("an object with entries", value)
        for name in self.needed:
            if name not in value:
                return f"expected the entry {name!r}, found none"
        for name, kind in {**self.needed, **self.optional}.items():
            fault = kind.fault(value[name]) if name in value else None
            if fault is not None:
                return _at(name, fault)
        return None


def check(source: Any, value: Any, kind: Kind, *, remedy: str) -> None:
    """Raise unless a value is of a kind.

    Args:
        source: What the error calls the value, such as its path.
        value: What `parse` returned.
        kind: What it has to be.
        remedy: What to do about it, the end of the sentence.

    Raises:
        ValueError: It is something else.

    Example:
        >>> check("card", {"side": "32"}, Record({"side": Whole(1, 4096)}), remedy="export again")
        Traceback (most recent call last):
        ValueError: card: side: expected a whole number from 1 to 4,096, found '32'; export again
    """
    fault = kind.fault(value)
    if fault is not None:
        raise ValueError(f"{source}: {fault}; {remedy}")


def parse(content: bytes) -> Any:
    """Return what a JSON text says.

    Args:
        content: UTF-8.

    Raises:
        ValueError: It is not JSON, too long, or nested too deeply.

    Example:
        >>> parse(b'{"side": 32}')
        {'side': 32}
    """
    if len(content) > MOST_BYTES:
        raise ValueError(f"expected at most {MOST_BYTES:,} bytes, found {len(content):,}")
    try:
        return json.loads(content.decode("utf-8"))
    except RecursionError:
        raise ValueError("expected a few levels, found it nested too deeply") from None


def shown(value: Any) -> str:
    """Return a value as an error shows it: short, whatever it is.

    Args:
        value: What JSON can hold.

    Example:
        >>> shown([1, 2]), shown({"a": 1}), shown("x" * 100)
        ('a list of 2', 'an object with 1 entry', "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'…")
    """
    if isinstance(value, list):
        return f"a list of {len(value):,}"
    if isinstance(value, dict):
        entries = "entry" if len(value) == 1 else "entries"
        return f"an object with {len(value):,} {entries}"
    if isinstance(value, str) and len(value) > 40:
        return f"{value[:40]!r}…"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _differs(expected: str, value: Any) -> str:
    return f"expected {expected}, found {shown(value)}"


def _at(place: str, fault: str) -> str:
    """Put a place before a fault: "rows", "[3]: expected …" gives "rows[3]: expected …"."""
    if fault.startswith("["):
        return f"{place}{fault}"
    return f"{place}: {fault}"
