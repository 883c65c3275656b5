"""SimCLR from pictures to a service: what notebook 12 builds. `pretrain` trains, `Recipe` says how."""

from replearn.simclr.pretrain import pretrain
from replearn.simclr.progress import live, plot_log, read_log
from replearn.simclr.recipe import COURSE, LIGHTLY, NAMED, SHAPES, SOURCE, Recipe

__all__ = ["COURSE", "LIGHTLY", "NAMED", "SHAPES", "SOURCE", "Recipe", "live", "plot_log", "pretrain", "read_log"]
