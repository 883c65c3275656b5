"""replearn: the thin helper package under twelve notebooks on representation learning."""

import importlib

__version__ = "0.1.0"
__all__ = "audit augment data lesson losses metrics models plot probe shapes simclr train".split()


def __getattr__(name):  # submodules load on first use, so that `import replearn` costs next to nothing
    if name in __all__:
        return importlib.import_module(f"{__name__}.{'sources.' * (name == 'shapes')}{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
