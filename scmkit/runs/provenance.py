"""Whether a run's `recipe.json` is what scmkit wrote, and what its newest checkpoint was trained with."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scmkit.composing.dotted import flatten
from scmkit.composing.recipe import Recipe
from scmkit.errors import CheckpointError, OptionError
from scmkit.runs import checkpoint
from scmkit.storage.containment import parse_json, read_bounded

DIGEST = "sha256"
"""The key in `recipe.json` of the SHA-256 over all its other values."""

RECORD = "recipe"
"""The key in a checkpoint's metadata of the recipe that it was trained with."""

CHANGEABLE = frozenset({"train.steps", "train.on_nonfinite"})
"""What `resume` is told to change by its options, which makes no other run of it."""


@dataclass(frozen=True)
class Standing:
    """How a run's recipe stands to what scmkit wrote.

    **Attributes:**

    - `sealed`: whether the digest in the file is that of its values; None where the file has no digest, as
        earlier versions wrote none.
    - `changes`: for every value that differs from the newest checkpoint's recipe, its present and its former
        value as text; also empty where that checkpoint has no recipe.
    - `told`: `changes` as one line; of a sealed recipe without those that `resume` makes by its options.
    """

    sealed: bool | None
    changes: Mapping[str, str]

    @property
    def told(self) -> str:
        shown = [t for k, t in self.changes.items() if not self.sealed or k not in CHANGEABLE]
        more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
        return ", ".join(shown[:5]) + more

    @property
    def how(self) -> str:
        """How an edited recipe has changed, as the end of a sentence."""
        return f"edited since scmkit wrote it{self.told and f': {self.told}'}"

    @property
    def edited(self) -> bool:
        """Whether the recipe was changed by anything but scmkit."""
        return self.sealed is False or (self.sealed is None and bool(self.changes))


def sealed_text(recipe: Recipe) -> str:
    """The content of `recipe.json`: the recipe and its digest."""
    content = recipe.to_json()
    return json.dumps(content | {DIGEST: _digest(content)}, indent=2) + "\n"


def standing(run: Path) -> Standing:
    """How the recipe of the run at a path stands. Raises `OSError` or `ValueError` if it cannot be read."""
    content = parse_json(read_bounded(run / "recipe.json"))
    digest = content.pop(DIGEST, None)
    sealed = None if digest is None else digest == _digest(content)
    record = _recorded(run / "checkpoints")
    return Standing(sealed, {} if record is None else _changes(record, _plain(content)))


def _recorded(checkpoints: Path) -> dict[str, Any] | None:
    """The recipe in the newest checkpoint, as this version of scmkit would write it."""
    try:
        record = checkpoint.of_latest(checkpoints, checkpoint.metadata).get(RECORD)
        return None if record is None else _plain(record)
    except (CheckpointError, OptionError):
        return None  # Verifying the checkpoint names what is wrong with it.


def _plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as JSON has it, with what later versions have added."""
    return json.loads(json.dumps(Recipe.from_json(content).to_json()))


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, str]:
    old, new = flatten(before), flatten(after)
    return {
        name: f"{_shown(name)[1:-1]} is {_shown(new.get(name))}, was {_shown(old.get(name))}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    }


def _shown(value: Any) -> str:
    # As JSON, which has no control codes.
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
