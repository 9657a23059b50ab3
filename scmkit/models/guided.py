"""Guidance: classifier-free guidance, autoguidance and the guidance interval, as one wrapper."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.arguments import as_strength
from scmkit.errors import UsageError
from scmkit.interfaces import UNCONDITIONED, AbstractModel, AbstractParameterization, Conditioning
from scmkit.models.change_of_process import velocity_under
from scmkit.models.inputs import Inputs
from scmkit.models.model import Model
from scmkit.types import Key, Scalar, as_time

EVERYWHERE = (0.0, float("inf"))


def interval_of(given: tuple[float, ...]) -> tuple[float, float]:
    """Two noise-to-signal ratios as an interval; everywhere for none."""
    return (given[0], given[1]) if given else EVERYWHERE


class Guided(AbstractModel):
    r"""A diffusion model pushed away from a weaker one; a model itself, for samplers and tangents.

    $$F = F_{weak} + \omega\,(F_{model} - F_{weak}), \qquad
      \omega = 1 \text{ unless } lo < \sigma/\alpha \le hi$$

    With no `guide`, the weaker model is this one without its label: classifier-free guidance
    (arXiv 2207.12598). With one, it is the guide, under the same condition: autoguidance
    (arXiv 2406.02507, Section 3). A guide that was built without classes is not told the label: this is
    classifier-free guidance again, with a separate unconditional model (EDM2, arXiv 2312.02696, Appendix A).
    `interval` is the range of noise-to-signal ratios in which guidance acts (arXiv 2404.07724). All of it is
    linear in the velocity, the denoised sample and the score alike. A strength in the condition (its scalar
    `"guidance"`) wins over `strength`; 1 is no guidance.

    **Arguments:**

    - `model`: the model to guide.
    - `guide`: the weaker model; it may be of another process and parameterization.
    - `strength`: $\omega$.
    - `interval`: `(lo, hi)`, noise-to-signal ratios.

    Raises `UsageError` for a strength that is negative or not finite; without a guide, for a model that was
    trained with every label shown; and, when called, for a strength other than 1 with neither a label nor a
    guide to lead anywhere.
    """

    model: AbstractModel
    guide: AbstractModel | None
    strength: float
    interval: tuple[float, float]
    parameterization: AbstractParameterization
    evaluations: int = eqx.field(static=True)
    noise_labels: int = eqx.field(static=True)

    def __init__(
        self,
        model: AbstractModel,
        strength: float = 1.0,
        *,
        guide: AbstractModel | None = None,
        interval: tuple[float, float] = EVERYWHERE,
    ) -> None:
        # A traced strength, such as one of many in a vmap, is not looked at.
        self.strength = as_strength(strength) if isinstance(strength, (int, float)) else strength
        if guide is None and not _inputs(model).unlabeled:
            raise UsageError(
                "this model was trained with every label shown, and has no prediction without one for "
                "guidance to lead away from; give a weaker model as the guide (--guide)"
            )
        self.model = model
        self.guide = guide
        self.interval = interval
        self.parameterization = model.parameterization
        self.evaluations = model.evaluations + (guide or model).evaluations
        self.noise_labels = model.noise_labels

    def raw(
        self,
        x_t: Float[Array, "*shape"],
        t: Scalar | float,
        cond: Conditioning = UNCONDITIONED,
        *,
        s: Scalar | float | None = None,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        _inputs(self.model).check(x_t, t, cond, s)
        label, given = cond.label, cond.scalars.get("guidance")
        strength = jnp.asarray(self.strength, jnp.float32) if given is None else given
        t = as_time(t)
        if self.guide is None and label is None:
            if given is not None or self.strength != 1:
                raise UsageError(
                    "guidance leads away from the prediction without a label, and no label was given; "
                    "give one, or a weaker model as the guide"
                )
            return self.model.raw(x_t, t, s=s, key=key)
        strong = self.model.raw(x_t, t, Conditioning(label), s=s, key=key)
        weak = self._weak(x_t, t, label, s=s, key=key)
        ratio, (low, high) = self.process.ratio(t), self.interval
        strength = jnp.where((ratio > low) & (ratio <= high), strength, 1.0)
        return weak + strength.astype(weak.dtype) * (strong - weak)

    def _weak(
        self,
        x_t: Float[Array, "*shape"],
        t: Scalar,
        label: Array | None,
        *,
        s: Scalar | float | None,
        key: Key | None,
    ) -> Float[Array, "*shape"]:
        """The weaker model's output, in units of this model's."""
        if self.guide is None:
            return self.model.raw(x_t, t, s=s, key=key)
        cond = Conditioning(None if _inputs(self.guide).classes == 0 else label)
        if eqx.tree_equal(self.guide.parameterization, self.parameterization) is True:
            return self.guide.raw(x_t, t, cond, s=s, key=key)
        # The velocity is affine in F, by numbers: v = a x_t + b F.
        velocity = velocity_under(self.process, self.guide, x_t, t, cond)
        rest = self.parameterization.velocity(jnp.zeros_like(x_t), x_t, t)
        slope = self.parameterization.velocity(jnp.ones_like(x_t), jnp.zeros_like(x_t), t)
        return (velocity - rest) / slope


def _inputs(model: AbstractModel) -> Inputs:
    """What a model takes; of one that is neither a `Model` nor a guided one nothing is known."""
    while isinstance(model, Guided):
        model = model.model
    return model.inputs if isinstance(model, Model) else Inputs()
