"""What is wrong with a weight file, in words that are safe to print."""


class Unreadable(Exception):
    """What is wrong with a file, and what to do; `read_weights` adds its name."""


def require(condition: bool, problem: str) -> None:
    """Raises `Unreadable` for a damaged file unless the condition holds."""
    if not condition:
        raise Unreadable(f"it is damaged ({problem}); fetch it again")


def shown(value: object) -> str:
    """A name out of a file: quoted, on one line, without control characters, and short."""
    if not isinstance(value, str | int | float | bool | None):
        return f"a {type(value).__name__}"
    return ascii(value[:80] if isinstance(value, str) else value)


def listed(names: object) -> str:
    """The first few of the names in a file."""
    some = list(names) if isinstance(names, dict | list | set | tuple) else []
    return ", ".join(map(shown, some[:8])) + (", ..." if len(some) > 8 else "") or "none"
