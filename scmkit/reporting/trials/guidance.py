"""Guidance in a bench: which methods take it, and the models that are sampled with it."""

from scmkit.composing.recipe import Recipe
from scmkit.errors import UsageError
from scmkit.interfaces import AbstractModel
from scmkit.models.guided import Guided
from scmkit.plugin import Slot
from scmkit.runs.run import Run


def is_told(recipe: Recipe) -> bool:
    """Whether a recipe's model is told the strength of guidance."""
    return "guidance" in recipe.conditions


def must_take_guidance(method: str, recipe: Recipe) -> None:
    """Raises `UsageError` for a method whose samples would be the same at every strength of guidance.

    A model takes a strength that it is told, or is a diffusion model with a prediction without a label.
    """
    if is_told(recipe):
        return
    if recipe.makes != "diffusion":
        loss = recipe.slots[Slot.loss]
        ranged = "guidance_range" in recipe.plugins[loss].config
        remedy = f"; add --set {loss}.guidance_range=LOW,HIGH" if ranged else ""
        raise UsageError(
            f"guidance: '{method}' makes a {recipe.makes} model that is told no strength{remedy}"
        )
    if not recipe.data.num_classes:
        raise UsageError(
            f"guidance: '{recipe.data.source}' has no classes for '{method}' to be guided towards"
        )
    if not recipe.drops_labels:
        raise UsageError(
            f"guidance: '{method}' is trained with every label shown, and so has no prediction without one"
        )


def guided(run: Run, strength: float | None) -> AbstractModel:
    """The model to sample from: the run's own if it is told the strength, or if there is none."""
    if strength is None or is_told(run.recipe):
        return run.model
    return Guided(run.model, strength)
