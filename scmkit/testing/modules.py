"""The rule that every Equinox module is abstract or final, which Equinox itself no longer enforces."""

import importlib
import pkgutil
from types import FunctionType, ModuleType

import equinox as eqx

from scmkit.testing.check import require


def assert_abstract_or_final(package: ModuleType) -> None:
    """Raises `AssertionError` for a module class in `package` that extends a concrete one, or that
    overrides a method that is not abstract. Imports the whole package."""
    for name in _module_names(package):
        for kind in vars(importlib.import_module(name)).values():
            if isinstance(kind, type) and issubclass(kind, eqx.Module) and kind.__module__ == name:
                _check(kind)


def _module_names(package: ModuleType) -> list[str]:
    below = pkgutil.walk_packages(getattr(package, "__path__", []), package.__name__ + ".")
    return [package.__name__, *(found.name for found in below)]


def _check(kind: type) -> None:
    here = f"{kind.__module__}.{kind.__qualname__}"
    bases = [b for b in kind.__mro__[1:] if issubclass(b, eqx.Module) and b is not eqx.Module]
    for base in bases:
        require(
            _unfinished(base),
            f"{here} extends {base.__qualname__}, which is concrete: wrap an instance of it instead",
        )
        for name in vars(kind):
            inherited = vars(base).get(name)
            dunder = name.startswith("__") and name != "__call__"
            require(
                dunder
                or not isinstance(inherited, FunctionType | property | staticmethod | classmethod)
                or getattr(inherited, "__isabstractmethod__", False),
                f"{here} overrides {base.__qualname__}.{name}, which is concrete: make it abstract "
                f"there, or wrap instead of overriding",
            )


def _unfinished(kind: type) -> bool:
    """Whether a class still has abstract methods or attributes."""
    named = ("__abstractmethods__", "__abstractvars__", "__abstractclassvars__")
    return any(getattr(kind, name, None) for name in named)
