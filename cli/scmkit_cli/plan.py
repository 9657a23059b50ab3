"""`scmkit plan`."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scmkit.bounds import LARGEST
from scmkit.errors import UsageError
from scmkit_cli.options import Settings, parse_settings, parse_shape, samples_of
from scmkit_cli.streams import alone, print_json
from scmkit_cli.tables import aligned
from scmkit_cli.terminal import say

FEW = 1e6
"""Bytes whose passing is not worth a line of the table."""

if TYPE_CHECKING:
    from scmkit import Recipe
    from scmkit.planning import Plan
    from scmkit.planning.memory import Split


def plan(
    context: typer.Context,
    recipe: Annotated[
        Path | None,
        typer.Argument(
            metavar="RECIPE",
            help="A .toml or .json file as `scmkit train --recipe` takes it, or a run.",
        ),
    ] = None,
    devices: Annotated[int, typer.Option(min=1, max=65536, help="The number of devices.")] = 8,
    mesh: Annotated[
        str | None,
        typer.Option(
            metavar="data=N,fsdp=M",
            help="How they are divided between samples and weights. Default: all for samples.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str, typer.Option(metavar="NAME", help="a100-80gb, h100, h200, b200 or tpu-v5p.")
    ] = "h100",
    plugin: Annotated[
        list[str] | None,
        typer.Option("--plugin", "-p", metavar="NAME", help="As of `scmkit train`. Repeatable."),
    ] = None,
    settings: Settings = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH",
            help="A data set. Default: the recipe's, else digits.",
            show_default=False,
        ),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(metavar="C,H,W", help="The shape of samples, where there is no data set yet."),
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=0, max=LARGEST, help="Their number of classes. Default: 0.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="A trained run, or 'none', as of `scmkit train`. Default: one like the student.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", callback=alone, help="One JSON object.")
    ] = False,
) -> None:
    """Say what a training would take on devices that are not here.

    The step is compiled as training compiles it, which takes seconds, or minutes for large networks, and no
    more memory than the compiler's. Times are bounds: a device at full speed, which no device reaches.

    Example: scmkit plan -p trigflow -p scd -p edm2 --set edm2.preset=xxl --set train.batch_size=2048
    --shape 4,64,64 --classes 1000 --devices 256 --mesh data=32,fsdp=8
    """
    # What has no use is refused before anything slow.
    if shape is not None and data is not None:
        raise UsageError(
            "--shape describes samples of which there is no data set; leave out --data"
        )
    if classes is not None and shape is None:
        raise UsageError("--classes goes with --shape")
    given = parse_settings(settings)
    described = None if shape is None else samples_of(parse_shape(shape), classes or 0)

    # XLA calls a compilation of two minutes an error; it reads this as it is loaded.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from scmkit.distribution.mesh import check_batch, parse_mesh
    from scmkit.planning import plan, pretend
    from scmkit.planning.hardware import target_of

    target_of(target)
    parse_mesh(mesh, devices)
    pretend(devices)
    composed = _composed(recipe, tuple(plugin or ()), given, described or data, teacher)
    check_batch(composed.train.batch_size, composed.train.accumulate, devices)
    say(f"compiling a step for {devices} devices; this takes minutes for large networks", err=True)
    found = plan(composed, devices=devices, mesh=mesh, target=target)
    if as_json:
        print_json(context, found.to_json())
        return
    for line in _lines(found):
        say(line)


def _composed(
    recipe: Path | None,
    named: tuple[str, ...],
    given: dict[str, Any],
    data: Any,
    teacher: str | None,
) -> "Recipe":
    """The recipe that `scmkit train` would compose, on data that need not be there, or that of a run."""
    from scmkit import compose
    from scmkit.composing.recipe import TeacherRecord
    from scmkit.composing.recipe_file import RecipeFile, override, read_recipe, read_run_recipe

    if recipe is not None and recipe.is_dir() and not (named or given or data or teacher):
        own = read_run_recipe(recipe)
        if isinstance(own.teacher, TeacherRecord):
            # A teacher inside the run is recorded relative to it.
            own = own.replace(teacher=TeacherRecord(str(recipe / own.teacher.path)))
        return own
    file = RecipeFile(named, {})
    if recipe is not None:
        path = recipe / "recipe.json" if recipe.is_dir() else recipe
        file = override(read_recipe(path), named)
    base = file.settings if file.complete else {}
    given = given if file.complete else {**file.settings, **given}
    data = data or file.spec or file.data or "digits"
    composed = compose(file.plugins, given, data=data, teacher=teacher, base=base)
    if isinstance(composed.teacher, TeacherRecord):
        theirs, ours = read_run_recipe(Path(composed.teacher.path)).data, composed.data
        for what in ("shape", "num_classes"):
            if getattr(theirs, what) != getattr(ours, what):
                raise UsageError(
                    f"teacher '{composed.teacher.path}' was trained on data of {what} "
                    f"{getattr(theirs, what)}, and this plan's is {getattr(ours, what)}; give --shape and "
                    "--classes, or --data, as the teacher has them"
                )
    return composed


def _lines(found: "Plan") -> Iterator[str]:
    target, split = found.target, found.split
    counts = ", ".join(
        f"{n / 1e6:,.1f}M" + ("" if name == "generator" else f" ({name})")
        for name, n in found.parameters.items()
    )
    per = found.batch_size // found.devices // split.accumulate
    micro = f" in {split.accumulate} micro-batches" if split.accumulate > 1 else ""
    yield f"{'network':<15} {found.network} with {found.loss}, {counts} parameters, {found.precision}"
    yield f"{'devices':<15} {found.devices} {target.name}, {split.mesh}"
    yield f"{'batch':<15} {found.batch_size:,}{micro}, {per} samples at a time on a device"
    yield ""
    yield "memory of a device"
    rows = [*found.memory.lasting.items(), ("temporary", found.memory.temporary)]
    rows.append(("together", found.memory.total))
    yield from aligned([[f"  {kind}", f"{_gb(size):>10}"] for kind, size in rows])
    share = found.memory.total / target.memory
    yield f"  {_verdict(found)}: {share:.0%} of {_gb(target.memory)}"
    yield ""
    yield "a step of a device, at the least"
    steps = [
        ("products", f"{found.flops / 1e12:.3g} TFLOP", "", found.multiplying),
        ("update", _gb(2 * found.memory.changing), "", found.updating),
    ]
    steps += [
        (one.kind, _gb(one.bytes), f"among {len(one.group)}", found.exchanging(one))
        for one in found.collectives
        if one.bytes > FEW
    ]
    yield from aligned([[f"  {a}", f"{b:>12}", c, f"{_ms(s):>10}"] for a, b, c, s in steps])
    low, high = found.step_seconds
    yield f"  together: {_ms(low)} where computing hides all that passes, {_ms(high)} where nothing"
    yield ""
    fast, slow = found.images_per_second
    yield f"{'at most':<15} {_count(slow)} to {_count(fast)} samples a second"
    least, most = found.device_hours
    yield f"{'at the least':<15} {_count(least)} to {_count(most)} device-hours for {found.steps:,} steps"
    yield ""
    yield "Temporary memory is that of XLA's program for CPUs, with attention unfused and bfloat16 in part"
    yield "as float32: a GPU's differs, and is often less. No device reaches its full speed."


def _verdict(found: "Plan") -> str:
    if found.fits:
        return "fits"
    if found.remedy is None:
        return "does not fit, nor with any mesh or micro-batch"
    return f"does not fit; {_written(found.split, found.remedy)} would"


def _written(planned: "Split", remedy: "Split") -> str:
    parts = []
    if remedy.mesh != planned.mesh:
        parts.append(f"--mesh {remedy.mesh}")
    if remedy.accumulate != planned.accumulate:
        parts.append(f"--set train.accumulate={remedy.accumulate}")
    return " ".join(parts)


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _gb(size: float) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e7 else f"{size / 1e6:,.2f} MB"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.2f} ms"
