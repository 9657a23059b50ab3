"""Settings: frozen dataclasses filled from strings, JSON or Python values, and checked."""

import ast
import dataclasses
import inspect
import itertools
import json
import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from pydantic import TypeAdapter, ValidationError

from scmkit.bounds import LARGEST, LAST_SEED
from scmkit.errors import OptionError, brief, did_you_mean

C = TypeVar("C")


@dataclass(frozen=True)
class DataSettings:
    """How data is normalized."""

    sigma_data: Annotated[float, Gt(0)] = 0.5
    """Standard deviation of the data as the model sees it."""
    clip: bool = True
    """Whether samples of rank 3 are images, clipped to [-1, 1]; set it to false for latents."""


EMA_PROFILES = ("power", "half-life", "none")
"""The profiles by which weights are averaged."""


def ema_profile(text: str) -> tuple[str, float]:
    """The name and the number of `power:SIGMA_REL`, `half-life:IMAGES` or `none`; raises `ValueError`."""
    name, _, value = text.partition(":")
    remedy = "give power:WIDTH (power:0.05), half-life:IMAGES (half-life:500000) or none"
    if name not in EMA_PROFILES:
        raise ValueError(f"unknown EMA '{text}'{did_you_mean(name, EMA_PROFILES)}; {remedy}")
    if text == "none":
        return name, 0.0
    try:
        number = float(value) if name != "none" else None
    except ValueError:
        number = None
    if number is None:
        expected = "nothing after 'none'" if name == "none" else f"a number after '{name}:'"
        raise ValueError(f"EMA '{text}' should have {expected}; {remedy}")
    return name, number


@dataclass(frozen=True)
class TrainingSettings:
    """Everything about a run that is not a plugin's."""

    steps: Annotated[int, Gt(0), Le(LARGEST)] = 10_000
    """Optimizer steps."""
    batch_size: Annotated[int, Gt(0), Le(LARGEST)] = 128
    """Samples per optimizer step, over all micro-batches."""
    accumulate: Annotated[int, Gt(0), Le(LARGEST)] = 1
    """Micro-batches per optimizer step; must divide `batch_size`."""
    seed: Annotated[int, Ge(0), Le(LAST_SEED)] = 0
    """Seed of everything random in the run."""
    optimizer: Literal["adam", "radam"] = "adam"
    """The optimizer."""
    lr: Annotated[float, Gt(0)] = 1e-3
    """Peak learning rate."""
    schedule: Literal["constant", "cosine", "linear", "inverse-sqrt"] = "constant"
    """Learning-rate schedule after the warmup."""
    warmup: Annotated[int, Ge(0), Le(LARGEST)] = 0
    """Steps of linear learning-rate warmup."""
    lr_reference: Annotated[int, Gt(0), Le(LARGEST)] = 35_000
    """Step after which `inverse-sqrt` decays (EDM2's t_ref)."""
    lr_end: Annotated[float, Ge(0), Le(1)] = 0.0
    """Final fraction of `lr` for `cosine` and `linear`."""
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Decay of the first moment."""
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.99
    """Decay of the second moment."""
    epsilon: Annotated[float, Gt(0)] = 1e-8
    """Denominator offset of the optimizer."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Dtype in which the network computes; weights, time and the loss stay float32."""
    clip: Annotated[float, Ge(0)] = 0.0
    """Global gradient-norm limit; 0 switches clipping off."""
    ema: str = "power:0.05"
    """Weight averaging: `power:SIGMA_REL`, `half-life:IMAGES` or `none`."""
    log_every: Annotated[int, Gt(0), Le(LARGEST)] = 50
    """Steps between lines of `metrics.jsonl`."""
    sample_every: Annotated[int, Ge(0), Le(LARGEST)] = 0
    """Steps between sample grids; 0 draws four during the run."""
    checkpoint_every: Annotated[int, Ge(0), Le(LARGEST)] = 0
    """Steps between checkpoints; 0 saves four during the run, the last at its end."""
    keep: Annotated[int, Ge(0), Le(LARGEST)] = 2
    """Checkpoints to keep; 0 keeps all."""
    on_nonfinite: Literal["stop", "skip", "rollback"] = "stop"
    """At a loss or gradient that is not finite: stop, skip the batch, or go back to the last checkpoint."""
    nonfinite_limit: Annotated[int, Gt(0), Le(LARGEST)] = 10
    """Faults in a row after which `skip` and `rollback` stop too."""

    def __post_init__(self) -> None:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate={self.accumulate} does not divide batch_size={self.batch_size}"
            )
        ema_profile(self.ema)


PLAYER_OPTIONS = (
    "optimizer",
    "lr",
    "schedule",
    "warmup",
    "lr_reference",
    "lr_end",
    "beta1",
    "beta2",
    "epsilon",
    "clip",
    "ema",
)
"""The training settings that a player beside the generator may have of its own."""


@cache
def _adapters(config_type: type) -> dict[str, tuple[Any, TypeAdapter]]:
    hints = get_type_hints(config_type, include_extras=True)
    plain = get_type_hints(config_type)
    return {
        f.name: (plain[f.name], TypeAdapter(hints[f.name])) for f in dataclasses.fields(config_type)
    }


def _from_text(text: str, wanted: Any) -> Any:
    """A command line's string as JSON where it is JSON, as a list where a tuple is wanted."""
    if wanted is str:
        return text
    listed = get_origin(wanted) is tuple and not text.lstrip().startswith("[")
    try:
        return json.loads(f"[{text}]" if listed else text)
    except (ValueError, RecursionError):
        return [part.strip() for part in text.split(",")] if listed else text


def configure(config_type: type[C], given: Mapping[str, Any], owner: str) -> C:
    """An instance of the dataclass `config_type` with the `given` options, coerced and checked.

    Strings are read as the option's type. Raises `OptionError` naming `owner.option` for an unknown
    option or a value that does not fit.
    """
    adapters = _adapters(config_type)
    values = {}
    for name, value in given.items():
        if name not in adapters:
            known = f"its options: {', '.join(adapters)}" if adapters else "it has none"
            raise OptionError(
                f"'{owner}' has no option '{name}'{did_you_mean(name, adapters)} ({known})"
            )
        wanted, adapter = adapters[name]
        parsed = _from_text(value, wanted) if isinstance(value, str) else value
        try:
            # Pydantic takes true for 1, which nobody who writes it means.
            if isinstance(parsed, bool) and wanted in (int, float):
                raise ValueError(f"input should be a valid {_shown(wanted)}")
            values[name] = _validated(adapter, parsed, value)
        except ValueError as error:
            detail = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise OptionError(
                f"option '{owner}.{name}': bad value {brief(value)}: {detail.lower()}"
            ) from None
    try:
        return config_type(**values)
    except (TypeError, ValueError) as error:
        raise OptionError(f"options of '{owner}': {error}") from None


def _validated(adapter: Any, parsed: Any, given: Any) -> Any:
    try:
        value = adapter.validate_python(parsed)
    except ValidationError as error:
        if parsed is given or not isinstance(given, str):
            raise
        # A name that happens to be JSON, such as "1" for `str | None`.
        try:
            value = adapter.validate_python(given)
        except ValidationError:
            raise error from None
    flat = value if isinstance(value, tuple) else (value,)
    if any(isinstance(v, float) and not math.isfinite(v) for v in flat):
        raise ValueError("input should be a finite number")
    return value


@dataclass(frozen=True)
class OptionHelp:
    """One option as listings show it."""

    name: str
    type: str
    default: Any
    summary: str


def option_help(config_type: type) -> list[OptionHelp]:
    """Every option of a dataclass; the summary is the docstring under its field."""
    hints = get_type_hints(config_type)
    docs: dict[str, str] = {}
    for base in reversed(config_type.__mro__[:-1]):
        docs |= _field_docstrings(base)
    return [
        OptionHelp(f.name, _shown(hints[f.name]), f.default, docs.get(f.name, ""))
        for f in dataclasses.fields(config_type)
    ]


def _shown(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " | ".join(map(str, get_args(hint)))
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)


def _field_docstrings(config_type: type) -> dict[str, str]:
    """The string literals below a class's fields, which Python itself drops."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(config_type))).body[0]
    except (OSError, TypeError, SyntaxError):
        return {}
    found = {}
    for node, below in itertools.pairwise(getattr(body, "body", [])):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            found[node.target.id] = " ".join(below.value.value.split())
    return found
