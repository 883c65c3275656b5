"""The lesson layer: what a notebook needs around the science.

`Lesson` is a notebook's header, budgets, predictions, claims and exercises; `Frames` and `live` are
figures that move; `have` and `folder_to_keep` ask for packages and for a place that stays.
"""

from replearn.lesson.display import live
from replearn.lesson.frames import Frames
from replearn.lesson.hosted import folder_to_keep, have
from replearn.lesson.lesson import ClaimError, Lesson

__all__ = ["ClaimError", "Frames", "Lesson", "folder_to_keep", "have", "live"]
