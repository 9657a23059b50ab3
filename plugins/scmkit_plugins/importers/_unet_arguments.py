"""What the pickles of NVIDIA's U-Nets say of the arguments that they were made with."""

from collections.abc import Iterable, Mapping
from typing import Any


def said(metadata: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """The `kwargs` or `modules` of a pickle's metadata; nothing where the file is none."""
    found = metadata.get(kind)
    return found if isinstance(found, Mapping) else {}


def argument(metadata: Mapping[str, Any], name: str) -> Any:
    """What a pickle says of an argument; None if nothing.

    What its modules hold is what they compute with, whatever they were made with. Raises `ValueError`
    where they differ.
    """
    found = _values(metadata, name)
    if others := [value for value in found if value != found[0]]:
        raise ValueError(f"its parts differ in {name} ({found[0]} and {others[0]})")
    return found[0] if found else None


def _values(metadata: Mapping[str, Any], name: str) -> list[Any]:
    held = [values[name] for values in said(metadata, "modules").values() if name in values]
    kwargs = said(metadata, "kwargs")
    return held or ([kwargs[name]] if name in kwargs else [])


def refuse_unknown(metadata: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raises `ValueError` for arguments that the published network does not have."""
    if odd := [name for name in said(metadata, "kwargs") if name not in set(known)]:
        given = ", ".join(f"{name}={said(metadata, 'kwargs')[name]!r}"[:80] for name in odd[:3])
        raise ValueError(f"it was made with {given}, which the published network has not")


def refuse_other(metadata: Mapping[str, Any], name: str, *supported: Any) -> None:
    """Raises `ValueError` where a pickle says another value of an argument than those supported."""
    if odd := [value for value in _values(metadata, name) if value not in supported]:
        only = " or ".join(map(str, supported))
        raise ValueError(f"it was made with {name}={odd[0]}, and only {only} is supported")


def positive(metadata: Mapping[str, Any], name: str, default: float) -> float:
    """An argument that is a number above zero; `default` where the file does not say."""
    value = argument(metadata, name)
    if value is None:
        return default
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < float("inf"):
        raise ValueError(f"it was made with {name}={value!r}, which is no number above 0")
    return float(value)
