"""Models take one sample at one time: anything else is refused in one line, while JAX traces."""

import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import pytest
from scmkit_plugins.samplers.consistency import ConsistencySampler

from scmkit import Conditioning, Guided, build_model, compose, log_likelihood, sample
from scmkit.editing import encode, interpolate
from scmkit.errors import InputError, UsageError
from scmkit.interfaces import DataSpec
from scmkit.sampling import draw

TINY = {"mlp.width": 8, "mlp.depth": 1, "mlp.embedding_dim": 8, "positional.channels": 8}
X, BATCH = jnp.zeros(2), jnp.zeros((4, 2))
LABELS = Conditioning(jnp.arange(4))


@pytest.fixture(autouse=True)
def unchecked():
    """Without the suite's own check of shapes, which users do not have."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def strengths():
    return Conditioning(jnp.asarray(0), {"guidance": jnp.ones(2)})


def of(method: str):
    data = DataSpec("none", (2,), 4, (0.0, 0.0), (1.0, 1.0))
    return build_model(compose(["trigflow", method], TINY, data=data), key=jr.key(0))


MODEL, FLOW_MAP = of("diffusion"), of("meanflow")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MODEL.denoise(BATCH, 0.3), r"x_t has shape \(4, 2\), and must have \(2,\)"),
        (lambda: MODEL.velocity(X, jnp.ones(2)), r"t has shape \(2,\), and must have \(\)"),
        (lambda: MODEL.raw(X, 0.3, LABELS), r"cond.label has shape \(4,\), and must have \(\)"),
        (lambda: FLOW_MAP.jump(X, 0.3, jnp.zeros(3)), r"s has shape \(3,\), and must have \(\)"),
        (lambda: Guided(MODEL).denoise(X, 0.3, strengths()), r"'guidance'\] has shape \(2,\)"),
        (lambda: jax.vmap(MODEL.denoise, (0, None))(BATCH[None], 0.3), r"x_t has shape \(4, 2\)"),
        (lambda: log_likelihood(MODEL, BATCH), r"x_t has shape \(4, 2\)"),
        (lambda: encode(MODEL, BATCH), r"x_t has shape \(4, 2\)"),
        (lambda: interpolate(X, BATCH, 0.5), r"a has shape \(2,\), b \(4, 2\)"),
        (lambda: MODEL.denoise(X, float("nan")), "t is nan: a time is a finite number"),
        (lambda: MODEL.jump(X, 0.3, np.float64(-1)), "s is -1.0: a time is a finite number"),
    ],
)
def test_what_is_not_one_sample_is_refused(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_samples_have_a_condition_each():
    noise = jnp.zeros((3, 2))
    with pytest.raises(UsageError, match=r"conditions of shape \(4,\): give one for each of 3"):
        draw(MODEL, ConsistencySampler(()), noise, LABELS, steps=1, key=jr.key(0))
    other = DataSpec("none", (3,), 4, (0.0,) * 3, (1.0,) * 3)
    with pytest.raises(InputError, match=r"x_t has shape \(3,\), and must have \(2,\)"):
        sample(MODEL, other, 4)


def test_a_check_leaves_nothing_in_the_program():
    bare = MODEL.network, MODEL.parameterization

    def alone(x, t):
        network, param = bare
        c = param.coefficients(t)
        return param.denoise(network(c.in_ * x, c.noise, Conditioning(), key=None), x, t)

    program = jax.make_jaxpr(MODEL.denoise)(X, jnp.asarray(0.3))
    assert len(program.eqns) == len(jax.make_jaxpr(alone)(X, jnp.asarray(0.3)).eqns)
