"""Networks, and the conditions they are told."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scmkit.types import Key


class Conditioning(eqx.Module):
    """The conditions of a sample; `Conditioning()` has none.

    `label` is the class index; the index `num_classes` and None both stand for "no label" (guidance
    needs the unconditional prediction). `scalars` are named numbers that the model is told, such as
    `"guidance"`, the strength of guidance that the output should show, for models that were distilled from
    a guided teacher (arXiv 2410.11081, Appendix G); 1 is none. A batch of conditionings is this module with
    a leading axis.
    """

    label: Int[Array, "*batch"] | None = None
    scalars: dict[str, Float[Array, "*batch"]] = eqx.field(default_factory=dict)


UNCONDITIONED = Conditioning()
"""The conditioning without any condition."""


class AbstractNetwork(eqx.Module):
    """The raw network `F`, on one sample. Images are `c h w`; the caller vmaps."""

    @abc.abstractmethod
    def __call__(
        self,
        x: Float[Array, "*shape"],
        c_noise: Float[Array, " k"],
        cond: Conditioning,
        *,
        key: Key | None,
    ) -> Float[Array, "*shape"]:
        """`F(x, c_noise)`; a `key` of None switches dropout off."""


class AbstractHiddenNetwork(AbstractNetwork):
    """A network that also tells what it knows of a sample where it is narrowest."""

    @abc.abstractmethod
    def hidden(
        self,
        x: Float[Array, "*shape"],
        c_noise: Float[Array, " k"],
        cond: Conditioning,
        *,
        key: Key | None,
    ) -> Float[Array, "*space c"]:
        """The features on which a critic stands, channels last."""


def hidden_of(
    network: AbstractNetwork,
    x: Float[Array, "*shape"],
    c_noise: Float[Array, " k"],
    cond: Conditioning,
    *,
    key: Key | None,
) -> Float[Array, "..."]:
    """The hidden features of a network, of one that has none its output, channels last."""
    if isinstance(network, AbstractHiddenNetwork):
        return network.hidden(x, c_noise, cond, key=key)
    return jnp.moveaxis(network(x, c_noise, cond, key=key), 0, -1)


class AbstractOperator(AbstractNetwork):
    """A network that gives every time of a trajectory in one pass; the last, the data's, is its output."""

    @abc.abstractmethod
    def trajectory(
        self,
        x: Float[Array, "*shape"],
        c_noise: Float[Array, " k"],
        cond: Conditioning,
        *,
        key: Key | None,
    ) -> Float[Array, "times *shape"]:
        """The outputs at all times; a `key` of None switches dropout off."""
