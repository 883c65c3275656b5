"""The lesson layer: what a notebook needs around the science (`Lesson`), and figures that move (`Frames`, `live`)."""

from replearn.lesson.core import ClaimError, Lesson
from replearn.lesson.display import live
from replearn.lesson.frames import Frames

__all__ = ["ClaimError", "Frames", "Lesson", "live"]
