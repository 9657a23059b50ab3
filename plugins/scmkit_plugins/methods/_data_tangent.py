"""The tangent from the data itself."""

from typing import ClassVar

from jaxtyping import Array, Float

from scmkit.interfaces import AbstractNoiseProcess, AbstractTangentEstimator, Point
from scmkit.plugin import Context
from scmkit.types import Key, Scalar


class DataTangent(AbstractTangentEstimator):
    r"""$\alpha'(t)\, x_0 + \sigma'(t)\, \varepsilon$: unbiased for the PF-ODE velocity given `x_t`.

    `(x_t - x0)/t` for a variance-exploding process, `cos(t) z - sin(t) x0` for TrigFlow
    (arXiv 2410.11081, Algorithm 1).
    """

    process: AbstractNoiseProcess
    of_data: ClassVar[bool] = True

    def __call__(self, point: Point) -> Float[Array, "*shape"]:
        return self.process.velocity(point.x0, point.eps, point.t)

    def advance(self, point: Point, r: Scalar) -> Point:
        x_r = self.process.perturb(point.x0, point.eps, r)
        return Point(point.x0, point.eps, x_r, r, point.cond)


def build_data_tangent(config: object, context: Context, *, key: Key) -> DataTangent:
    """The factory of the tangent slot, for every method that trains on data."""
    return DataTangent(context.noise)
