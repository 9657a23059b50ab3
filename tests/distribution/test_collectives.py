"""What a compiled program costs: read from real ones, and from lines of other compilers."""

import json
import subprocess
import sys

import pytest

from scmkit.distribution.collectives import Collective, program_costs

PROGRAM = """
import json
import jax
jax.config.update("jax_num_cpu_devices", 4)
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from scmkit.distribution.collectives import program_costs
from scmkit.distribution.mesh import mesh_of

mesh = mesh_of("data=2,fsdp=2")

def own(layers, image, x):
    def layer(x, w):
        w = jax.lax.all_gather(w, "fsdp", axis=0, tiled=True)
        return jnp.tanh(x @ w), None
    x, _ = jax.lax.scan(layer, x, layers)
    up = jax.lax.conv_transpose(image, jnp.ones((3, 3, 8, 8)), (2, 2), "SAME")
    part = jax.lax.psum_scatter(x.T @ x, "fsdp", tiled=True)
    return jax.lax.psum(part, "data"), jax.lax.ppermute(up, "data", [(0, 1), (1, 0)])

specs = (P(None, "fsdp"), P(), P(("data", "fsdp")))
step = jax.jit(jax.shard_map(own, mesh=mesh, in_specs=specs, out_specs=(P("fsdp"), P("data"))))
shapes = [(3, 16, 16), (1, 8, 8, 8), (32, 16)]
text = step.lower(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)).compile().as_text()
costs = program_costs(text)
print(json.dumps([costs.flops, [[c.kind, c.group, c.bytes, c.sent] for c in costs.collectives]]))
"""


def test_costs_of_a_compiled_program_with_a_loop() -> None:
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    flops, passed = json.loads(done.stdout)
    found = {kind: tuple(rest) for kind, *rest in passed}
    weights, products = 16 * 16 * 4, 16 * 16 * 4
    assert found["all-gather"] == ([0, 1], 3 * weights, 3 * weights / 2)
    assert found["reduce-scatter"] == ([0, 1], products, products / 2)
    assert found["all-reduce"] == ([0, 2], products / 2, products / 2)
    # Twice the sides of an image of 8 by 8 with 8 channels; each output is the sum of 9 / 4 places.
    image = 16 * 16 * 8
    assert found["collective-permute"] == ([0, 2], image * 4, image * 4)
    assert flops == 4 * 2 * 8 * 16 * 16 + 2 * image * 8 * 9 / 4


HEAD = "HloModule step, num_partitions=8\n\nENTRY %main (a: f32[4,2]) -> f32[4,2] {\n"
GATHER = "  %a = f32[4,2]{1,0} parameter(0)\n  %b = f32[8,2]{1,0} all-gather(%a), dimensions={0}, "


@pytest.mark.parametrize(
    ("groups", "group"),
    [
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}, x=1", (0, 4)),
        ("replica_groups={}, x=1", (0, 1, 2, 3, 4, 5, 6, 7)),
        ("replica_groups=[2,4]<=[8], x=1", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0), x=1", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}, x=1", (0, 4)),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}, x=1", (0, 1, 2, 3)),
    ],
)
def test_groups_of_devices_in_every_notation(groups: str, group: tuple[int, ...]) -> None:
    costs = program_costs(f"{HEAD}{GATHER}{groups}\n}}\n")
    assert costs.collectives == (Collective("all-gather", group, 32.0 * len(group)),)
    assert costs.bytes("all-gather") == 32 * len(group)
    assert costs.bytes("all-reduce") == 0


def test_what_is_in_flight_counts_once_and_of_branches_the_dearest() -> None:
    text = """HloModule step, num_partitions=2

%little (p: bf16[4]) -> bf16[4] {
  %p = bf16[4]{0} parameter(0)
  ROOT %q = bf16[4]{0} all-reduce(%p), replica_groups={{0,1}}, to_apply=%sum
}

%much (r: bf16[4]) -> bf16[4] {
  %r = bf16[4]{0} parameter(0)
  %s = bf16[4]{0} all-reduce(%r), replica_groups={{0,1}}, to_apply=%sum
  ROOT %t = bf16[4]{0} all-reduce(%s), replica_groups={{0,1}}, to_apply=%sum
}

%sum (x: bf16[], y: bf16[]) -> bf16[] {
  %x = bf16[] parameter(0)
  %y = bf16[] parameter(1)
  ROOT %z = bf16[] add(%x, %y)
}

ENTRY %main (i: s32[], v: bf16[4]) -> bf16[8] {
  %i = s32[] parameter(0)
  %v = bf16[4]{0} parameter(1)
  %c = bf16[4]{0} conditional(%i, %v, %v), branch_computations={%little, %much}
  %start = (bf16[4]{0}, bf16[8]{0}) all-gather-start(%c), replica_groups={{0,1}}, dimensions={0}
  ROOT %done = bf16[8]{0} all-gather-done(%start)
}
"""
    passed = {one.kind: one.bytes for one in program_costs(text).collectives}
    assert passed == {"all-reduce": 16, "all-gather": 16}


def test_other_text_and_hidden_products_are_refused() -> None:
    with pytest.raises(ValueError, match="no compiled program"):
        program_costs("module @jit_step {}")
    hidden = '  %b = f32[4,2]{1,0} custom-call(), custom_call_target="__onednn$matmul"'
    with pytest.raises(ValueError, match=r"__onednn\$matmul"):
        program_costs(f"{HEAD}{hidden}\n}}\n")
