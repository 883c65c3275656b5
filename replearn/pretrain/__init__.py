"""Self-supervised pretraining: `pretrain` trains an encoder, a `Recipe` says how, `evaluate` measures it.

Names load on first use, so that the command line of the service does without PyTorch.
"""

import importlib

_HOME = {  # public name: the module it comes from
    "COURSE": "replearn.pretrain.recipe",
    "LIGHTLY": "replearn.pretrain.recipe",
    "NAMED": "replearn.pretrain.recipe",
    "SHAPES": "replearn.pretrain.recipe",
    "SOURCE": "replearn.pretrain.recipe",
    "Recipe": "replearn.pretrain.recipe",
    "evaluate": "replearn.pretrain.evaluation",
    "live": "replearn.pretrain.log",
    "load_encoder": "replearn.pretrain.evaluation",
    "plot_log": "replearn.pretrain.log",
    "pretrain": "replearn.pretrain.loop",
    "read_log": "replearn.pretrain.log",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    public = [name for name in globals() if name != "importlib"]
    return sorted({*public, *__all__})
