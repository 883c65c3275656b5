"""replearn: the thin helper package under twelve notebooks on representation learning."""

import importlib

__version__ = "0.1.0"

# Submodules load on first use, so that `import replearn` costs next to nothing.
__all__ = [
    "audit",
    "augment",
    "data",
    "files",
    "lesson",
    "losses",
    "metrics",
    "models",
    "plot",
    "pretrain",
    "probe",
    "serve",
    "train",
]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    public = [name for name in globals() if name != "importlib"]
    return sorted({*public, *__all__})
