"""Samples, and points on their paths at which training looks at them."""

import equinox as eqx
from jaxtyping import Array, Float

from scmkit.interfaces.network import UNCONDITIONED, Conditioning
from scmkit.types import Scalar


class Sample(eqx.Module):
    """A clean sample, its condition, and its noise where the two are coupled (None: independent).

    `states` are those from the noise to the sample where these are stored, at the `times` of the data and
    each divided by `alpha`: `(times, *shape)`. A batch is this module with a leading axis.
    """

    x0: Float[Array, "*shape"]
    cond: Conditioning = UNCONDITIONED
    eps: Float[Array, "*shape"] | None = None
    states: Float[Array, "..."] | None = None


class Point(eqx.Module):
    """A sample on its path at time `t`: `x_t = alpha(t) x0 + sigma(t) eps` where the path is the data's.

    On a teacher's path `x0` and `eps` are those from which the path started.
    """

    x0: Float[Array, "*shape"]
    eps: Float[Array, "*shape"]
    x_t: Float[Array, "*shape"]
    t: Scalar
    cond: Conditioning = UNCONDITIONED
