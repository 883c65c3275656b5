"""Self-supervised pretraining: `pretrain` trains an encoder, `Recipe` says how.

`evaluate` measures what was learned. Names load on first use, so that the command line of the
service does without PyTorch.
"""

import importlib
from typing import Any

_HOME = {  # public name: the module it comes from
    "COURSE": "replearn.pretrain.recipe",
    "LIGHTLY": "replearn.pretrain.recipe",
    "NAMED": "replearn.pretrain.recipe",
    "SHAPES": "replearn.pretrain.recipe",
    "SOURCE": "replearn.pretrain.recipe",
    "Recipe": "replearn.pretrain.recipe",
    "compare": "replearn.pretrain.report",
    "evaluate": "replearn.pretrain.evaluation",
    "TensorBoard": "replearn.pretrain.board",
    "few_shot": "replearn.pretrain.evaluation",
    "finetune": "replearn.pretrain.finetuning",
    "gallery": "replearn.pretrain.report",
    "live": "replearn.pretrain.log",
    "plot_log": "replearn.pretrain.log",
    "pretrain": "replearn.pretrain.loop",
    "probe_curve": "replearn.pretrain.report",
    "random_like": "replearn.pretrain.evaluation",
    "read_log": "replearn.pretrain.log",
    "sgd_probe": "replearn.pretrain.evaluation",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    public = [name for name in globals() if name not in ("Any", "importlib")]
    return sorted({*public, *__all__})
