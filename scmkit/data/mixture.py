"""Products of one-dimensional Gaussian mixtures: every quantity of diffusion in closed form."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.scipy.special import log_ndtr, logsumexp
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractDensity, AbstractNoiseProcess
from scmkit.types import Key, Scalar


class Mixture(AbstractDensity):
    r"""$p(x) = \prod_i \sum_k w_{ik}\, N(x_i; m_{ik}, s_{ik}^2)$, independent in each coordinate.

    Noise keeps the form: at time `t` the means are `alpha m` and the variances `alpha^2 s^2 +
    sigma^2`. So the score, the posterior mean and, the PF-ODE of one coordinate being the monotone
    transport between its marginals, the consistency function are exact.

    **Arguments:**

    - `weights`: `d k`, positive; normalised over `k` here.
    - `means`, `stds`: `d k`, in the data's units.
    """

    weights: Float[Array, "d k"]
    means: Float[Array, "d k"]
    stds: Float[Array, "d k"]

    def __check_init__(self) -> None:
        shapes = {self.weights.shape, self.means.shape, self.stds.shape}
        if len(shapes) != 1 or len(self.means.shape) != 2:
            raise ValueError(f"weights, means and stds must have one shape (d, k), not {shapes}")

    def affine(self, shift: Float[Array, " d"], scale: Float[Array, " d"]) -> "Mixture":
        """The density of `(x - shift) * scale`; a negative scale mirrors."""
        return Mixture(
            weights=self.weights,
            means=(self.means - shift[:, None]) * scale[:, None],
            stds=self.stds * jnp.abs(scale)[:, None],
        )

    def log_prob(self, process: AbstractNoiseProcess, x_t: Float[Array, " d"], t: Scalar) -> Scalar:
        """`log p_t(x_t)` in nats; at `sigma(t) = 0`, `alpha(t) = 1` that of the data."""
        means, stds = self._noised(process, x_t, t)
        return jnp.sum(logsumexp(self._log_joint(x_t, means, stds), axis=-1))

    def score(
        self, process: AbstractNoiseProcess, x_t: Float[Array, " d"], t: Scalar
    ) -> Float[Array, " d"]:
        r"""$\nabla \log p_t(x) = -\sum_k r_k (x - \alpha m_k) / v_k$, $r$ the posterior weights."""
        means, stds = self._noised(process, x_t, t)
        r = jax.nn.softmax(self._log_joint(x_t, means, stds), axis=-1)
        return jnp.sum(-r * (x_t[:, None] - means) / stds**2, axis=-1)

    def denoise(
        self, process: AbstractNoiseProcess, x_t: Float[Array, " d"], t: Scalar
    ) -> Float[Array, " d"]:
        r"""$E[x_0 | x_t] = \sum_k r_k (m_k + \alpha s_k^2 (x_t - \alpha m_k) / v_k)$."""
        alpha = process.alpha(t).astype(x_t.dtype)
        means, stds = self._noised(process, x_t, t)
        r = jax.nn.softmax(self._log_joint(x_t, means, stds), axis=-1)
        # Grouped so that neither factor overflows where alpha or sigma is tiny.
        gain = alpha * (self.stds / stds) ** 2
        return jnp.sum(r * (self.means + gain * (x_t[:, None] - means)), axis=-1)

    def consistency(
        self, process: AbstractNoiseProcess, x_t: Float[Array, " d"], t: Scalar
    ) -> Float[Array, " d"]:
        r"""The end of the PF-ODE path: the $y$ with $CDF_0(y_i) = CDF_t(x_{t,i})$ for each $i$.

        Differentiable to any order in `x_t`, `t` and the density itself.
        """
        return self._transported(process, x_t, t, self.means, self.stds)

    def flow_map(
        self, process: AbstractNoiseProcess, x_t: Float[Array, " d"], t: Scalar, s: Scalar
    ) -> Float[Array, " d"]:
        r"""Where the PF-ODE path is at time `s`: the $y$ with $CDF_s(y_i) = CDF_t(x_{t,i})$ for each $i$."""
        return self._transported(process, x_t, t, *self._noised(process, x_t, s))

    def _transported(
        self,
        process: AbstractNoiseProcess,
        x_t: Float[Array, " d"],
        t: Scalar,
        there: Float[Array, "d k"],
        spread: Float[Array, "d k"],
    ) -> Float[Array, " d"]:
        """The monotone transport from the marginal at `t` to a mixture of means `there`."""
        means, stds = self._noised(process, x_t, t)
        log_odds = jax.vmap(_log_odds)(x_t, jnp.log(self.weights), means, stds)
        # Between the least and the greatest z-score at t, in each component of the other mixture.
        z = jax.lax.stop_gradient((x_t[:, None] - means) / stds)
        low = jnp.min(there + spread * jnp.min(z, axis=-1, keepdims=True), axis=-1)
        high = jnp.max(there + spread * jnp.max(z, axis=-1, keepdims=True), axis=-1)
        low, high = jax.lax.stop_gradient((low, high))
        return jax.vmap(_quantile)(log_odds, low, high, jnp.log(self.weights), there, spread)

    def sample(self, n: int, *, key: Key) -> Float[Array, "n d"]:
        """`n` independent draws, in the data's units."""
        key_component, key_noise = jr.split(key)
        d, _ = self.means.shape
        k = jr.categorical(key_component, jnp.log(self.weights), shape=(n, d))
        coordinate = jnp.arange(d)[None]
        eps = jr.normal(key_noise, (n, d), self.means.dtype)
        return self.means[coordinate, k] + self.stds[coordinate, k] * eps

    def _noised(
        self, process: AbstractNoiseProcess, x_t: Float[Array, " d"], t: Scalar
    ) -> tuple[Float[Array, "d k"], Float[Array, "d k"]]:
        alpha = process.alpha(t).astype(x_t.dtype)
        sigma = process.sigma(t).astype(x_t.dtype)
        return alpha * self.means, jnp.sqrt((alpha * self.stds) ** 2 + sigma**2)

    def _log_joint(
        self, x: Float[Array, " d"], means: Float[Array, "d k"], stds: Float[Array, "d k"]
    ) -> Float[Array, "d k"]:
        return _log_normal(x[:, None], means, stds) + jax.nn.log_softmax(jnp.log(self.weights))


def _log_normal(
    x: Float[Array, "*#d"], mean: Float[Array, "*d"], std: Float[Array, "*d"]
) -> Float[Array, "*d"]:
    return -0.5 * ((x - mean) / std) ** 2 - jnp.log(std) - 0.5 * jnp.log(2 * jnp.pi)


def _log_odds(
    x: Scalar, logits: Float[Array, " k"], means: Float[Array, " k"], stds: Float[Array, " k"]
) -> Scalar:
    """`log CDF - log (1 - CDF)`: monotone in `x`, and as exact in one tail as in the other."""
    z = (x - means) / stds
    tails = log_ndtr(jnp.stack([z, -z]))
    below, above = logsumexp(jax.nn.log_softmax(logits)[None] + tails, axis=-1)
    return below - above


@jax.custom_jvp
def _quantile(
    log_odds: Scalar,
    low: Scalar,
    high: Scalar,
    logits: Float[Array, " k"],
    means: Float[Array, " k"],
    stds: Float[Array, " k"],
) -> Scalar:
    """The `y` in `[low, high]` with the given log-odds, by bisection.

    Newton's method is of no use between two modes, where the CDF is flat to many digits.
    """

    def halve(_: Any, bracket: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
        low, high = bracket
        middle = 0.5 * (low + high)
        too_high = _log_odds(middle, logits, means, stds) > log_odds
        return jnp.where(too_high, low, middle), jnp.where(too_high, middle, high)

    steps = 2 * jnp.finfo(means.dtype).nmant
    low, high = jax.lax.fori_loop(0, steps, halve, (low, high))
    return 0.5 * (low + high)


@_quantile.defjvp
def _quantile_jvp(primals: tuple, tangents: tuple) -> tuple[Scalar, Scalar]:
    # The implicit function theorem on _log_odds(y, density) = log_odds.
    _, _, _, *density = primals
    d_log_odds, _, _, *d_density = tangents
    y = _quantile(*primals)
    _, d_density_odds = jax.jvp(
        lambda *density: _log_odds(y, *density), tuple(density), tuple(d_density)
    )
    slope = jax.grad(_log_odds)(y, *density)
    tiny = jnp.finfo(slope.dtype).tiny
    return y, (d_log_odds - d_density_odds) / jnp.maximum(slope, tiny)
