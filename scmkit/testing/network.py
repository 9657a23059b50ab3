"""Checks of networks."""

from dataclasses import dataclass, replace
from functools import cached_property

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from scmkit.interfaces import UNCONDITIONED, AbstractNetwork, Conditioning, hidden_of
from scmkit.plugin import Slot
from scmkit.testing.check import require, require_close, require_finite
from scmkit.testing.family import Family
from scmkit.testing.numeric import arrays_of, central_difference, jittered
from scmkit.testing.workbench import Bench, Case
from scmkit.types import Key

N = 3
"""The number of samples, the same everywhere, so that one compilation serves every check."""


COMPILED = (Case("vector"), Case("labeled-image", shape=(1, 8, 8), num_classes=4))
TRACED = (Case("labeled-vector", num_classes=4), Case("color-image", shape=(3, 16, 16)))
"""More shapes of data, for which networks are traced but not compiled, which takes seconds."""


class Inputs(eqx.Module):
    """A batch of a network's arguments."""

    x: Float[Array, "n *shape"]
    c_noise: Float[Array, "n k"]
    cond: Conditioning


@eqx.filter_jit
def forward(
    network: AbstractNetwork, given: Inputs, keys: Array | None
) -> Float[Array, "n *shape"]:
    """The network on a batch; one key for each sample, or None."""

    def one(x: Array, c_noise: Array, cond: Conditioning, key: Key | None) -> Array:
        return network(x, c_noise, cond, key=key)

    return jax.vmap(one)(given.x, given.c_noise, given.cond, keys)


@eqx.filter_jit
def training_pass(
    network: AbstractNetwork, given: Inputs, dx: Float[Array, "n *shape"], dt: Float[Array, "n 1"]
) -> tuple[Float[Array, "n *shape"], AbstractNetwork]:
    """The tangent of the output, and the gradient of a loss on the primal of that jvp."""

    def objective(network: AbstractNetwork) -> tuple[Array, Array]:
        def raw(x: Array, c_noise: Array) -> Array:
            return forward(network, Inputs(x, c_noise, given.cond), None)

        out, tangent = eqx.filter_jvp(raw, (given.x, given.c_noise), (dx, dt))
        tangent = jax.lax.stop_gradient(tangent)
        return jnp.mean((out - jax.lax.stop_gradient(out) + tangent) ** 2), tangent

    (_, tangent), gradient = eqx.filter_value_and_grad(objective, has_aux=True)(network)
    return tangent, gradient


@dataclass(frozen=True)
class Networking:
    """A network as it is initialized, and the bench that can build it again."""

    bench: Bench
    fresh: AbstractNetwork

    @cached_property
    def trained(self) -> AbstractNetwork:
        """The network with noise on its weights: fresh ones often start at zero."""
        return jittered(self.fresh)

    @cached_property
    def given(self) -> Inputs:
        """A batch of noisy samples, with labels where the data has classes."""
        k_x, k_c = jr.split(jr.key(5))
        classes = self.bench.data.num_classes
        cond = Conditioning(jnp.arange(N, dtype=jnp.int32) % classes if classes else None)
        x = jr.normal(k_x, (N, *self.bench.data.shape))
        return Inputs(x, jr.uniform(k_c, (N, 1), minval=0.1, maxval=1.5), cond)

    def run(
        self, given: Inputs | None = None, keys: Array | None = None
    ) -> Float[Array, "n *shape"]:
        """The trained network's output."""
        return forward(self.trained, self.given if given is None else given, keys)


def output_is_like_the_sample(net: Networking) -> None:
    for stage, network in {"fresh": net.fresh, "trained": net.trained}.items():
        out = forward(network, net.given, None)
        require(
            out.shape == net.given.x.shape and out.dtype == jnp.float32,
            f"a sample of shape {net.given.x.shape[1:]} must give float32 of that shape, not "
            f"{out.dtype} of shape {out.shape[1:]}",
        )
        require_finite(out, f"the output of a {stage} network")


def other_data_gives_output_of_its_shape(net: Networking) -> None:
    for case in TRACED:
        bench = Bench(net.bench.plugin, net.bench.options, case)
        if bench.refuses(Slot.network):
            continue
        other = Networking(bench, eqx.filter_eval_shape(bench.build, Slot.network))
        out = eqx.filter_eval_shape(forward, other.fresh, other.given, None)
        require(
            out.shape == (N, *case.shape),
            f"on {case.name} data, a sample of shape {case.shape} gives shape {out.shape[1:]}",
        )


def output_uses_sample_and_time(net: Networking) -> None:
    out, given = net.run(), net.given
    moved = Inputs(given.x + 0.3, given.c_noise, given.cond)
    require(jnp.abs(net.run(moved) - out).max() > 1e-5, "the output does not change with x")
    moved = Inputs(given.x, given.c_noise[::-1], given.cond)
    require(jnp.abs(net.run(moved) - out).max() > 1e-5, "the output does not change with c_noise")


def a_flow_map_is_told_both_times(net: Networking) -> None:
    case = replace(net.bench.case, noise_labels=2)
    bench = Bench(net.bench.plugin, net.bench.options, case)
    if bench.refuses(Slot.network):
        return
    network, given = jittered(bench.build(Slot.network)), net.given

    def out(ends: Float[Array, "n 1"]) -> Float[Array, "n *shape"]:
        labels = jnp.concatenate([given.c_noise, ends], axis=1)
        return forward(network, Inputs(given.x, labels, given.cond), None)

    require(
        jnp.abs(out(given.c_noise) - out(given.c_noise[::-1])).max() > 1e-5,
        "with noise_labels=2 the output does not change with c_noise[1], which says where a jump ends: "
        "embed it (SecondLabel), or raise a ValueError for a flow map",
    )


def labels_condition_the_output(net: Networking) -> None:
    out, given, classes = net.run(), net.given, net.bench.data.num_classes
    if not classes:
        return
    other = Conditioning(jnp.arange(1, N + 1, dtype=jnp.int32) % classes)
    moved = net.run(Inputs(given.x, given.c_noise, other))
    require(jnp.abs(moved - out).max() > 1e-5, "the output does not change with the label")
    none = Conditioning(jnp.full(N, classes, jnp.int32))
    absent = net.run(Inputs(given.x, given.c_noise, none))
    require_finite(absent, f"the output for 'no label' (index {classes})")
    require(jnp.abs(absent - out).max() > 1e-5, "the output does not change without a label")
    # Guidance asks for the unconditional prediction in this way.
    bare = net.run(Inputs(given.x, given.c_noise, UNCONDITIONED))
    require_close(
        bare, absent, "the output without a condition, against that for index num_classes,"
    )


def hidden_features_are_of_the_sample(net: Networking) -> None:
    given = net.given

    @eqx.filter_jit
    def hidden(x: Array) -> Array:
        def one(x: Array, c_noise: Array, cond: Conditioning) -> Array:
            return hidden_of(net.trained, x, c_noise, cond, key=None)

        return jax.vmap(one)(x, given.c_noise, given.cond)

    out = hidden(given.x)
    require(
        out.ndim > 1 and out.dtype == jnp.float32,
        f"hidden gives {out.dtype} of shape {out.shape[1:]}; it must be float32, channels last",
    )
    require_finite(out, "the hidden features")
    require(jnp.abs(hidden(given.x + 0.3) - out).max() > 1e-5, "hidden does not change with x")


def a_key_is_accepted(net: Networking) -> None:
    keys = jr.split(jr.key(0), N)
    out = eqx.filter_eval_shape(forward, net.fresh, net.given, keys)
    require(out.shape == net.given.x.shape, f"with a key, the output has shape {out.shape[1:]}")


def initialization_depends_on_the_key_alone(net: Networking) -> None:
    again = Bench(net.bench.plugin, net.bench.options, net.bench.case).build(Slot.network)
    same = all((a == b).all() for a, b in zip(arrays_of(net.fresh), arrays_of(again), strict=True))
    require(same, "one key must always give the same initial weights")


def shapes_are_known_without_weights(net: Networking) -> None:
    # How a checkpoint is read: into a skeleton that costs no memory.
    trial = Bench(net.bench.plugin, net.bench.options, net.bench.case)
    skeleton = eqx.filter_eval_shape(trial.build, Slot.network)
    leaves = jax.tree.leaves(eqx.filter(skeleton, lambda a: isinstance(a, jax.ShapeDtypeStruct)))
    shapes = [a.shape for a in leaves]
    found = [a.shape for a in jax.tree.leaves(eqx.filter(net.fresh, eqx.is_array))]
    require(shapes == found, "eqx.filter_eval_shape of the factory gives other arrays than a call")


def forward_mode_is_right(net: Networking) -> None:
    tangent, _ = _training_pass(net)
    require_finite(tangent, "the tangent of the output")

    def run(x: Array, c_noise: Array) -> Array:
        return net.run(Inputs(x, c_noise, net.given.cond))

    at = (net.given.x, net.given.c_noise)
    expected = central_difference(run, at, _directions(net), 1e-3)
    require_close(
        tangent, expected, "the jvp in (x, c_noise), against finite differences,", tolerance=2e-2
    )


def gradients_are_finite_and_arrive(net: Networking) -> None:
    _, gradient = _training_pass(net)
    silent = 0
    for leaf in arrays_of(gradient):
        require_finite(leaf, "the gradient of a loss on the primal of a jvp")
        silent += not jnp.any(leaf != 0)
    total = len(arrays_of(net.fresh))
    require(silent < total, f"none of {total} weights receives a gradient")


def _directions(net: Networking) -> tuple[Float[Array, "n *shape"], Float[Array, "n 1"]]:
    k_x, k_c = jr.split(jr.key(6))
    given = net.given
    return jr.normal(k_x, given.x.shape), jr.normal(k_c, given.c_noise.shape)


def _training_pass(net: Networking) -> tuple[Float[Array, "n *shape"], AbstractNetwork]:
    return training_pass(net.trained, net.given, *_directions(net))


FAMILY = Family(
    lambda bench: Networking(bench, bench.build(Slot.network)),
    (
        output_is_like_the_sample,
        other_data_gives_output_of_its_shape,
        output_uses_sample_and_time,
        a_flow_map_is_told_both_times,
        labels_condition_the_output,
        hidden_features_are_of_the_sample,
        a_key_is_accepted,
        initialization_depends_on_the_key_alone,
        shapes_are_known_without_weights,
        forward_mode_is_right,
        gradients_are_finite_and_arrive,
    ),
    COMPILED,
)
