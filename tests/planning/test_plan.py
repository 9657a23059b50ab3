"""Plans: the arithmetic of bounds and of memory, and the command from end to end."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from scmkit_cli.main import main

from scmkit.distribution.collectives import Collective
from scmkit.planning import Plan
from scmkit.planning.hardware import TARGETS, Target
from scmkit.planning.memory import Memory, Split, lasting, nearest

TARGET = Target("t", {"float32": 100.0}, memory=1000.0, bandwidth=50.0, node=2, near=10.0, far=2.0)


def test_rings_within_a_node_and_between_nodes() -> None:
    assert TARGET.between((0, 1)) == 10
    assert TARGET.between((0, 2, 4)) == 2
    assert TARGET.between((0, 1, 2, 3)) == 4  # Both devices of a node have a way out.
    assert dataclasses.replace(TARGET, far=9.0).between((0, 1, 2, 3)) == 10


def test_bounds_of_a_step() -> None:
    plan = Plan(
        network="mlp",
        loss="diffusion",
        parameters={"generator": 1},
        split=Split(2, 2, 1),
        target=TARGET,
        batch_size=12,
        steps=100,
        precision="float32",
        memory=Memory({"weights": 25.0, "moments": 50.0, "teacher": 300.0}, 500.0),
        flops=100.0,
        collectives=(Collective("all-gather", (0, 1), 40.0), Collective("all-reduce", (0, 2), 4.0)),
    )
    assert (plan.multiplying, plan.updating) == (1, 2 * 75 / 50)
    assert plan.passing == 40 / 2 / 10 + 2 * 4 / 2 / 2
    assert plan.step_seconds == (4, 8)
    assert plan.images_per_second == (3, 1.5)
    assert plan.device_hours == (4 * 100 * 4 / 3600, 8 * 100 * 4 / 3600)
    assert plan.fits
    assert json.dumps(plan.to_json())


def weights(*sides: int) -> dict[str, Any]:
    kinds = ("weights", "moments", "averages", "followers", "teacher", "memories", "other")
    array = jax.ShapeDtypeStruct(sides, jnp.float32)
    return {kind: () for kind in kinds} | {"weights": array, "moments": (array, array)}


def test_memory_of_another_mesh_by_the_rule() -> None:
    kinds, whole = weights(512, 1024), 512 * 1024 * 4
    assert lasting(kinds, Split(8, 1, 1)) == {"weights": whole, "moments": 2 * whole}
    assert lasting(kinds, Split(1, 8, 1)) == {"weights": whole / 8, "moments": whole / 4}
    small = weights(3, 5)
    assert lasting(small, Split(1, 8, 1)) == lasting(small, Split(8, 1, 1))


@pytest.mark.parametrize(
    ("room", "remedy"),
    [
        # In units of the weights: 3 that last, 1 of gradients and 2 of activations. Divided by m, the
        # first are fewer, and the weights are there whole for a while: 3 / m + 1 + 1 + 2.
        (5.6, Split(4, 2, 1)),
        (4.9, Split(2, 4, 1)),
        # With micro-batches another 1 of gradients: 3 / 8 + 1 + 2 + 2 / 4.
        (4.0, Split(1, 8, 4)),
        (2.0, None),
    ],
)
def test_the_least_change_that_fits(room: float, remedy: Split | None) -> None:
    whole = 512 * 1024 * 4.0
    kinds, planned = weights(512, 1024), Split(8, 1, 1)
    memory = Memory(lasting(kinds, planned), 3 * whole)
    target = dataclasses.replace(TARGETS["h100"], memory=room * whole / 0.9)
    assert not memory.fits(target)
    assert nearest(kinds, planned, memory, 64, target) == remedy


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    code = "from scmkit_cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "plan", *arguments], capture_output=True, text=True
    )


def test_a_plan_from_the_command_line(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('plugins = ["mlp", "diffusion"]\n[settings.mlp]\nwidth = 256\n')
    given = (str(recipe), "--shape", "64", "--classes", "10", "--set", "train.batch_size=64")
    done = command(*given, "--devices", "8", "--mesh", "fsdp=4", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    (parameters,) = plan["parameters"].values()
    memory, passed = plan["memory"]["lasting"], {}
    for one in plan["collectives"]:
        passed[one["kind"]] = max(passed.get(one["kind"], 0), one["bytes"])
    assert plan["mesh"] == "data=2,fsdp=4"
    assert plan["fits"]
    assert memory["moments"] == pytest.approx(2 * memory["weights"], rel=0.01)
    # Large arrays are divided by four and gathered, small ones are whole.
    assert 4 * parameters / 4 < memory["weights"] < 1.1 * 4 * parameters / 4
    assert (
        passed["all-gather"] == passed["reduce-scatter"] == pytest.approx(4 * parameters, rel=0.05)
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--target", "h10"], "did you mean 'h100'"),
        (["--devices", "8", "--mesh", "data=3"], "there are 8"),
        (["--classes", "3"], "--shape"),
        (["--shape", "3,x"], "positive whole numbers"),
        (["--shape", "3", "--data", "digits"], "leave out --data"),
        (["--devices", "4096"], "JAX has begun"),
    ],
)
def test_errors_are_one_line(
    given: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert jax.devices()
    monkeypatch.setattr(sys, "argv", ["scmkit", "plan", *given])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1
