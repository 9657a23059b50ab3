"""Players, groups, class sets and stages on one device and on meshes of two and four: the same losses."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys
import equinox as eqx, jax, jax.numpy as jnp, jax.random as jr
from scmkit import build, compose
from scmkit.distribution.gradient import ByHand
from scmkit.distribution.layout import Layout
from scmkit.distribution.mesh import mesh_of
from scmkit.interfaces import Conditioning, Sample
from scmkit.training.setup import setting_of, state_before, step_of
method, settings = json.loads(sys.argv[1])
small = {"mlp.width": 16, "mlp.depth": 1, "mlp.embedding_dim": 8, "positional.channels": 8}
small |= {"train.batch_size": 8, "train.steps": 6, "train.lr": 1e-3}
recipe = compose([method], small | settings, data="digits")
teacher = build(compose(["diffusion"], small, data="digits"), key=jr.key(5)).model
shape, cond = recipe.data.shape, Conditioning(jnp.arange(8) % 3)
devices = jax.local_devices()
assert len(devices) == 4
for text in ("data=1", "data=2", "data=2,fsdp=2", "fsdp=4"):
    mesh = mesh_of(text, devices[: 1 if text == "data=1" else 2 if text == "data=2" else 4])
    layout = Layout(mesh, least=64)
    assembly = build(recipe, key=jr.key(0), teacher=teacher)
    setting = layout.placed(setting_of(assembly))
    state = layout.placed(state_before(recipe, assembly))
    step, lines = eqx.filter_jit(step_of(recipe, ByHand(layout) if mesh.size > 1 else None)), []
    for i in range(6):
        batch = layout.samples(Sample(0.5 * jr.normal(jr.key(i), (8, *shape)), cond))
        state, metrics = step(setting, batch, jr.key(9), state)
        lines.append({name: float(value) for name, value in metrics.means.items()})
    print(json.dumps(lines))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "settings", "players"),
    [
        ("sida", {}, {"fake", "critic"}),
        ("dmd2", {"dmd2.gan": "hinge", "dmd2.updates": 2}, {"fake", "critic"}),
        ("imm", {}, set()),
        ("drifting", {"train.warmup": 0}, set()),
        ("rcm", {"rcm.discrete": 0.34, "rcm.alone": 0.34}, {"fake"}),
    ],
    ids=["critic", "hinge", "groups", "classes", "stages"],
)
def test_every_player_has_the_losses_of_one_device(method, settings, players):
    """Each on a part of the batch that holds neither whole groups nor whole classes."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    command = [sys.executable, "-c", PROGRAM, json.dumps([method, settings])]
    env = os.environ | {"XLA_FLAGS": flags}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    one, *others = map(json.loads, done.stdout.splitlines())
    assert len(others) == 3
    assert {name.split("/")[0] for name in one[0] if "/" in name} == players
    for other in others:
        for mine, its in zip(one, other, strict=True):
            # As with one player: sums in another order, which Adam's quotients hand on.
            assert its == pytest.approx(mine, rel=1e-4, abs=1e-6)
