"""The talk's two tables as benches: which methods stand in them, and under what budget."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from scmkit.composing.entries import entries
from scmkit.composing.loading import load
from scmkit.composing.recipe import Recipe
from scmkit.errors import ScmkitError, UsageError
from scmkit.plugin import Slot
from scmkit.reporting.trials.plan import Cell, Plan
from scmkit.training.rehearsal import rehearse

METRICS = (
    "frechet-distance",
    "frechet-distance-infinity",
    "kernel-distance",
    "precision",
    "recall",
    "near-copies",
)
"""The columns of both tables."""

PRESETS: Mapping[str, Plan] = {
    "one": Plan((), ("digits",), seeds=3, steps=1000, metrics=METRICS),
    "two": Plan((), ("fashion-mnist",), seeds=1, steps=2000, metrics=METRICS),
}
"""Table one: every method on one data set, with one network and budget. Table two: larger images, the teacher
and the two methods of the paper in three sizes of the network."""

WIDTHS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "mlp": ("width", {"S": "160", "M": "320", "L": "640"}),
    "unet": ("channels", {"S": "32", "M": "64", "L": "96"}),
    "dit": ("width", {"S": "128", "M": "256", "L": "384"}),
}
"""The option that a network's size is told by, and its values."""


@dataclass(frozen=True)
class Setting:
    """The methods of a table, and why others cannot stand in it.

    **Attributes:**

    - `plan`: the bench.
    - `left_out`: by method, the reason.
    - `sizes`: the size of each method's network, where the table has several.
    """

    plan: Plan
    left_out: Mapping[str, str]
    sizes: Mapping[str, str]


def setting(table: str, plan: Plan) -> Setting:
    """A table, `"one"` or `"two"`, under a plan, whose methods win over the table's if it has any.

    Raises `UsageError` where no method can stand in the table.
    """
    sizes: dict[str, str] = {}
    methods = list(plan.methods)
    left_out: dict[str, str] = {}
    if not methods:
        if table == "two":
            sizes = _sized(plan)
            methods = list(sizes)
        else:
            methods, left_out = every_method()
        for method in list(methods):
            if (reason := _obstacle(replace(plan, methods=(method,)), method)) is not None:
                methods.remove(method)
                left_out[method] = reason
        if not methods and left_out:
            method, reason = next(iter(left_out.items()))
            raise UsageError(f"--table {table}: no method can stand in it; '{method}': {reason}")
    return Setting(replace(plan, methods=tuple(methods)), left_out, sizes)


def every_method() -> tuple[list[str], dict[str, str]]:
    """Every installed plugin with a loss, on TrigFlow; and those that cannot be loaded, with the reason.

    Diffusion comes first: its runs are the others' teachers.
    """
    found, broken = [], {}
    installed = entries()
    for entry in installed:
        twice = sum(other.name == entry.name for other in installed) > 1
        name = f"{entry.package}:{entry.name}" if twice else entry.name
        try:
            plugin = load(entry)
        except ScmkitError as error:
            broken[name] = str(error)
            continue
        if Slot.loss in plugin.provides:
            found.append((plugin.makes != "diffusion", f"trigflow,{name}"))
    return [method for _, method in sorted(found)], broken


def _sized(plan: Plan) -> dict[str, str]:
    """Teacher, sCT and sCD on each size of the data's network."""
    usual = replace(plan, methods=("trigflow,diffusion",))
    network = usual.recipe(Cell(plan.data[0], "trigflow,diffusion", 0)).slots[Slot.network]
    if network not in WIDTHS:
        return {f"trigflow,{loss}": "" for loss in ("diffusion", "sct", "scd")}
    option, widths = WIDTHS[network]
    return {
        f"trigflow,{loss},{network}.{option}={width}": size
        for loss in ("diffusion", "sct", "scd")
        for size, width in widths.items()
    }


def _obstacle(plan: Plan, method: str) -> str | None:
    """Why a method cannot be trained on a plan's data; None if nothing is known to be in the way."""
    for data in plan.data:
        try:
            recipe: Recipe = plan.recipe(Cell(data, method, 0))
            if Slot.coupling in recipe.slots:  # Which may need something of the data.
                rehearse(recipe)
        except ScmkitError as error:
            return str(error)
    return None
