"""A network's size: parameters, operations and memory, one row for each preset."""

from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

from scmkit.errors import UsageError
from scmkit_cli.terminal import say


def print_sizes(
    name: str,
    beside: Sequence[str],
    shape: str | None,
    classes: int | None,
    settings: dict[str, Any],
) -> None:
    """The rows, each as soon as it is computed."""
    from scmkit import compose
    from scmkit.composing.entries import find
    from scmkit.composing.footprint import footprint
    from scmkit.composing.loading import load
    from scmkit.interfaces import DataSpec

    entry = find(name)
    plugin = load(entry)
    usual, usual_classes = plugin.example or ((3, 32, 32), 0)
    sides = usual if shape is None else _parsed(shape)
    count = usual_classes if classes is None else classes
    ones = (1.0,) * sides[0]
    data = DataSpec("none", sides, count, (0.0,) * sides[0], ones)
    option = f"{entry.name}.preset"
    presets = (
        get_args(get_type_hints(plugin.config).get("preset")) if option not in settings else ()
    )
    where = f"{'x'.join(map(str, sides))}" + (f", {count} classes" if count else "")
    others = "".join(f" -p {p}" for p in beside)
    say(f"size on {where}{others}; FLOPs of a forward pass, memory of a training step's sample:")
    for preset in presets or (None,):
        chosen = settings | ({option: preset} if preset else {})
        size = footprint(compose([name, *beside, "diffusion"], chosen, data=data))
        say(
            f"  {preset or '':<5} {size.parameters / 1e6:9.1f}M parameters"
            f"  {size.flops / 1e9:9.2f} GFLOP  {size.sample_bytes / 2**20:8.1f} MiB"
        )


def _parsed(shape: str) -> tuple[int, ...]:
    try:
        sides = tuple(int(part) for part in shape.split(","))
    except ValueError:
        sides = ()
    if not sides or min(sides) < 1:
        raise UsageError(f"--shape {shape}: give positive whole numbers, such as 3,64,64")
    return sides
