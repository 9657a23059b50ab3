"""EM distillation: a generator learns from its own samples after Langevin dynamics corrected them."""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Gt, Lt
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractLoss, Conditioning, LossOutput, Point, Sample, Scene
from scmkit.losses import frozen, surrogate
from scmkit.models.model import Model
from scmkit.plugin import Context
from scmkit.types import Key, Scalar
from scmkit_plugins.methods._matching import MatchingOptions, one_step, seen
from scmkit_plugins.methods._tangent import told


@dataclass(frozen=True)
class Options(MatchingOptions):
    """Options of EM distillation."""

    steps: Annotated[int, Ge(1)] = 16
    """Steps of Langevin dynamics."""
    noise_step: Annotated[float, Gt(0), Lt(1)] = 0.16
    r"""The dynamics' step size in the noise $\varepsilon$."""
    latent_step: Annotated[float, Ge(0), Lt(1)] = 1.6e-5
    """The dynamics' step size in the generator's input `z`."""


class Pair(NamedTuple):
    """A state of the dynamics: the noise of a generated sample, and the generator's input, both of N(0, I)
    at first; and the part of the noise that no random draw put there."""

    eps: Float[Array, "*shape"]
    z: Float[Array, "*shape"]
    pull: Float[Array, "*shape"]


def made_of(model: Model, z: Float[Array, "*shape"], cond: Conditioning) -> Float[Array, "*shape"]:
    """The generator's sample of the normal `z`."""
    t_max = model.process.t_max.astype(z.dtype)
    return model.denoise(model.process.sigma(t_max) * z, t_max, cond)


def moved(
    model: Model, scene: Scene, pair: Pair, t: Scalar, cond: Conditioning, o: Options, *, key: Key
) -> Pair:
    r"""One step of Langevin dynamics, with $x_t = \alpha\, G(z) + \sigma\, \varepsilon$, in both at once:

    $$\varepsilon \leftarrow \varepsilon + \gamma_\varepsilon\big(\sigma\,(s_{real} - s_{fake})(x_t) -
      \varepsilon\big) + \text{noise}, \qquad
      z \leftarrow z + \gamma_z\big(\alpha\, J_G^T (s_{real} - s_{fake})(x_t) - z\big) + \text{noise}$$

    The density of $(\varepsilon, z)$ that it leads to is $N(\varepsilon) N(z)\, p(x_t) / q(x_t)$, whose
    $x_t$ has the teacher's density. The noise's variance $1 - (1 - \gamma)^2$, for the paper's $2\gamma$,
    leaves N(0, I) as it is where both scores agree, for steps of any size.
    """
    process = model.process
    alpha, sigma = process.alpha(t), process.sigma(t)
    x, pulled_back = jax.vjp(lambda z: made_of(model, z, cond), pair.z)
    it = seen(process, scene, Point(x, pair.eps, process.perturb(x, pair.eps, t), t, cond))
    score = (alpha / sigma**2) * (it.real - it.fake)
    (latent,) = pulled_back(alpha * score)
    a, b = 1 - o.noise_step, 1 - o.latent_step
    n_eps, n_z = (jr.normal(k, x.shape, x.dtype) for k in jr.split(key))
    pull = o.noise_step * sigma * score
    return Pair(
        a * pair.eps + pull + jnp.sqrt(1 - a**2) * n_eps,
        b * pair.z + o.latent_step * latent + jnp.sqrt(1 - b**2) * n_z,
        a * pair.pull + pull,
    )


class EMDLoss(AbstractLoss):
    r"""A value whose gradient in $G(z_K)$ is $-\sigma \bar\varepsilon_K / (\alpha \gamma_\varepsilon n)$.

    After $K$ steps of Langevin dynamics from a generated sample (the E-step), the generator regresses on
    $x_t / \alpha$ at the $z_K$ that belongs to it (the M-step), in which the noise that was drawn on the way
    is left out of $\varepsilon_K$: what stays is $\bar\varepsilon_K$. It maximizes the likelihood of the
    teacher's data, the other Kullback-Leibler divergence; one step with $\gamma_z = 0$ is Diff-Instruct
    (arXiv 2405.16852, Section 3).
    """

    options: Options

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_eps, k_z, k_time, k_moves = jr.split(key, 4)
        o, process = self.options, model.process
        cond = told(sample, o.guidance_range, key=key).cond
        t = scene.proposal.sample(process, key=k_time)
        eps, z = (jr.normal(k, sample.x0.shape, sample.x0.dtype) for k in (k_eps, k_z))
        still = frozen(model)

        def step(pair: Pair, key: Key) -> tuple[Pair, None]:
            return moved(still, scene, pair, t, cond, o, key=key), None

        start = Pair(eps, z, jnp.zeros_like(eps))
        end, _ = jax.lax.scan(step, start, jr.split(k_moves, o.steps))
        field = -process.ratio(t) / o.noise_step * end.pull
        size = jnp.sqrt(jnp.mean(field**2))
        value = surrogate(made_of(model, end.z, cond), field)
        return LossOutput(value, {"field": size}, process.ratio(t))


def build_loss(config: Options, context: Context, *, key: Key) -> EMDLoss:
    return EMDLoss(config)


plugin = one_step(
    "emd",
    "EM distillation: Langevin dynamics of noise and sample (arXiv 2405.16852)",
    Options,
    build_loss,
)
