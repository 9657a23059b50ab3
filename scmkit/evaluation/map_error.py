"""Distillation: how far a student's consistency function is from where its teacher's PF-ODE leads."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from scmkit.arguments import as_count, as_seed
from scmkit.composing.blame import blaming
from scmkit.composing.datasets import dataset_of
from scmkit.errors import UsageError
from scmkit.interfaces import AbstractModel, Conditioning
from scmkit.models.change_of_process import angular_velocity
from scmkit.runs.run import Run
from scmkit.sampling import end_angles, integrate
from scmkit.types import Scalar

LEAST_RATIO = 2e-3
"""The noise-to-signal ratio at which the teacher's path is left, by its denoiser."""


@blaming()
def map_error(
    run: Run,
    teacher: Run | None = None,
    *,
    angles: Sequence[float] = (1.1, 0.4),
    samples: int = 512,
    seed: int = 0,
) -> dict[float, float]:
    r"""RMS over samples and coordinates of $f(x_t, t) - \Phi_{t \to 0}(x_t)$, by TrigFlow's angle.

    $\Phi$ is the teacher's PF-ODE. The first angle is the last noise level, from pure noise: the error of
    the first step of sampling. `angles` are those of further steps, from noisy data of the test split. In the
    units of the model's data, whose standard deviation is `sigma_data`, 0.5. A Fréchet distance mixes this
    error with the teacher's own and with the noise of few samples; this separates students sooner.

    **Arguments:**

    - `run`: a consistency model or a flow map; a student with guidance in its tangent is compared with its
        teacher without guidance.
    - `teacher`: the diffusion model to compare it with; by default the run's own teacher.

    Raises `UsageError` without a teacher or a test split, for data of another shape or scale, and for an
    angle outside of the process.
    """
    samples, seed = as_count(samples, "samples"), as_seed(seed)
    student = run.consistency_model
    if teacher is None:
        if run.teacher is None:
            raise UsageError(f"'{run.path}' has no teacher; name a run of a diffusion model")
        teacher = Run.load(run.teacher)
    guide, data = teacher.diffusion_model, run.recipe.data
    ours, theirs = ((d.shape, d.shift, d.scale, d.sigma_data) for d in (data, teacher.recipe.data))
    if ours != theirs:
        raise UsageError(
            f"shape, shift, scale and sigma_data are {ours} of '{run.path}' and {theirs} of "
            f"'{teacher.path}': take a teacher of the same data"
        )
    low, high = end_angles(student, LEAST_RATIO)
    for angle in angles:
        if not low < angle < high:
            raise UsageError(
                f"angle {angle:g}: give radians between {float(low):.3g} and {float(high):.3g}"
            )
    dataset = dataset_of(run.recipe)
    if not dataset.size("test"):
        raise UsageError(f"data '{data.source}' has no test split, whose samples the angles are of")
    size = dataset.size("test")
    chosen = np.sort(np.random.default_rng(seed).choice(size, min(samples, size), replace=False))
    raw, labels = dataset.read("test", chosen)
    x0 = jnp.asarray(data.normalize(raw))
    eps = data.sigma_data * jr.normal(jr.key(seed), x0.shape)
    cond = Conditioning(None if labels is None else jnp.asarray(labels))

    @eqx.filter_jit
    def error(x: Array, angle: Scalar) -> Scalar:
        def rates(angle: Scalar, x: Array) -> Array:
            return jax.vmap(lambda x, c: angular_velocity(guide, x, angle, c))(x, cond)

        solution = integrate(rates, x, angle, low)
        assert solution.ys is not None
        end = _denoised(guide, solution.ys[-1], low, cond)
        return jnp.sqrt(jnp.mean((_denoised(student, x, angle, cond) - end) ** 2))

    found = {float(high): float(error(eps, high))}
    for angle in angles:
        x = np.cos(angle) * x0 + np.sin(angle) * eps
        found[float(angle)] = float(error(x, jnp.asarray(angle, jnp.float32)))
    return found


def _denoised(
    model: AbstractModel, x: Float[Array, "n *shape"], angle: Scalar, cond: Conditioning
) -> Float[Array, "n *shape"]:
    """What the model makes of samples in TrigFlow's coordinates, whatever its process."""
    t = model.process.time_at(model.parameterization.sigma_data * jnp.tan(angle))
    scale = model.process.alpha(t) / jnp.cos(angle)
    return jax.vmap(lambda x, c: model.denoise(x * scale, t, c))(x, cond)
