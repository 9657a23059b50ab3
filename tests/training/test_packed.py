"""Trees of modules as rows of arrays: nothing is lost, and nothing is compiled anew."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from scmkit.training.packed import pack


def test_a_tree_comes_back_and_its_form_is_traced_once():
    traced = []

    @eqx.filter_jit
    def double(packed):
        traced.append(None)
        model = packed.tree
        return packed.holding(jax.tree.map(lambda a: 2 * a if eqx.is_array(a) else a, model))

    model = eqx.nn.MLP(2, 3, 4, 1, key=jr.key(0))
    packed = pack(model)
    assert eqx.tree_equal(packed.tree, model)
    other = packed.holding(jax.tree.map(lambda a: a + 1 if eqx.is_array(a) else a, model))
    twice = double(double(double(other)))
    assert len(traced) == 1
    assert twice.tree.activation is model.activation
    np.testing.assert_array_equal(twice.tree.layers[0].weight, 8 * (model.layers[0].weight + 1))


def test_a_tree_of_another_form_is_refused():
    with pytest.raises(ValueError, match="another form"):
        pack({"a": jnp.ones(2)}).holding({"b": jnp.ones(2)})
