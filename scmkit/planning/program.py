"""The training step of a recipe, compiled for devices that are not here, from shapes alone."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import PyTree

from scmkit.composing.build import build, build_model
from scmkit.composing.recipe import Recipe, TeacherRecord
from scmkit.composing.recipe_file import read_run_recipe
from scmkit.distribution.gradient import hands_of
from scmkit.distribution.layout import Layout
from scmkit.errors import UsageError
from scmkit.interfaces import Conditioning, Sample
from scmkit.training.guarded import Given, guarded
from scmkit.training.packed import pack
from scmkit.training.setup import setting_of, state_before, step_of
from scmkit.training.state import TrainState
from scmkit.training.step import Setting


class Skeleton(NamedTuple):
    """All that a step is given, with shapes in the place of arrays."""

    setting: Setting
    state: TrainState
    batch: Sample
    other: PyTree
    """Arrays of the setting that are not the teacher's, which tangents hold as well."""


def pretend(devices: int) -> None:
    """Let JAX believe that it has so many devices, all of them this computer's processor.

    Raises `UsageError` where it has found other ones already.
    """
    try:
        jax.config.update("jax_num_cpu_devices", devices)
        jax.config.update("jax_platforms", "cpu")
    except RuntimeError:
        pass  # It has begun; what it has may be enough.
    if jax.default_backend() != "cpu" or jax.device_count() < devices:
        raise UsageError(
            f"JAX has begun with {jax.device_count()} devices, and a plan for {devices} pretends to have "
            "them: plan in a process of its own, before anything is computed"
        )


def skeleton(recipe: Recipe) -> Skeleton:
    """What the step of a recipe is given; nothing is allocated."""
    teacher = recipe.teacher
    if isinstance(teacher, TeacherRecord):
        teacher = read_run_recipe(Path(teacher.path))

    def made(key: Any) -> tuple[Setting, TrainState, PyTree]:
        model = None if teacher is None else build_model(teacher, key=key)
        assembly = build(recipe, key=key, teacher=model)
        setting = setting_of(assembly)
        known = {id(leaf) for leaf in jax.tree.leaves(model)}
        other = [leaf for leaf in jax.tree.leaves(setting) if id(leaf) not in known]
        return setting, state_before(recipe, assembly), other

    setting, state, other = eqx.filter_eval_shape(made, jr.key(0))
    return Skeleton(setting, state, _batch(recipe, paired=setting.coupling is not None), other)


def compiled_step(recipe: Recipe, given: Skeleton, layout: Layout, mesh: str | None = None) -> Any:
    """The step compiled as training compiles it, on a mesh of pretended devices.

    `mesh` is the text that describes it, which may say how weights are gathered.
    """
    step = guarded(step_of(recipe, hands_of(mesh, layout)))
    lying = _placed(given.setting, layout), _placed(given.state, layout)
    shapes, rest = eqx.partition(lying, is_shape)
    rows = jax.sharding.NamedSharding(layout.mesh, layout.rows)
    batch = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=rows), given.batch
    )

    def one(setting: PyTree, batch: Sample, state: PyTree) -> Any:
        setting, state = eqx.combine((setting, state), rest)
        stays = Given(pack(setting), batch, jr.key(recipe.train.seed), jnp.asarray(False))
        after, metrics, hold = step(stays, pack(state))
        return after.arrays, metrics, hold

    return jax.jit(one, donate_argnums=2).lower(shapes[0], batch, shapes[1]).compile()


def is_shape(leaf: Any) -> bool:
    """Whether a leaf stands for an array."""
    return isinstance(leaf, jax.ShapeDtypeStruct)


def shapes_of(tree: PyTree) -> Iterable[jax.ShapeDtypeStruct]:
    """All arrays of a skeleton."""
    return jax.tree.leaves(eqx.filter(tree, is_shape))


def _placed(tree: Any, layout: Layout) -> Any:
    def place(leaf: Any) -> Any:
        if not is_shape(leaf):
            return leaf
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout.sharding(leaf))

    return jax.tree.map(place, tree)


def _batch(recipe: Recipe, paired: bool) -> Sample:
    """The shapes of a batch, as the loader gives it."""
    data, n = recipe.data, recipe.train.batch_size
    paired = paired and data.paired

    def rows(*sides: int) -> Any:
        return jax.ShapeDtypeStruct((n, *sides), jnp.float32)

    label: Any = jax.ShapeDtypeStruct((n,), jnp.int32) if data.num_classes else None
    return Sample(
        rows(*data.shape),
        Conditioning(label),
        rows(*data.shape) if paired else None,
        rows(len(data.times), *data.shape) if paired and data.times else None,
    )
