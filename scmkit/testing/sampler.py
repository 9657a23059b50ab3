"""Checks of samplers, on models that are exact for Gaussian data."""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int

from scmkit.interfaces import AbstractSampler, Conditioning, SamplerOutput
from scmkit.models.model import Model
from scmkit.plugin import Slot
from scmkit.sampling import steps_for
from scmkit.testing.check import require, require_finite
from scmkit.testing.family import Family
from scmkit.testing.oracles import Gaussian, exact_model
from scmkit.testing.reference import reference_model
from scmkit.testing.workbench import DATA_STD, Bench, Case
from scmkit.types import Key

N = 128


@eqx.filter_jit
def drawn(
    sampler: AbstractSampler,
    model: Model,
    noise: Float[Array, "n *shape"],
    cond: Conditioning,
    steps: int | Int[Array, ""],
    key: Key,
) -> SamplerOutput:
    """A batch of samples, compiled, as `scmkit.sampling.draw` draws them."""

    def one(noise: Array, cond: Conditioning, key: Key) -> SamplerOutput:
        return sampler(model, noise, cond, steps=steps, key=key)

    return jax.vmap(one)(noise, cond, jr.split(key, noise.shape[0]))


@dataclass(frozen=True)
class Sampling:
    """A sampler, and the bench whose models it samples from."""

    sampler: AbstractSampler
    bench: Bench

    def draw(self, model: Model, steps: int, seed: int = 0) -> SamplerOutput:
        """Samples from the process's prior, `steps` traced if it may be; `seed` is for fresh noise."""
        return self.draw_in(model, steps_for(self.sampler, steps), seed)

    def draw_in(self, model: Model, steps: int | Int[Array, ""], seed: int = 0) -> SamplerOutput:
        """The same, with `steps` handed on as it is."""
        shape, classes = self.bench.data.shape, self.bench.data.num_classes
        noise = model.process.prior((N, *shape), key=jr.key(3))
        cond = Conditioning(jnp.arange(N, dtype=jnp.int32) % classes if classes else None)
        return drawn(self.sampler, model, noise, cond, steps, jr.key(seed))

    @property
    def model(self) -> Model:
        """A small network, under the default parameterization."""
        return reference_model(self.bench.build(Slot.parameterization), self.bench.data)


def usual_steps_are_positive(given: Sampling) -> None:
    usual = given.sampler.usual_steps
    whole = all(isinstance(s, int) and s > 0 for s in usual)
    require(usual and whole, f"usual_steps must be positive whole numbers, not {usual}")


def samples_are_like_the_noise(given: Sampling) -> None:
    for steps in {1, given.sampler.usual_steps[0]}:
        out = given.draw(given.model, steps)
        wanted = (N, *given.bench.data.shape)
        require(
            out.x.shape == wanted and out.x.dtype == jnp.float32,
            f"in {steps} steps, samples must be float32 of shape {wanted[1:]}, "
            f"not {out.x.dtype} of shape {out.x.shape[1:]}",
        )
        require_finite(out.x, f"samples in {steps} steps")
        counted = jnp.issubdtype(out.nfe.dtype, jnp.integer) and out.nfe.shape == (N,)
        require(
            counted and ((out.nfe > 0) | (out.nfe == -1)).all(),
            "nfe must be a positive integer scalar, the number of network evaluations "
            "(-1 where it cannot be counted)",
        )


def determinism_is_as_claimed(given: Sampling) -> None:
    for steps in {1, given.sampler.usual_steps[0]}:
        first, again, other = (given.draw(given.model, steps, seed).x for seed in (0, 0, 1))
        require((first == again).all(), f"in {steps} steps, one key gives two different samples")
        claimed = given.sampler.deterministic(steps)
        require(
            not claimed or (first == other).all(),
            f"deterministic({steps}) is True, but samples depend on the key",
        )


def traced_steps_change_nothing(given: Sampling) -> None:
    if not given.sampler.traces_steps:
        return
    out = {kind: given.draw_in(given.model, kind(3)) for kind in (int, jnp.asarray)}
    difference = jnp.abs(out[int].x - out[jnp.asarray].x).max()
    require(
        difference < 1e-4 and (out[int].nfe == out[jnp.asarray].nfe).all(),
        f"samples in 3 steps differ by {difference:.2g} when the number is traced, which "
        "traces_steps promises it may be",
    )


def samples_of_an_exact_model_are_the_data(given: Sampling) -> None:
    steps, param = given.sampler.usual_steps[0], given.bench.build(Slot.parameterization)
    data = Gaussian.isotropic(DATA_STD)
    # Which kind a sampler is for is not declared: it must serve one of the two.
    stds = []
    for consistency in (False, True):
        model = exact_model(param, data, consistency=consistency)
        stds.append(float(given.draw(model, steps).x.std()))
        if abs(stds[-1] / DATA_STD - 1) < 0.15:
            return
    raise AssertionError(
        f"in {steps} steps, samples of an exact diffusion model have standard deviation {stds[0]:.3g}"
        f" and those of an exact consistency model {stds[1]:.3g}; the data's is {DATA_STD:g}"
    )


FAMILY = Family(
    lambda bench: Sampling(bench.build_free(Slot.sampler), bench),
    (
        usual_steps_are_positive,
        samples_are_like_the_noise,
        determinism_is_as_claimed,
        traced_steps_change_nothing,
        samples_of_an_exact_model_are_the_data,
    ),
    # Labels, and a process that cannot be taken for TrigFlow.
    (Case("labeled-edm", num_classes=4, noise="edm"),),
)
