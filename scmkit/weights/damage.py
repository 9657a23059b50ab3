"""What is wrong with a weight file."""


class Unreadable(Exception):
    """Why a file cannot be read, and what to do; `read_weights` adds its name."""


def require(condition: bool, problem: str) -> None:
    """Raises `Unreadable` with the problem unless the condition holds."""
    if not condition:
        raise Unreadable(problem)
