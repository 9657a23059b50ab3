"""What plugins return, held against what their interfaces say."""

from collections.abc import Callable
from numbers import Real
from types import UnionType
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scmkit.composing.blame import is_signal, misreturned
from scmkit.composing.entries import Entry, first_line
from scmkit.composing.slots import class_name
from scmkit.errors import PluginError, ScmkitError
from scmkit.interfaces import (
    AbstractDistance,
    AbstractEncoder,
    AbstractHiddenNetwork,
    AbstractNetwork,
    AbstractOperator,
    Conditioning,
    hidden_of,
)
from scmkit.types import Key, Scalar


def built_by(owner: Entry | str, what: str, kind: type | UnionType, make: Callable[[], Any]) -> Any:
    """What a plugin makes; its failures, and a result of another kind, raise `PluginError` naming the plugin.

    `owner` is the plugin as errors name it, `what` that which it makes.
    """
    try:
        built = make()
    except ScmkitError:
        raise
    except BaseException as error:
        if is_signal(error):
            raise
        raise PluginError(
            f"{owner} failed to build its {what}: {first_line(error) or type(error).__name__}"
        ) from error
    if not isinstance(built, kind):
        raise PluginError(
            f"{owner} built a {type(built).__name__} as its {what}, which is no {class_name(kind)}"
        )
    return built


def expect_kind(part: object, what: str, got: Any, kind: type) -> None:
    """Raises `PluginError` naming the plugin of `part` unless its `what` is of a kind."""
    if not isinstance(got, kind):
        raise misreturned(part, what, _shown(got), f"a {kind.__name__}")


def expect_array(
    part: object, what: str, got: Any, shape: tuple[int | str, ...], *dtypes: Any
) -> None:
    """The same for an array of one of `dtypes`, which may be families such as `np.floating`, or of any.

    A letter in `shape` stands for any length.
    """
    got = np.asarray(got) if isinstance(got, Real) else got  # As JAX takes them.
    found, dtype = getattr(got, "shape", None), getattr(got, "dtype", None)
    fits = (
        isinstance(found, tuple)
        and len(found) == len(shape)
        and all(isinstance(b, str) or a == b for a, b in zip(found, shape, strict=True))
        and dtype is not None
        and (not dtypes or any(jnp.issubdtype(dtype, d) for d in dtypes))
    )
    if not fits:
        names = " or ".join(dict.fromkeys(getattr(d, "__name__", str(d)) for d in dtypes))
        raise misreturned(
            part, what, _shown(got), f"{names or 'an array of shape '}{_shape(shape)}"
        )


def expect_number(part: object, what: str, got: Any) -> float:
    """The same for a number, which is returned as a float."""
    if not isinstance(got, Real):
        raise misreturned(part, what, _shown(got), "a float")
    return float(got)


def _shown(got: Any) -> str:
    if hasattr(got, "shape") and hasattr(got, "dtype"):
        return f"{got.dtype}{_shape(got.shape)}"
    return "None" if got is None else f"a {type(got).__name__}"


def _shape(shape: tuple[int | str, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


T = TypeVar("T")


class CheckedNetwork(AbstractHiddenNetwork):
    """A network whose output is held against its interface, wherever it is traced."""

    inner: AbstractNetwork

    def __call__(
        self,
        x: Float[Array, "*shape"],
        c_noise: Float[Array, " k"],
        cond: Conditioning,
        *,
        key: Key | None,
    ) -> Float[Array, "..."]:
        F = self.inner(x, c_noise, cond, key=key)
        expect_array(self.inner, "network", F, x.shape, jnp.float32, x.dtype)
        return F

    def hidden(
        self,
        x: Float[Array, "*shape"],
        c_noise: Float[Array, " k"],
        cond: Conditioning,
        *,
        key: Key | None,
    ) -> Float[Array, "..."]:
        h = hidden_of(self.inner, x, c_noise, cond, key=key)
        shape = ("c",) * max(1, getattr(h, "ndim", 1))
        expect_array(self.inner, "network's hidden", h, shape, jnp.float32, x.dtype)
        return h


class CheckedOperator(AbstractOperator):
    """The same for a network that gives a trajectory."""

    inner: AbstractOperator

    def trajectory(
        self,
        x: Float[Array, "*shape"],
        c_noise: Float[Array, " k"],
        cond: Conditioning,
        *,
        key: Key | None,
    ) -> Float[Array, "..."]:
        F = self.inner.trajectory(x, c_noise, cond, key=key)
        expect_array(self.inner, "network's trajectory", F, ("t", *x.shape), jnp.float32, x.dtype)
        return F

    def __call__(
        self,
        x: Float[Array, "*shape"],
        c_noise: Float[Array, " k"],
        cond: Conditioning,
        *,
        key: Key | None,
    ) -> Float[Array, "..."]:
        F = self.inner(x, c_noise, cond, key=key)
        expect_array(self.inner, "network", F, x.shape, jnp.float32, x.dtype)
        return F


class CheckedDistance(AbstractDistance):
    """A distance whose answer is held against its interface, wherever it is traced."""

    inner: AbstractDistance

    def __call__(self, x: Float[Array, "*shape"], y: Float[Array, "*shape"]) -> Scalar:
        distance = self.inner(x, y)
        expect_array(self.inner, "distance", distance, (), jnp.float32, x.dtype)
        return distance


class CheckedEncoder(AbstractEncoder):
    """The same for an encoder."""

    inner: AbstractEncoder

    def __call__(self, x: Float[Array, "*shape"]) -> tuple[Float[Array, "..."], ...]:
        layers = self.inner(x)
        expect_kind(self.inner, "encoder", layers, tuple)
        for layer in layers:
            shape = ("c",) * max(1, getattr(layer, "ndim", 1))
            expect_array(self.inner, "encoder as a layer", layer, shape, jnp.float32)
        return layers


def checked(tree: T) -> T:
    """A tree in which networks, distances and encoders, such as those of a model and a loss, are held
    against their interfaces."""
    kinds = {
        AbstractOperator: CheckedOperator,  # A network too, and so the first.
        AbstractNetwork: CheckedNetwork,
        AbstractDistance: CheckedDistance,
        AbstractEncoder: CheckedEncoder,
    }

    def held(node: Any) -> Any:
        return next((kinds[kind](node) for kind in kinds if isinstance(node, kind)), node)

    return jax.tree.map(held, tree, is_leaf=lambda node: isinstance(node, tuple(kinds)))
