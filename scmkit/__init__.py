"""scmkit: continuous-time consistency models, composed from plugins.

The names here are the whole of the everyday API; plugin authors also use `scmkit.interfaces`,
`scmkit.plugin`, `scmkit.losses`, `scmkit.models`, `scmkit.sampling` and `scmkit.testing`.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from scmkit_attention.api import attention as attention

    from scmkit.composing.build import Assembly as Assembly
    from scmkit.composing.build import build as build
    from scmkit.composing.build import build_model as build_model
    from scmkit.composing.compose import compose as compose
    from scmkit.composing.datasets import dataset_of as dataset_of
    from scmkit.composing.footprint import count_parameters as count_parameters
    from scmkit.composing.recipe import Recipe as Recipe
    from scmkit.errors import ScmkitError as ScmkitError
    from scmkit.evaluation import evaluate as evaluate
    from scmkit.evaluation.likelihood import bits_per_dimension as bits_per_dimension
    from scmkit.evaluation.likelihood import log_likelihood as log_likelihood
    from scmkit.evaluation.tuning import search_angles as search_angles
    from scmkit.interfaces import Conditioning as Conditioning
    from scmkit.models.guided import Guided as Guided
    from scmkit.models.model import Model as Model
    from scmkit.plugin import Context as Context
    from scmkit.plugin import Plugin as Plugin
    from scmkit.plugin import Slot as Slot
    from scmkit.runs.run import Run as Run
    from scmkit.sampling.drawing import sample as sample
    from scmkit.settings import TrainingSettings as TrainingSettings
    from scmkit.training.pipeline import resume as resume
    from scmkit.training.pipeline import train as train

# name -> module; resolved on first use, so that `import scmkit` loads no jax.
_PUBLIC = {
    "Assembly": "scmkit.composing.build",
    "Conditioning": "scmkit.interfaces",
    "Context": "scmkit.plugin",
    "Guided": "scmkit.models.guided",
    "Model": "scmkit.models.model",
    "Plugin": "scmkit.plugin",
    "Recipe": "scmkit.composing.recipe",
    "Run": "scmkit.runs.run",
    "ScmkitError": "scmkit.errors",
    "Slot": "scmkit.plugin",
    "TrainingSettings": "scmkit.settings",
    "attention": "scmkit_attention.api",
    "bits_per_dimension": "scmkit.evaluation.likelihood",
    "build": "scmkit.composing.build",
    "build_model": "scmkit.composing.build",
    "compose": "scmkit.composing.compose",
    "count_parameters": "scmkit.composing.footprint",
    "dataset_of": "scmkit.composing.datasets",
    "evaluate": "scmkit.evaluation",
    "log_likelihood": "scmkit.evaluation.likelihood",
    "resume": "scmkit.training.pipeline",
    "sample": "scmkit.sampling.drawing",
    "search_angles": "scmkit.evaluation.tuning",
    "train": "scmkit.training.pipeline",
}


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'scmkit' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
