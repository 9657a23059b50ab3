"""The diffusion loss is every parameterization's own denoising loss."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from exact import Identity
from scenes import scene_for
from scmkit_plugins.methods.diffusion import DiffusionLoss, Options
from scmkit_plugins.modulation.positional import PositionalEmbedding
from scmkit_plugins.processes.edm import EDMParameterization, VarianceExploding
from scmkit_plugins.processes.flow_matching import RectifiedFlow, VelocityParameterization
from scmkit_plugins.processes.log_normal import LogNormal
from scmkit_plugins.processes.preconditioned import Preconditioned
from scmkit_plugins.processes.trigflow import TrigFlowParameterization, TrigFlowProcess
from scmkit_plugins.processes.vp import VariancePreserving

from scmkit import Model
from scmkit.interfaces import Conditioning, Sample
from scmkit.losses import LogWeight

SD = 0.5
PROPOSAL = LogNormal(-0.8, 1.6)
LOSS = DiffusionLoss(
    log_weight=LogWeight(PositionalEmbedding(channels=8)),
    num_classes=3,
    options=Options(label_dropout=0.25),
)
PARAMS = {
    "trigflow": TrigFlowParameterization(TrigFlowProcess(SD), SD),
    "edm": EDMParameterization(VarianceExploding(), SD),
    "flow": VelocityParameterization(RectifiedFlow(), SD),
    "vp": Preconditioned(VariancePreserving(), SD),
}


@pytest.mark.parametrize("name", PARAMS)
def test_value_is_the_network_space_error(name, getkey):
    model = Model(PARAMS[name], Identity())
    for _ in range(5):
        key, x0 = getkey(), SD * jr.normal(getkey(), (6,))
        out = LOSS(model, scene_for(model, proposal=PROPOSAL), Sample(x0), key=key)
        k_time, k_noise, *_ = jr.split(key, 4)
        t, eps = PROPOSAL.sample(model.process, key=k_time), jr.normal(k_noise, (6,))
        x_t = model.process.perturb(x0, eps, t)
        c, F = model.parameterization.coefficients(t), model.raw(x_t, t)
        if name == "flow":
            target = eps - x0
        elif name == "trigflow":
            target = (jnp.cos(t) * SD * eps - jnp.sin(t) * x0) / SD
        else:
            target = (x0 - c.skip * x_t) / c.out
        np.testing.assert_allclose(out.value, jnp.mean((F - target) ** 2), rtol=1e-3)
        np.testing.assert_allclose(out.ratio, model.process.ratio(t), rtol=1e-6)


def test_labels_are_dropped_at_the_given_rate(getkey):
    seen = []

    class Spy(Identity):
        def __call__(self, x, c_noise, cond, *, key):
            seen.append(int(cond.label))
            return x

    model = Model(PARAMS["trigflow"], Spy())
    cond = Conditioning(jnp.asarray(1, jnp.int32))
    for i in range(200):
        LOSS(model, scene_for(model), Sample(jnp.zeros(2), cond), key=jr.key(i))
    assert set(seen) == {1, 3}
    assert 0.15 < np.mean(np.array(seen) == 3) < 0.35
