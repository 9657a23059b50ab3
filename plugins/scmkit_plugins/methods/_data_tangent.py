"""The tangent from the data itself."""

from jaxtyping import Array, Float

from scmkit.interfaces import AbstractNoiseProcess, AbstractTangentEstimator, Conditioning
from scmkit.types import Scalar


class DataTangent(AbstractTangentEstimator):
    r"""$\alpha'(t)\, x_0 + \sigma'(t)\, \varepsilon$: unbiased for the PF-ODE velocity given `x_t`.

    `(x_t - x0)/t` for a variance-exploding process, `cos(t) z - sin(t) x0` for TrigFlow
    (arXiv 2410.11081, Algorithm 1).
    """

    process: AbstractNoiseProcess

    def __call__(
        self,
        x0: Float[Array, "*shape"],
        eps: Float[Array, "*shape"],
        x_t: Float[Array, "*shape"],
        t: Scalar,
        cond: Conditioning | None,
    ) -> Float[Array, "*shape"]:
        return self.process.velocity(x0, eps, t)

    def advance(
        self,
        x0: Float[Array, "*shape"],
        eps: Float[Array, "*shape"],
        x_t: Float[Array, "*shape"],
        t: Scalar,
        r: Scalar,
        cond: Conditioning | None,
    ) -> Float[Array, "*shape"]:
        return self.process.perturb(x0, eps, r)
