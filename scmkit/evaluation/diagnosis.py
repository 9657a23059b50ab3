"""Stability: how large the parts of a consistency tangent are along the noise levels."""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from scmkit.arguments import as_count, as_seed
from scmkit.composing.blame import blaming
from scmkit.composing.datasets import dataset_of
from scmkit.interfaces import AbstractModel, Conditioning
from scmkit.runs.run import Run
from scmkit.types import Scalar


@dataclass(frozen=True)
class TangentNorms:
    r"""RMS norms of the parts of $df/d\theta$ at each angle, averages over samples.

    $$\frac{df}{d\theta} = \underbrace{\nabla_x f \cdot \tfrac{dx}{d\theta}}_{space}
        + \underbrace{\partial_\theta f}_{time}$$

    `angle` is TrigFlow's time in radians whatever the process, so that formulations can be compared
    (arXiv 2410.11081, Figure 4).
    """

    angle: Float[np.ndarray, " points"]
    space: Float[np.ndarray, " points"]
    time: Float[np.ndarray, " points"]
    total: Float[np.ndarray, " points"]


@blaming()
def tangent_norms(run: Run, *, points: int = 64, samples: int = 256, seed: int = 0) -> TangentNorms:
    """The norms along a run's noise levels, on noisy training data.

    The path is the PF-ODE of a diffusion model, and the data's (`dx/dt` of sCT) for a consistency
    model, which has no ODE of its own.
    """
    points, samples = as_count(points, "points", least=2), as_count(samples, "samples")
    seed = as_seed(seed)
    dataset, data, model = dataset_of(run.recipe), run.recipe.data, run.model
    rng = np.random.default_rng(seed)
    size = dataset.size("train")
    chosen = np.sort(rng.choice(size, min(samples, size), replace=False))
    raw, labels = dataset.read("train", chosen)
    x0 = jnp.asarray(data.normalize(raw))
    eps = jr.normal(jr.key(seed), x0.shape)
    cond = Conditioning(None if labels is None else jnp.asarray(labels))
    last = np.arctan(model.process.ratio_max / data.sigma_data)
    angles = np.linspace(0.01, last, points, dtype=np.float32)
    diffusion = run.recipe.makes == "diffusion"

    @eqx.filter_jit
    def at(model: AbstractModel, angle: Scalar) -> Float[Array, " 3"]:
        def one(x0: Array, eps: Array, cond: Conditioning) -> Float[Array, " 3"]:
            parts = _parts(model, x0, eps, angle, cond, diffusion=diffusion)
            return jnp.stack([jnp.sqrt(jnp.mean(a**2)) for a in (*parts, sum(parts))])

        return jnp.mean(jax.vmap(one)(x0, eps, cond), axis=0)

    norms = np.stack([at(model, jnp.asarray(angle)) for angle in angles])
    return TangentNorms(angles, *norms.T)


def _parts(
    model: AbstractModel,
    x0: Float[Array, "*shape"],
    eps: Float[Array, "*shape"],
    angle: Scalar,
    cond: Conditioning,
    *,
    diffusion: bool,
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """The two parts at `x = cos x0 + sin sigma_d eps`, in TrigFlow's angle."""
    sigma_data = model.parameterization.sigma_data
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x, z = cos * x0 + sin * sigma_data * eps, sigma_data * eps

    def f(x: Float[Array, "*shape"], angle: Scalar) -> Float[Array, "*shape"]:
        # The model's own time and scale at this angle (arXiv 2410.11081, Appendix B).
        t = model.process.time_at(sigma_data * jnp.tan(angle))
        return model.denoise(x * model.process.alpha(t) / jnp.cos(angle), t, cond)

    dx = (cos * x - f(x, angle)) / sin if diffusion else cos * z - sin * x0
    _, space = jax.jvp(lambda x: f(x, angle), (x,), (dx,))
    _, time = jax.jvp(lambda angle: f(x, angle), (angle,), (jnp.ones_like(angle),))
    return space, time
