"""The lesson layer: what a notebook needs around the science (`Lesson`), and figures that move (`Frames`, `live`)."""

from replearn.lesson.display import live
from replearn.lesson.frames import Frames
from replearn.lesson.lesson import ClaimError, Lesson

__all__ = ["ClaimError", "Frames", "Lesson", "live"]
