"""What the compiled step of a training passes between eight devices: no array twice, and nothing more."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys
import equinox as eqx, jax
from scmkit import compose
from scmkit.distribution.collectives import program_costs
from scmkit.distribution.layout import Layout
from scmkit.distribution.mesh import mesh_of
from scmkit.interfaces import DataSpec
from scmkit.planning.program import compiled_step, pretend, shapes_of, skeleton
pretend(8)
plugins, settings, meshes = json.loads(sys.argv[1])
data = DataSpec("photos.store", (3, 16, 16), 10, (0.0,) * 3, (1.0,) * 3)
recipe = compose(plugins, settings | {"train.batch_size": 16}, data=data)
given = skeleton(recipe)
for text in meshes:
    layout = Layout(mesh_of(text), least=1024)
    def divided(tree):
        return sum(a.size * a.dtype.itemsize for a in shapes_of(tree) if layout.axis(a) is not None)
    def least(tree):
        total = sum(a.size * a.dtype.itemsize for a in shapes_of(tree))
        return total - divided(tree) * (1 - 1 / layout.mesh.shape["fsdp"])
    compiled = compiled_step(recipe, given, layout, text)
    costs = program_costs(compiled.as_text())
    players = given.state.players
    print(json.dumps({
        "flops": costs.flops,
        "gathered": costs.bytes("all-gather"),
        "scattered": costs.bytes("reduce-scatter"),
        "reduced": costs.bytes("all-reduce"),
        "weights": {n: divided((p.model, p.loss)) for n, p in players.items()},
        "followers": sum(divided(p.followers) for p in players.values()),
        "teacher": divided(given.setting.teacher),
        "state": least(given.state),
        "held": compiled.memory_analysis().output_size_in_bytes,
    }))
"""

SMALL = {
    "mlp": {"mlp.width": 128, "mlp.depth": 2},
    "dit": {"dit.width": 64, "dit.depth": 2},
    "edm2": {
        "edm2.channels": 32,
        "edm2.multipliers": [1, 2],
        "edm2.blocks": 1,
        "edm2.attention_resolutions": [8],
        "edm2.head_dim": 16,
    },
    "unet": {"unet.channels": 32, "unet.multipliers": [1, 2], "unet.blocks": 1},
    "ddpmpp": {
        "ddpmpp.channels": 32,
        "ddpmpp.multipliers": [1, 2],
        "ddpmpp.blocks": 1,
        "ddpmpp.attention_resolutions": [8],
    },
}


def compiled(method, network, *meshes, **settings):
    given = json.dumps([[method, network], SMALL[network] | settings, meshes])
    command = [sys.executable, "-c", PROGRAM, given]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_second_players_weights_are_gathered_once_for_each_value_they_take():
    """Three updates of the fake's, before which, between which and after which it is seen."""
    (one,) = compiled("dmd2", "mlp", "fsdp=8", **{"dmd2.updates": 3})
    fake, generator = one["weights"]["fake"], one["weights"]["generator"]
    assert min(fake, generator, one["teacher"]) > 0
    assert one["gathered"] == pytest.approx(generator + one["teacher"] + 4 * fake, rel=0.02)
    assert one["scattered"] == pytest.approx(generator + 3 * fake, rel=0.02)
    assert one["held"] == pytest.approx(one["state"], rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "network", "seen"),
    [
        ("diffusion", "mlp", "weights"),
        ("scd", "mlp", "teacher"),
        ("meanflow", "mlp", "weights"),
        ("tcm", "mlp", "followers"),
        *[("scd", network, "teacher") for network in ("dit", "edm2", "unet", "ddpmpp")],
    ],
)
def test_weights_are_gathered_once_and_nothing_is_computed_twice(method, network, seen):
    """`seen` is what losses see besides the weights."""
    whole, divided, both = compiled(method, network, "data=8", "fsdp=8", "data=2,fsdp=4")
    weights = divided["weights"]["generator"]
    also = 0 if seen == "weights" else divided[seen]
    for one in (divided, both):
        assert one["gathered"] == pytest.approx(weights + also, rel=0.02)
        assert one["scattered"] == pytest.approx(weights, rel=0.02)
        assert one["flops"] == pytest.approx(whole["flops"], rel=0.05)
        assert one["held"] == pytest.approx(one["state"], rel=0.05)
    assert whole["gathered"] == whole["scattered"] == 0
    assert whole["reduced"] == pytest.approx(weights + divided["reduced"], rel=0.02)


@pytest.mark.slow
def test_weights_pass_in_half_the_bytes_where_that_is_asked_for():
    whole, half = compiled("scd", "mlp", "fsdp=8", "fsdp=8,gather=bfloat16")
    assert half["gathered"] == pytest.approx(whole["gathered"] / 2, rel=0.02)
    assert half["scattered"] == whole["scattered"]
    assert half["flops"] == whole["flops"]
