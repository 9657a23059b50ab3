"""The optimizer and its learning rate, from settings that are data."""

import math

import jax
import jax.numpy as jnp
import optax
from jaxtyping import ArrayLike, PyTree

from scmkit.settings import TrainingSettings
from scmkit.types import Scalar


def learning_rate(settings: TrainingSettings, steps: int) -> optax.Schedule:
    r"""The learning rate as a function of the updates already made, in a training of `steps`.

    $$\eta(n) = \text{lr} \cdot \min\!\left(\tfrac{n + 1}{\text{warmup}}, 1\right) \cdot d(n)$$

    where $d$ is 1 for `constant`, $1 / \sqrt{\max(n / \text{lr\_reference}, 1)}$ for `inverse-sqrt`
    (EDM2, arXiv 2312.02696, `training_loop.py`), and goes from 1 to `lr_end` between the end of the
    warmup and `steps` for `cosine` and `linear`.
    """
    span = max(steps - settings.warmup, 1)

    def schedule(count: ArrayLike) -> Scalar:
        n = jnp.asarray(count, jnp.float32)
        # n + 1, so that the first update is not spent at rate zero.
        ramp = jnp.minimum((n + 1) / max(settings.warmup, 1), 1)
        progress = jnp.clip((n - settings.warmup) / span, 0, 1)
        match settings.schedule:
            case "constant":
                decay = jnp.ones_like(n)
            case "inverse-sqrt":
                decay = 1 / jnp.sqrt(jnp.maximum(n / settings.lr_reference, 1))
            case "cosine":
                decay = _down_to(settings.lr_end, (1 + jnp.cos(math.pi * progress)) / 2)
            case "linear":
                decay = _down_to(settings.lr_end, 1 - progress)
        return settings.lr * ramp * decay

    return schedule


def build_optimizer(settings: TrainingSettings, steps: int) -> optax.GradientTransformation:
    """Clipping to a global norm, Adam or RAdam, and the learning rate of a training of `steps`.

    One call is one update: gradients that accumulate are averaged before it, so that the schedule,
    the moments and the EMA all count the same steps.
    """
    moments = optax.scale_by_adam if settings.optimizer == "adam" else optax.scale_by_radam
    inner = optax.chain(
        optax.clip_by_global_norm(settings.clip) if settings.clip else optax.identity(),
        moments(b1=settings.beta1, b2=settings.beta2, eps=settings.epsilon),
        optax.scale_by_learning_rate(learning_rate(settings, steps)),
    )

    def update(
        updates: PyTree, state: PyTree, params: PyTree | None = None
    ) -> tuple[PyTree, PyTree]:
        # optax mixes dtypes (0.9 ** count), which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            return inner.update(updates, state, params)

    return optax.GradientTransformation(inner.init, update)


def _down_to(end: float, remaining: Scalar) -> Scalar:
    return end + (1 - end) * remaining
