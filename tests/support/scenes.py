"""Scenes for losses that are called by hand."""

import jax.numpy as jnp
from scmkit_plugins.methods._data_tangent import DataTangent
from scmkit_plugins.processes.log_normal import LogNormal

from scmkit.interfaces import Scene


def scene_for(model, *, tangent=None, proposal=None, step=0, steps=1, **rest):
    """A scene at a step of a training; by default its tangent is the data's, its proposal log-normal."""
    return Scene(
        step=jnp.asarray(step, jnp.int32),
        progress=jnp.asarray(step / steps, jnp.float32),
        proposal=LogNormal(-1.0, 1.4) if proposal is None else proposal,
        tangent=DataTangent(model.process) if tangent is None else tangent,
        **rest,
    )
