"""scmkit: continuous-time consistency models, composed from plugins.

The names here are the whole of the everyday API; plugin authors also use `scmkit.interfaces`,
`scmkit.plugin`, `scmkit.sampling`, `scmkit.conditioning`, `scmkit.consistency`, `scmkit.conversion` and
`scmkit.testing`.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from scmkit.assembly import Assembly as Assembly
    from scmkit.assembly import build as build
    from scmkit.assembly import build_model as build_model
    from scmkit.composition import compose as compose
    from scmkit.composition import dataset_of as dataset_of
    from scmkit.errors import ScmkitError as ScmkitError
    from scmkit.evaluation import evaluate as evaluate
    from scmkit.footprint import count_parameters as count_parameters
    from scmkit.fused_attention.api import attention as attention
    from scmkit.guidance import Guided as Guided
    from scmkit.interfaces import Conditioning as Conditioning
    from scmkit.likelihood import bits_per_dimension as bits_per_dimension
    from scmkit.likelihood import log_likelihood as log_likelihood
    from scmkit.model import Model as Model
    from scmkit.plugin import Context as Context
    from scmkit.plugin import Plugin as Plugin
    from scmkit.plugin import Slot as Slot
    from scmkit.recipe import Recipe as Recipe
    from scmkit.sampling.drawing import sample as sample
    from scmkit.settings import TrainingSettings as TrainingSettings
    from scmkit.training.pipeline import resume as resume
    from scmkit.training.pipeline import train as train
    from scmkit.training.run import Run as Run
    from scmkit.tuning import search_angles as search_angles

# name -> module; resolved on first use, so that `import scmkit` loads no jax.
_PUBLIC = {
    "Assembly": "scmkit.assembly",
    "Conditioning": "scmkit.interfaces",
    "Context": "scmkit.plugin",
    "Guided": "scmkit.guidance",
    "Model": "scmkit.model",
    "Plugin": "scmkit.plugin",
    "Recipe": "scmkit.recipe",
    "Run": "scmkit.training.run",
    "ScmkitError": "scmkit.errors",
    "Slot": "scmkit.plugin",
    "TrainingSettings": "scmkit.settings",
    "attention": "scmkit.fused_attention.api",
    "bits_per_dimension": "scmkit.likelihood",
    "build": "scmkit.assembly",
    "build_model": "scmkit.assembly",
    "compose": "scmkit.composition",
    "count_parameters": "scmkit.footprint",
    "dataset_of": "scmkit.composition",
    "evaluate": "scmkit.evaluation",
    "log_likelihood": "scmkit.likelihood",
    "resume": "scmkit.training.pipeline",
    "sample": "scmkit.sampling.drawing",
    "search_angles": "scmkit.tuning",
    "train": "scmkit.training.pipeline",
}


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'scmkit' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
