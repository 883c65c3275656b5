"""SimCLR from pictures to a service: what notebook 12 builds. `pretrain` trains, `Recipe` says how, `export` packs.

Names load on first use: a service opens a bundle without importing torch.
"""

import importlib
import sys
import types

_HOME = {"pretrain": "pretrain", **dict.fromkeys(("live", "plot_log", "read_log"), "progress"), "export": "export",
         "open_bundle": "bundle",
         **dict.fromkeys(("COURSE", "LIGHTLY", "NAMED", "SHAPES", "SOURCE", "Recipe"), "recipe")}
__all__ = sorted(_HOME)


class _Package(types.ModuleType):
    def __setattr__(self, name, value):
        # Importing the file pretrain.py binds the name `pretrain` here to the module; it shall mean the function.
        own = name in _HOME and isinstance(value, types.ModuleType)
        super().__setattr__(name, getattr(value, name) if own else value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__():
    return [*globals(), *__all__]
