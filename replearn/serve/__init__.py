"""A trained encoder as a service: `export` packs a bundle, `open_bundle` reads it, `start` serves.

Names load on first use: a service opens a bundle without importing PyTorch.
"""

import importlib

_HOME = {  # public name: the module it comes from
    "create_app": "replearn.serve.process",
    "export": "replearn.serve.exporting",
    "open_bundle": "replearn.serve.bundle",
    "start": "replearn.serve.process",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    public = [name for name in globals() if name != "importlib"]
    return sorted({*public, *__all__})
