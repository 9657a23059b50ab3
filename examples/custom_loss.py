r"""A loss of one's own, trained with the pieces below `scmkit.train`, against the exact answer.

sCM replaces the gradient of the consistency objective, $g = w\, df/dt$, by $g / (\|g\| + c)$. Here the same
bound comes from a metric: regress $F$ onto $F^- - s\, g$ ($F^-$ is $F$ without gradient, $s$ the sign of
$c_{out}$, since $f = c_{skip} x + c_{out} F$) under the pseudo-Huber distance

$$L = \sqrt{\|F - F^- + s\, g\|^2 + c^2} - c, \qquad
  \nabla L = s\, \frac{(\partial F / \partial \theta)^T g}{\sqrt{\|g\|^2 + c^2}}.$$

That is tangent normalization, smooth at zero. And while sCM's normalized loss says nothing about progress,
this one does: its value is $\sqrt{\|g\|^2 + c^2} - c$, which is zero where the consistency function is exact.

The data is a Gaussian mixture, for which posterior mean and ODE paths are known in closed form: the exact
diffusion model is the teacher, and the exact map the judge.

    python examples/custom_loss.py              about two minutes on a laptop
    python examples/custom_loss.py --steps 2    to see that it runs
"""

import argparse

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

import scmkit
from scmkit.data import Loader
from scmkit.interfaces import AbstractLoss, LossOutput, Sample, Scene
from scmkit.losses import noised
from scmkit.testing import exact_model
from scmkit.training.setup import setting_of, state_before, step_of
from scmkit.types import Key

SETTINGS = {
    "mlp.width": 128,
    "mlp.depth": 2,
    "train.steps": 4000,
    "train.batch_size": 256,
    "train.lr": 1e-3,
    "train.schedule": "cosine",
}
REPORTS = 10


class HuberTangentLoss(AbstractLoss):
    """The pseudo-Huber distance of `F` to where the tangent sends it; see the module's docstring."""

    mean: float = -1.0
    std: float = 1.4
    c: float = 0.1

    def __call__(
        self, model: scmkit.Model, scene: Scene, sample: Sample, *, key: Key
    ) -> LossOutput:
        k_time, k_noise, k_dropout = jr.split(key, 3)
        process, param = model.process, model.parameterization
        ratio = jnp.minimum(jnp.exp(self.mean + self.std * jr.normal(k_time)), process.ratio_max)
        t = process.time_at(ratio)
        point = noised(process, sample, t, key=k_noise)
        dx = scene.tangent(point)

        def both(x_t: Array, t: Array) -> tuple[Array, Array]:
            F = model.raw(x_t, t, point.cond, key=k_dropout)
            return F, param.denoise(F, x_t, t)

        (F, _), (_, df) = eqx.filter_jvp(both, (point.x_t, t), (dx, jnp.ones_like(t)))
        F_, g = jax.lax.stop_gradient((F, param.weight(t) * df))
        residual = F - F_ + jnp.sign(param.coefficients(t).out) * g
        value = jnp.sqrt(jnp.sum(residual**2) + self.c**2) - self.c
        return LossOutput(value, {"huber": value}, ratio)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a custom loss with a loop of one's own.")
    parser.add_argument("--steps", type=int, default=SETTINGS["train.steps"], help="of training")
    args = parser.parse_args()

    recipe = scmkit.compose(
        ["trigflow", "scd"], {**SETTINGS, "train.steps": args.steps}, data="gmm"
    )
    dataset, data, settings = scmkit.dataset_of(recipe), recipe.data, recipe.train
    k_init, k_train, k_test = jr.split(jr.key(settings.seed), 3)

    # The exact teacher: the data's density, in the model's units, behind the student's parameterization.
    density = dataset.density()
    assert density is not None
    density = density.affine(jnp.asarray(data.shift), jnp.asarray(data.scale))
    parameterization = scmkit.build_model(recipe, key=k_init).parameterization
    parts = scmkit.build(recipe, key=k_init, teacher=exact_model(parameterization, density))

    process, t_max = parameterization.process, parameterization.process.t_max
    noise = jax.vmap(lambda k: process.prior(data.shape, key=k))(jr.split(k_test, 2000))
    exact = jax.vmap(lambda x: density.consistency(process, x, t_max))(noise)

    @eqx.filter_jit
    def error(model: scmkit.Model) -> Float[Array, ""]:
        """RMS difference between one-step samples and the exact ends of their paths."""
        ends = jax.vmap(lambda x: model.denoise(x, t_max))(noise)
        return jnp.sqrt(jnp.mean((ends - exact) ** 2))

    parts = eqx.tree_at(lambda parts: parts.loss, parts, HuberTangentLoss())
    setting, state = setting_of(parts), state_before(recipe, parts)
    step = eqx.filter_jit(step_of(recipe))
    print(f"step {0:>6}                 error to the exact map {error(state.generator.ema):.4f}")
    with Loader(dataset, data, settings.batch_size, settings.seed) as batches:
        for i in range(1, settings.steps + 1):
            x0, _ = next(batches)
            state, metrics = step(setting, Sample(jnp.asarray(x0)), k_train, state)
            if i % max(1, settings.steps // REPORTS) == 0:
                loss, off = metrics.means["loss"], error(state.generator.ema)
                print(f"step {i:>6}   loss {loss:.4f}   error to the exact map {off:.4f}")


if __name__ == "__main__":
    main()
