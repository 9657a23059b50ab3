"""A network's size: parameters, operations and memory, one row for each preset."""

from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

from scmkit_cli.options import parse_shape, samples_of
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

    entry = find(name)
    plugin = load(entry)
    usual, usual_classes = plugin.example or ((3, 32, 32), 0)
    sides = usual if shape is None else parse_shape(shape)
    count = usual_classes if classes is None else classes
    data = samples_of(sides, count)
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
