r"""The Lagrangian kernel: how the end of a jump moves while `s` does.

$$\partial_s G(x_t, t, s) = \partial_s a\, x_t + \partial_s b\, F + b\, \partial_s F$$

with $G = a\, x_t + b\, F$. For the flow map it is $v(G, s)$ (arXiv 2511.19797; arXiv 2406.07507).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractModel, Point
from scmkit.losses.derivatives import Derivative, derivative_along
from scmkit.types import Key, Scalar


def lagrangian(
    model: AbstractModel,
    point: Point,
    s: Scalar,
    *,
    derivative: Derivative = "jvp",
    detach: bool = False,
    key: Key | None = None,
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    r"""$G(x_t, t, s)$ and $\partial_s G$, both with their gradients.

    **Arguments:**

    - `derivative`: how the network is differentiated in `s` (see `derivative_along`); `semi-continuous` is
        the backward difference.
    - `detach`: whether no gradient enters $\partial_s F$.
    - `key`: for dropout, of which there is one mask.
    """
    param, t = model.parameterization, point.t
    (a, b), (da, db) = jax.jvp(lambda s: param.jump(t, s), (s,), (jnp.ones_like(s),))

    def raw(x: Float[Array, "*shape"], s: Scalar) -> Float[Array, "*shape"]:
        return model.raw(x, t, point.cond, s=s, key=key)

    gap = 1e-3 * jnp.minimum(s, param.process.angular_weight(param.sigma_data, s))
    still, one = jnp.zeros_like(point.x_t), jnp.ones_like(s)
    F, dF = derivative_along(raw, point.x_t, s, still, one, kind=derivative, gap=gap)
    dF = jax.lax.stop_gradient(dF) if detach else dF
    return a * point.x_t + b * F, da * point.x_t + db * F + b * dF
