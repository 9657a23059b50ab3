"""The optimizer and its learning rate, from settings that are data."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Int, PyTree

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
    moments = optax.scale_by_adam if settings.optimizer == "adam" else scale_by_radam
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


def scale_by_radam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    r"""Adam's direction times the rectification $r_n$, or the momentum alone while $\rho_n < 5$.

    $$r_n^2 = \frac{(\rho_n - 4)(\rho_n - 2)\,\rho_\infty}{(\rho_\infty - 4)(\rho_\infty - 2)\,\rho_n}$$

    (arXiv 1908.03265, Algorithm 2). `optax.scale_by_radam`, of the same state, takes $\rho_n$ as a small
    difference of large numbers: in float32 its step is off by 1% at $\beta_2 = .999$, and more above.
    """
    adam = optax.scale_by_adam(b1, b2, eps)
    longest = (1 + b2) / (1 - b2)

    def update(updates: PyTree, state: Any, params: PyTree | None = None) -> tuple[PyTree, PyTree]:
        scaled, after = adam.update(updates, state, params)
        assert isinstance(after, optax.ScaleByAdamState)
        momentum = optax.tree.bias_correction(after.mu, b1, after.count)
        rho = average_length(b2, jnp.asarray(after.count))
        tractable = rho >= 5
        square = (rho - 4) * (rho - 2) * longest / ((longest - 4) * (longest - 2) * rho)
        r = jnp.sqrt(jnp.where(tractable, square, 1))

        def rectified(adam: Array, momentum: Array) -> Array:
            return jnp.where(tractable, r.astype(adam.dtype) * adam, momentum)

        return jax.tree.map(rectified, scaled, momentum), after

    return optax.GradientTransformation(adam.init, update)


def average_length(decay: float, count: Int[Array, ""]) -> Scalar:
    r"""RAdam's $\rho_n = \rho_\infty - 2 n \beta^n / (1 - \beta^n)$ in float32, to its last digits.

    $\rho_\infty$ is $(1 + \beta)/(1 - \beta)$. With $\lambda = -\ln\beta$ and $L(z) = \coth z - 1/z$ it is
    $n - n L(n\lambda/2) + L(\lambda/2)$, in which nothing large cancels while $n\lambda$ is small.
    """
    rate, n = -math.log(max(decay, 1e-30)), count.astype(jnp.float32)
    half = rate / 2 * n

    def langevin(z: Any) -> Any:
        # Its series: the first term left out is below 1e-9 of it up to z = 1/4.
        return z * (
            1 / 3 - z**2 * (1 / 45 - z**2 * (2 / 945 - z**2 * (1 / 4725 - z**2 * 2 / 93555)))
        )

    early = n - n * langevin(jnp.minimum(half, 0.25)) + (1 / math.tanh(rate / 2) - 2 / rate)
    late = (1 + decay) / (1 - decay) - 2 * n / jnp.expm1(jnp.maximum(2 * half, 0.5))
    return jnp.where(half < 0.25, early, late)


def _down_to(end: float, remaining: Scalar) -> Scalar:
    return end + (1 - end) * remaining
