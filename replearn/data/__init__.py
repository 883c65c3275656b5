"""Data sets for the lessons, each one uint8 tensor in memory.

`load` takes a name or a folder and returns an `ImageSet`. Each data set has a file of its own in
this package, which is imported when the data set is asked for.
"""

from replearn._folders import cache_folder
from replearn.data.imageset import SIDE, ImageSet, available, load, rank_in_class

__all__ = ["SIDE", "ImageSet", "available", "cache_folder", "load", "rank_in_class"]
