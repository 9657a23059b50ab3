"""The workbench of the checks: one plugin, small data, every other slot filled by its default."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import equinox as eqx
import jax
import jax.random as jr

from scmkit.composing.build import named_key
from scmkit.composing.entries import find
from scmkit.composing.loading import load
from scmkit.composing.slots import RECIPE_SLOTS, SLOTS, class_name
from scmkit.errors import DataError
from scmkit.interfaces import DataSpec
from scmkit.models.model import Model
from scmkit.plugin import TRAINING_SLOTS, Context, Plugin, Slot
from scmkit.settings import configure
from scmkit.testing.check import require
from scmkit.testing.oracles import Gaussian, exact_model

DATA_STD = 0.25
"""Standard deviation of the Gaussian data whose exact model is the teacher."""


@dataclass(frozen=True)
class Case:
    """The data to build for, the noise process where the plugin brings none (None for the default), the
    number of noise labels, and whether the data has a noise stored with each sample."""

    name: str = ""
    shape: tuple[int, ...] = (3,)
    num_classes: int = 0
    noise: str | None = None
    noise_labels: int = 1
    paired: bool = False


class Bench:
    """Builds what a plugin puts in a slot, as a recipe would; each slot once."""

    def __init__(self, plugin: Plugin, options: Mapping[str, Any], case: Case) -> None:
        self.plugin = plugin
        self.options = options
        self.case = case
        self._built: dict[Slot, Any] = {}

    @cached_property
    def config(self) -> Any:
        """The plugin's options as an instance of its dataclass."""
        return configure(self.plugin.config, self.options, self.plugin.name)

    @property
    def data(self) -> DataSpec:
        """The data the case speaks of, already normalized."""
        channels = self.case.shape[0]
        return DataSpec(
            source="conformance",
            shape=self.case.shape,
            num_classes=self.case.num_classes,
            shift=(0.0,) * channels,
            scale=(1.0,) * channels,
            paired=self.case.paired,
        )

    def build(self, slot: Slot) -> Any:
        """The part that fills `slot`: the plugin's own, or the default plugin's."""
        if slot not in self._built:
            factory, config = self._factory(slot)
            key = named_key(jr.key(0), slot)
            self._built[slot] = _of_kind(slot, factory(config, self.context(slot), key=key))
        return self._built[slot]

    def build_free(self, slot: Slot, *args: Any) -> Any:
        """The plugin's part for a slot outside the model; its factory is given `args` besides the options."""
        return _of_kind(slot, self.plugin.provides[slot](self.config, *args))

    def context(self, slot: Slot) -> Context:
        """The context that the factory of `slot` is given."""
        teacher = None
        if slot in TRAINING_SLOTS and self.plugin.starts_from != "scratch":
            teacher = self.teacher
        return Context(
            data=self.data,
            built=_Earlier(self, slot),
            teacher=teacher,
            noise_labels=self.case.noise_labels,
            conditions=frozenset(self.plugin.conditions(self.config)),
        )

    @cached_property
    def teacher(self) -> Model:
        """A diffusion model that is exact for data `N(0, DATA_STD^2)`."""
        return exact_model(self.build(Slot.parameterization), Gaussian.isotropic(DATA_STD))

    def refuses(self, slot: Slot) -> bool:
        """Whether the plugin's factory turns this case down with a `TypeError`, `ValueError` or `DataError`.

        A network may serve images only, a parameterization one process only, a coupling paired data only.
        """
        trial = Bench(self.plugin, self.options, self.case)
        try:
            eqx.filter_eval_shape(trial.build, slot)
        except (
            jax.errors.JAXTypeError
        ):  # A factory that cannot be traced refuses nothing: it is broken.
            return False
        except (TypeError, ValueError, DataError):
            return True
        except Exception:
            return False
        return False

    def _factory(self, slot: Slot) -> tuple[Callable[..., Any], Any]:
        if slot in self.plugin.provides:
            return self.plugin.provides[slot], self.config
        name = self.case.noise if slot is Slot.noise else None
        name = name or SLOTS[slot].default_for(self.case.shape)
        if name is None:
            raise KeyError(f"{slot} (no plugin fills this slot by default)")
        other = load(find(name))
        return other.provides[slot], configure(other.config, {}, name)


class _Earlier(Mapping[Slot, Any]):
    """The slots built before one of them, each built when it is asked for."""

    def __init__(self, bench: Bench, slot: Slot) -> None:
        self._bench = bench
        self._slots = RECIPE_SLOTS[: RECIPE_SLOTS.index(slot)]

    def __getitem__(self, slot: Slot) -> Any:
        if slot not in self._slots:
            raise KeyError(f"{slot} (built before this slot: {', '.join(self._slots)})")
        return self._bench.build(slot)

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)


def _of_kind(slot: Slot, built: Any) -> Any:
    kind = SLOTS[slot].holds
    require(
        isinstance(built, kind),
        f"the factory of '{slot}' must return a {class_name(kind)}, not a {type(built).__name__}",
    )
    return built
