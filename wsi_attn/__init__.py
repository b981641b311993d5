"""wsi-attn: attention models for whole-slide and microscopy images. Importing this package is cheap.

The functions of `wsi_attn.api` are attributes of the package, loaded when they are first used.
"""

import sys
from importlib import import_module
from types import ModuleType

from wsi_attn.threads import set_wait_policy

__version__ = "0.1.0"

set_wait_policy()  # OpenMP reads it when torch, scikit-learn or numba is loaded

__all__ = (
    "TileStore",
    "__version__",
    "draw_heatmap",
    "evaluate",
    "export",
    "find_tissue",
    "load_model",
    "open_slide",
    "predict_slide",
    "segment_slide",
    "tile_slide",
    "train",
)

SUBPACKAGES = frozenset({"evaluate", "export", "train"})
"""Functions that share their name with a subpackage: these subpackages are callable."""


class _CallableModule(ModuleType):
    """A subpackage that calls the function of the same name."""

    def __call__(self, *args: object, **options: object) -> object:
        return getattr(import_module("wsi_attn.api"), self.__name__.rpartition(".")[2])(*args, **options)


class _Package(ModuleType):
    """The package itself; makes a subpackage callable when its import binds it."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in SUBPACKAGES and isinstance(value, ModuleType):
            value.__class__ = _CallableModule
        super().__setattr__(name, value)


def __getattr__(name: str) -> object:
    if name in SUBPACKAGES:
        return import_module(f"{__name__}.{name}")
    if name in __all__:
        found = getattr(import_module(f"{__name__}.api"), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


sys.modules[__name__].__class__ = _Package
