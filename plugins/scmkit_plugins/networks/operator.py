"""Neural operators: networks that give every time of a trajectory in one pass."""

from dataclasses import dataclass, replace
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
from annotated_types import Ge
from jaxtyping import Array, Float

from scmkit.interfaces import (
    AbstractNetwork,
    AbstractOperator,
    AbstractParameterization,
    Conditioning,
)
from scmkit.models.model import LEAST_RATIO
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key
from scmkit_plugins.layers.temporal_fourier import TIMES, TemporalFourier
from scmkit_plugins.networks import mlp, unet


@dataclass(frozen=True)
class MLPOptions(mlp.MLPOptions):
    """Options of the residual perceptron as an operator."""

    modes: Annotated[int, Ge(1)] = 2
    """Frequencies that the Fourier layers over time keep, the lowest ones."""


@dataclass(frozen=True)
class UNetOptions(unet.UNetOptions):
    """Options of the U-Net as an operator."""

    modes: Annotated[int, Ge(1)] = 2
    """Frequencies that the Fourier layers over time keep, the lowest ones."""


class Mixing(eqx.Module):
    """A block of a network, and behind it a Fourier layer over the times of a trajectory."""

    block: mlp.MLPBlock | unet.Block
    fourier: TemporalFourier

    def __call__(self, *args: Any, **given: Any) -> Float[Array, "*space c"]:
        return self.fourier(self.block(*args, **given))


class Operator(AbstractOperator):
    """A network with a Fourier layer over time behind each block, run at all times of a trajectory at once.

    The times are those of the data's stored states, and the data's own, the last. Each is told the network as
    a flow map is told the end of its jump; all else is the network's at one time, as in DFNO
    (arXiv 2211.13449, Section 3.2). A pass at one time is one at all, of which the last is kept.
    """

    network: AbstractNetwork
    parameterization: AbstractParameterization
    ratios: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, network: AbstractNetwork, context: Context, modes: int) -> None:
        def mixing(node: Any) -> Any:
            return Mixing(node, TemporalFourier(_width(node), modes)) if _is_block(node) else node

        self.network = jax.tree.map(mixing, network, is_leaf=_is_block)
        self.parameterization = context.parameterization
        self.ratios = (*context.data.times, LEAST_RATIO)

    def trajectory(
        self,
        x: Float[Array, "*shape"],
        c_noise: Float[Array, " k"],
        cond: Conditioning,
        *,
        key: Key | None,
    ) -> Float[Array, "times *shape"]:
        def at(ratio: Array) -> Array:
            end = self.parameterization.coefficients(
                self.parameterization.process.time_at(ratio)
            ).noise
            return self.network(x, jnp.concatenate([c_noise, end]), cond, key=key)

        return jax.vmap(at, axis_name=TIMES)(jnp.asarray(self.ratios, jnp.float32))

    def __call__(
        self,
        x: Float[Array, "*shape"],
        c_noise: Float[Array, " k"],
        cond: Conditioning,
        *,
        key: Key | None,
    ) -> Float[Array, "*shape"]:
        return self.trajectory(x, c_noise, cond, key=key)[-1]


def _is_block(node: Any) -> bool:
    return isinstance(node, mlp.MLPBlock | unet.Block)


def _width(block: mlp.MLPBlock | unet.Block) -> int:
    """Channels of what a block returns."""
    last = block.second if isinstance(block, mlp.MLPBlock) else block.conv2
    return last.bias.shape[0]


def _inner(context: Context) -> Context:
    """The context of the network inside, which is told the time of each state besides the noise's."""
    if context.noise_labels == 2:
        raise ValueError(
            "an operator has the times of its trajectory, and jumps to no other: use another network for "
            "a flow map, or the method dfno"
        )
    return replace(context, noise_labels=2)


def build_mlp(config: MLPOptions, context: Context, *, key: Key) -> Operator:
    return Operator(mlp.MLP(config, _inner(context), key=key), context, config.modes)


def build_unet(config: UNetOptions, context: Context, *, key: Key) -> Operator:
    return Operator(unet.UNet(config, _inner(context), key=key), context, config.modes)


perceptron = Plugin(
    name="operator-mlp",
    summary="mlp with Fourier layers over time: a whole trajectory in one pass (arXiv 2211.13449)",
    provides={Slot.network: build_mlp},
    config=MLPOptions,
)

convolutional = Plugin(
    name="operator-unet",
    summary="unet with Fourier layers over time: a whole trajectory in one pass (arXiv 2211.13449)",
    provides={Slot.network: build_unet},
    config=UNetOptions,
)
