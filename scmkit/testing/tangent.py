"""Checks of tangent estimators, on Gaussian data, where the PF-ODE velocity is known."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractNoiseProcess, AbstractTangentEstimator, Conditioning, Point
from scmkit.plugin import Slot
from scmkit.testing.check import require, require_close, require_finite
from scmkit.testing.family import Family
from scmkit.testing.numeric import times
from scmkit.testing.oracles import Gaussian
from scmkit.testing.workbench import DATA_STD, Bench, Case

N = 512


class Moving(eqx.Module):
    """An estimator and a batch of data, noise and noisy data; any teacher is exact."""

    tangent: AbstractTangentEstimator
    process: AbstractNoiseProcess
    x0: Float[Array, "n *shape"]
    eps: Float[Array, "n *shape"]
    cond: Conditioning

    @eqx.filter_jit
    def __call__(
        self, t: Float[Array, ""]
    ) -> tuple[Float[Array, "n *shape"], Float[Array, "n *shape"]]:
        """`x_t` and the tangents there."""
        x_t = jax.vmap(self.process.perturb, in_axes=(0, 0, None))(self.x0, self.eps, t)
        return x_t, jax.vmap(self.tangent)(self._point(x_t, t))

    @eqx.filter_jit
    def advance(self, t: Float[Array, ""], r: Float[Array, ""]) -> Float[Array, "n *shape"]:
        """`x_r` from `x_t`."""
        x_t, _ = self(t)
        advance = jax.vmap(lambda point: self.tangent.advance(point, r).x_t)
        return advance(self._point(x_t, t))

    def _point(self, x_t: Float[Array, "n *shape"], t: Float[Array, ""]) -> Point:
        points = jax.vmap(Point, in_axes=(0, 0, 0, None, 0))
        return points(self.x0, self.eps, x_t, t, self.cond)

    @property
    def times(self) -> Float[Array, " n"]:
        """A few times, from little noise to the prior."""
        return times(self.process)[8::4]


def tangents_are_like_the_sample(given: Moving) -> None:
    for t in given.times:
        _, tangent = given(t)
        require(
            tangent.shape == given.x0.shape and tangent.dtype == jnp.float32,
            f"tangents must be float32 of the sample's shape {given.x0.shape[1:]}, "
            f"not {tangent.dtype} of shape {tangent.shape[1:]}",
        )
        require_finite(tangent, f"the tangent at t = {t:g}")


def tangents_are_unbiased(given: Moving) -> None:
    data = Gaussian.isotropic(DATA_STD)
    for t in given.times:
        x_t, tangent = (np.asarray(a, np.float64).ravel() for a in given(t))
        # The exact velocity is linear in x_t, so that regressing on x_t tells all.
        exact = float(data.velocity(given.process, jnp.ones(()), t))
        found = (tangent @ x_t) / (x_t @ x_t)
        spread = (tangent - found * x_t).std() / np.sqrt(x_t @ x_t)
        require(
            abs(found - exact) < 5 * spread + 1e-2 * abs(exact),
            f"at t = {t:g} tangents regress on x_t with slope {found:.4g} (standard error "
            f"{spread:.2g}), the PF-ODE's velocity is {exact:.4g} x_t: the estimate is biased",
        )


def advancing_nowhere_stays(given: Moving) -> None:
    for t in given.times:
        x_t, _ = given(t)
        require_close(given.advance(t, t), x_t, f"advance from t = {t:g} to r = t")


def advancing_a_little_follows_the_tangent(given: Moving) -> None:
    for t in given.times:
        x_t, tangent = given(t)
        h = 1e-2 * t
        gap = jnp.abs((given.advance(t, t) - given.advance(t, t - h)) / h - tangent).max()
        # The second term is for the path's curvature, all there is where the tangent vanishes.
        allowed = 0.1 * jnp.abs(tangent).max() + 0.02 * jnp.abs(x_t).max() / t
        require(
            gap <= allowed,
            f"advance over a small step from t = {t:g} moves at a rate that is {gap:.3g} away from "
            f"the tangent, more than {allowed:.3g}",
        )


def samples_are_looked_at_as_declared(given: Moving) -> None:
    t = given.times[0]
    x_t, tangent = given(t)
    other = eqx.tree_at(lambda g: (g.x0, g.eps), given, (given.x0[::-1], given.eps[::-1]))
    elsewhere = jax.vmap(given.tangent)(other._point(x_t, t))
    blind = np.allclose(elsewhere, tangent, rtol=1e-3, atol=1e-3 * float(jnp.abs(tangent).max()))
    require(
        blind or given.tangent.of_data,
        "the tangent at a point changes with the point's x0 and eps: say `of_data = True`, so that losses "
        "which ask for it elsewhere are refused",
    )


def arrange(bench: Bench) -> Moving:
    k_data, k_noise = jr.split(jr.key(11))
    shape, classes = (N, *bench.data.shape), bench.data.num_classes
    return Moving(
        tangent=bench.build(Slot.tangent),
        process=bench.build(Slot.noise),
        x0=DATA_STD * jr.normal(k_data, shape),
        eps=jr.normal(k_noise, shape),
        cond=Conditioning(jnp.arange(N, dtype=jnp.int32) % classes if classes else None),
    )


FAMILY = Family(
    arrange,
    (
        tangents_are_like_the_sample,
        tangents_are_unbiased,
        advancing_nowhere_stays,
        advancing_a_little_follows_the_tangent,
        samples_are_looked_at_as_declared,
    ),
    (Case("trigflow"), Case("labeled-edm", num_classes=4, noise="edm")),
)
