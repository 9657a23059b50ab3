"""The plan of a bench: methods on data sets over seeds, all under one budget."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scmkit.arguments import as_strength
from scmkit.composing.compose import compose
from scmkit.composing.dotted import part
from scmkit.composing.entries import find
from scmkit.composing.loading import load
from scmkit.composing.recipe import Recipe
from scmkit.errors import OptionError, UsageError, did_you_mean
from scmkit.plugin import Slot
from scmkit.reporting.trials.guidance import must_take_guidance


@dataclass(frozen=True)
class Cell:
    """One training: a method (plugins and settings, joined by commas) on a data set with a seed."""

    data: str
    method: str
    seed: int

    @property
    def path(self) -> Path:
        """The path of its run, below the bench's directory."""
        return Path(plain(self.data)) / f"{plain(self.method)}-{self.seed}"


@dataclass(frozen=True)
class Plan:
    """The runs that a bench trains and measures.

    **Attributes:**

    - `methods`: plugins joined by commas, such as `"trigflow,scd"`, and settings of that method alone,
        `"trigflow,scd,scd.constant=1"`.
    - `data`: data sets, by name or path.
    - `seeds`: seeds 0 to `seeds - 1` of training, and of evaluation.
    - `steps`, `batch_size`: the budget of every training, teachers' too; None leaves the batch size to the
        recipes.
    - `settings`: options by `PLUGIN.OPTION`, for the methods that have such a part.
    - `sampling`: numbers of sampling steps (None: each sampler's usual ones); `metrics`, `n` and `features`
        as in `scmkit.evaluate`.
    - `sampling_seeds`: sampling seeds that the values of one training are means of; intervals are over
        trainings.
    - `curve`: numbers of steps of consistency models and flow maps, which may take any; other kinds of model
        are sampled as usual. `sampling` wins over it.
    - `orders`: claims such as `"ct>ict"`, that the first metric falls from left to right, or
        `"ct>ict in recall"`, that another does.
    - `guidance`: strengths of guidance, at each of which every method is sampled; None for no guidance.
    """

    methods: Sequence[str]
    data: Sequence[str] = ("digits",)
    seeds: int = 3
    steps: int = 2000
    batch_size: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    sampling: Sequence[int] | None = None
    metrics: Sequence[str] | None = None
    n: int | None = None
    features: str | None = None
    orders: Sequence[str] = ()
    guidance: Sequence[float] | None = None
    sampling_seeds: int = 1
    curve: Sequence[int] | None = None

    def sampled(self, recipe: Recipe) -> Sequence[int] | None:
        """The numbers of sampling steps of a recipe's model; None for the usual ones."""
        any_steps = recipe.makes in ("consistency", "flow-map")
        return self.sampling or (self.curve if any_steps else None)

    def cells(self) -> list[Cell]:
        """Every training, seed by seed, so that a bench cut short has something of everything."""
        return [
            Cell(data, method, seed)
            for seed in range(self.seeds)
            for data in self.data
            for method in self.methods
        ]

    def recipe(self, cell: Cell, teacher: Path | None = None) -> Recipe:
        """A cell's recipe, with its teacher's run where that is there."""
        budget: dict[str, Any] = {"train.steps": self.steps, "train.seed": cell.seed}
        if self.batch_size is not None:
            budget["train.batch_size"] = self.batch_size
        plugins, own = parts_of(cell.method)
        if teacher is not None:  # It has had its settings.
            own = {key: value for key, value in own.items() if part(key) != "teacher"}
        settings = {**budget, **own}
        return compose(plugins, settings, data=cell.data, teacher=teacher, base=self.settings)

    def checked(self) -> dict[Cell, Recipe]:
        """The recipes of all cells, before any training: raises `UsageError` for a plan that cannot work."""
        if not self.methods or not self.data or self.seeds < 1:
            raise UsageError("a bench needs a method, a data set and a seed")
        paths = [cell.path for cell in self.cells()]
        for path in paths:
            if paths.count(path) > 1:
                raise UsageError(f"two runs would be '{path}': name each method and data set once")
        for order in self.orders:
            _, metric = claimed(order, self.methods, self.metrics)
            if metric and Slot.metric not in load(find(metric)).provides:
                raise UsageError(f"order '{order}': the plugin '{metric}' is no metric")
        recipes = {cell: self.recipe(cell) for cell in self.cells()}
        if self.guidance is not None:
            for strength in self.guidance:
                as_strength(strength)
            for cell, recipe in recipes.items():
                must_take_guidance(cell.method, recipe)
        known = {"train", "data"}
        for recipe in recipes.values():
            known |= set(recipe.plugins)
            if isinstance(recipe.teacher, Recipe):
                known |= set(recipe.teacher.plugins)
        for key in self.settings:
            section = key.partition(".")[0]
            if section not in known:
                raise OptionError(
                    f"setting '{key}': '{section}' is part of no method here"
                    f"{did_you_mean(section, known)} (parts: {', '.join(sorted(known))})"
                )
        return recipes


def parts_of(method: str) -> tuple[list[str], dict[str, str]]:
    """The plugins and the settings of a method: `SLOT=NAME` is a plugin, `PART.OPTION=VALUE` a setting."""
    plugins, settings = [], {}
    for item in method.split(","):
        key, equals, value = item.partition("=")
        if equals and "." in key:
            settings[key] = value
        else:
            plugins.append(item)
    return plugins, settings


def claimed(
    order: str, methods: Sequence[str], metrics: Sequence[str] | None = None
) -> tuple[list[str], str | None]:
    """The methods that an order such as `"ct>ict>ect in recall"` names, and its metric, if it names one.

    A method is named in whole, with its settings, or by its last plugin. Raises `UsageError` for fewer than
    two, for a name that means none of `methods` or several of them, and for a metric that is not computed.
    """
    names, _, metric = map(str.strip, order.partition(" in "))
    if metric and metrics is not None and metric not in metrics:
        raise UsageError(
            f"order '{order}': '{metric}' is no metric here{did_you_mean(metric, metrics)}"
        )
    named = []
    for name in map(str.strip, names.split(">")):
        last = {method: (parts_of(method)[0] or [""])[-1] for method in methods}
        meant = [method for method in methods if name in (method, last[method])]
        if len(meant) != 1:
            known = [*methods, *last.values()]
            which = f"means {' and '.join(meant)}" if meant else "is no method here"
            hint = "" if meant else did_you_mean(name, known)
            raise UsageError(f"order '{order}': '{name}' {which}{hint}")
        named += meant
    if len(named) < 2 or len(set(named)) < len(named):
        raise UsageError(
            f"order '{order}': join two different methods or more by '>', such as ct>ict"
        )
    return named, metric or None


def plain(name: str) -> str:
    """A name of plugins or the last part of a path as the name of a file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name.rstrip("/").rpartition("/")[2]).strip("-.")


def teacher_path(recipes: Mapping[Cell, Recipe], cell: Cell) -> Path | None:
    """The path of the teacher that a cell needs, below the bench's directory; None if it needs none.

    A teacher that another cell trains anyway is that cell's run; cells that need the same one share it.
    """
    needed = recipes[cell].teacher
    if not isinstance(needed, Recipe):
        return None
    for other, recipe in recipes.items():
        if other.data == cell.data and recipe == needed:
            return other.path
    alike = json.dumps(needed.to_json(), sort_keys=True).encode()
    return cell.path.parent / f"teacher-{hashlib.sha256(alike).hexdigest()[:8]}-{cell.seed}"
