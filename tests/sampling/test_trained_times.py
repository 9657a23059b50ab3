"""A generator is sampled by default at the times at which its loss trains it, and at no other."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scenes import scene_for

from scmkit import build, compose
from scmkit.composing.build import build_free
from scmkit.interfaces import UNCONDITIONED, AbstractNetwork, Sample
from scmkit.plugin import Slot

TINY = {"mlp.width": 8, "mlp.depth": 1, "mlp.embedding_dim": 8, "positional.channels": 4}


class Watched(AbstractNetwork):
    """A network that notes the noise labels it is told."""

    inner: AbstractNetwork
    note: Callable = eqx.field(static=True)

    def __call__(self, x, c_noise, cond, *, key):
        jax.debug.callback(self.note, c_noise[0])
        return self.inner(x, c_noise, cond, key=key)


def watched(model):
    """The model with a network that is watched, and the labels it will have been told."""
    labels = []
    return eqx.tree_at(lambda m: m.network, model, Watched(model.network, labels.append)), labels


@pytest.mark.parametrize("process", ["edm", "flow-matching"])
@pytest.mark.parametrize(
    ("method", "settings", "counts"),
    [
        ("progressive-distillation", {}, (1,)),
        ("progressive-distillation", {"progressive-distillation.last": 4}, (4,)),
        ("dmd2", {}, (1,)),
    ],
)
def test_the_default_sampler_asks_what_was_trained(process, method, settings, counts):
    recipe = compose([process, method], TINY | settings, data="gmm")
    sampler = build_free(Slot.sampler, *recipe.recorded(recipe.sampler))
    assert sampler.usual_steps == counts
    teacher = build(recipe.teacher, key=jr.key(1)).model
    parts = build(recipe, key=jr.key(0), teacher=teacher)
    (student, trained), (asked, told) = watched(parts.model), watched(parts.model)
    scene = scene_for(
        parts.model,
        step=recipe.train.steps - 1,
        steps=recipe.train.steps,
        teacher=teacher,
        models={"fake": teacher},
        followers={"teacher": teacher},
    )

    @eqx.filter_jit
    def both(student, asked, scene):
        sample = Sample(jnp.ones(1))
        losses = jax.vmap(lambda key: parts.loss(student, scene, sample, key=key).value)
        out = sampler(asked, jnp.ones(1), UNCONDITIONED, steps=counts[0], key=jr.key(3))
        return losses(jr.split(jr.key(2), 32)), out.x

    jax.block_until_ready(both(student, asked, scene))
    jax.effects_barrier()
    # Each is one grid point, however it rounds.
    gaps = np.abs(np.asarray(trained)[:, None] - np.asarray(told))
    assert len(told) == counts[0]
    assert gaps.min(axis=0).max() < 1e-4
    assert gaps.min(axis=1).max() < 1e-4


@pytest.mark.parametrize("process", ["flow-matching", "trigflow", "vp"])
def test_segments_of_consistency_fm_are_the_samplers_steps(process):
    settings = TINY | {"consistency-fm.segments": 4}
    recipe = compose([process, "consistency-fm"], settings, data="gmm")
    sampler = build_free(Slot.sampler, *recipe.recorded(recipe.sampler))
    assert sampler.usual_steps == (4,)
    model, told = watched(build(recipe, key=jr.key(0)).model)
    out = sampler(model, jnp.ones(1), UNCONDITIONED, steps=4, key=jr.key(1))
    jax.block_until_ready(out.x)
    jax.effects_barrier()
    tau = jnp.asarray([0.75, 0.5, 0.25])
    times = jax.vmap(model.process.time_at)(tau / (1 - tau))
    labels = jax.vmap(lambda t: model.parameterization.coefficients(t).noise)(times)
    # The first step begins at the most noise, a little below rectified flow's time 1.
    np.testing.assert_allclose(
        sorted(map(float, told))[:3], jnp.sort(labels.ravel()), atol=0.02 * labels.max()
    )


def test_the_number_of_steps_is_the_users():
    given = TINY | {"progressive-distillation.last": 2, "flow-map.steps": "4,2"}
    recipe = compose(["progressive-distillation"], given, data="gmm")
    assert recipe.plugins["flow-map"].config["steps"] == (4, 2)
