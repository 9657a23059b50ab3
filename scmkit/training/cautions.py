"""What a training is likely to fail by, told in a line each before its first step."""

from collections.abc import Iterator
from math import prod

from scmkit.composing.build import Assembly
from scmkit.composing.recipe import Recipe
from scmkit.composing.slots import SLOTS
from scmkit.plugin import Slot
from scmkit.runs.run import Run
from scmkit.training.progress import Reporter
from scmkit.training.turning import turning

FEW_VALUES = 2
"""Values of a sample up to which a residual that is divided by its own size misleads."""

FASTEST = 3.0
"""The turning up to which a model is calm. Time features of TrigFlow's label give up to 0.1, EDM2's 1.6,
Fourier features of scale 16 some 30; trained networks 0.6 where they are slow, and up to 35."""


def caution(recipe: Recipe, assembly: Assembly, teacher: Run | None, reporter: Reporter) -> None:
    """Say what of a recipe and the modules it starts from is likely to make its training fail."""
    for line in (*_biased(recipe), *_fast(recipe, assembly, teacher)):
        reporter.message(line)


def _biased(recipe: Recipe) -> Iterator[str]:
    """Whether residuals that are divided by their own size lead astray.

    They estimate a kind of median. Of a noisy target that is not the mean, unless many values of a sample
    average the noise out; a teacher's target has none.
    """
    values = prod(recipe.data.shape)
    taught = recipe.plugin(recipe.slots[Slot.tangent])[1].starts_from == "teacher"
    if values > FEW_VALUES or taught:
        return
    for slot in (Slot.loss, Slot.distance):
        if slot not in recipe.slots:
            continue
        _, plugin, config = recipe.plugin(recipe.slots[slot])
        if remedy := plugin.normalizes(config):
            of = "one value" if values == 1 else f"{values} values"
            yield (
                f"'{plugin.name}' weighs each sample's residual by its size, which makes the model biased on "
                f"samples of {of}; without it: {remedy}"
            )


def _fast(recipe: Recipe, assembly: Assembly, teacher: Run | None) -> Iterator[str]:
    """Whether a network that is to be differentiated in time turns too fast in it."""
    loss = recipe.plugin(recipe.slots[Slot.loss])[1]
    if not loss.differentiates:
        return
    models = [("the model", recipe, assembly.model)]
    if teacher is not None:
        models.append((f"teacher '{teacher.path}'", teacher.recipe, teacher.model))
    measured = [(turning(recipe, m, assembly.proposal), whose, made) for whose, made, m in models]
    turns, whose, made = max(measured, key=lambda one: max(one[0]))
    if max(turns) > FASTEST:
        yield (
            f"{whose} turns fast in time, which '{loss.name}' differentiates: in an e-fold of sigma/alpha "
            f"its features by {turns.features:.3g} of their RMS, its output by {turns.network:.3g} (calm: up "
            f"to {FASTEST:g}); calmer with {_calmer(made)}"
        )


def _calmer(recipe: Recipe) -> str:
    """What to add to the command that trains a model, for time features that turn slower."""
    names = dict.fromkeys(recipe.slots[slot] for slot in (Slot.embedding, Slot.parameterization))
    found = []
    for name in names:
        usual = recipe.plugin(name)[1].config()
        found += [
            f"--set {name}.{option}={getattr(usual, option)} (now {value})"
            for option, value in recipe.plugins[name].config.items()
            if isinstance(value, float) and value != getattr(usual, option)
        ]
    default = SLOTS[Slot.embedding].default_for(recipe.data.shape)
    if recipe.slots[Slot.embedding] != default:
        found.append(f"--plugin embedding={default}")
    return " or ".join(found) or "a slower noise label, such as --plugin trigflow"
