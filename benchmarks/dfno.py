"""DFNO on the one-dimensional mixture of `methods.py`, in its budget, from trajectories of the exact model.

The trajectories are stored as `scmkit data pairs --times` stores them; the figures are of one step.
"""

import argparse
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from common import write
from methods import NETWORK, TRAINING, Method, scored

from scmkit import build, build_model, compose, dataset_of
from scmkit.composing.build import build_free
from scmkit.data import Loader
from scmkit.data.layout import PairsRecord
from scmkit.interfaces import Sample
from scmkit.plugin import Slot
from scmkit.sampling import times_of, write_pairs
from scmkit.testing import exact_model
from scmkit.training.setup import setting_of, state_before, step_of

SIZE, SOLVER_STEPS = 20_000, 128
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "dfno": (4, {}),
    "dfno-equal-weights": (4, {"dfno.weight_max": 1.0}),
    "dfno-sample-alone": (0, {}),
}
"""The times of a trajectory, 0 for pairs without states between, and the method's options."""


def store(path: Path, times: int) -> None:
    """Trajectories from the exact velocity, of so many times."""
    recipe = compose(["vp", "diffusion"], NETWORK | {"gmm.size": SIZE}, data="gmm")
    dataset, data = dataset_of(recipe), recipe.data
    density = dataset.density()
    assert density is not None
    density = density.affine(jnp.asarray(data.shift), jnp.asarray(data.scale))
    model = exact_model(build_model(recipe, key=jr.key(0)).parameterization, density)
    sampler = build_free(Slot.sampler, "pf-ode", {"grid": "quadratic"})
    record = PairsRecord(
        run="the exact model",
        step=0,
        digest="",
        process="vp",
        process_options={},
        noise_std=float(model.process.sigma(model.process.t_max)),
        sampler="pf-ode",
        sampler_options=asdict(sampler.options),
        steps=SOLVER_STEPS,
        seed=0,
        times=times_of(sampler, "pf-ode", model, SOLVER_STEPS, times) if times else (),
    )
    write_pairs(path, model, data, dataset, SIZE, sampler, record)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--steps", type=int, default=2000, help="of training")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.cases:
            times, options = CASES[name]
            path = Path(folder) / f"times-{times}"
            if not path.exists():
                store(path, times)
            start = time.perf_counter()
            rows = trained(path, options, args.steps, args.batch)
            seconds = round(time.perf_counter() - start)
            results += [{"method": name, **row, "seconds": seconds} for row in rows]
            print(results[-1], flush=True)
    write(args.out, results)


def trained(path: Path, options: dict[str, Any], steps: int, batch: int) -> list[dict[str, Any]]:
    """The figures after a training on a store."""
    network = {f"operator-{name}": value for name, value in NETWORK.items() if name[:3] == "mlp"}
    given = network | {"positional.channels": 32} | TRAINING | options
    given |= {"train.ema": "none", "train.steps": steps, "train.batch_size": batch}
    recipe = compose(["vp", "dfno"], given, data=str(path))
    parts = build(recipe, key=jr.key(recipe.train.seed))
    # The step donates its state, and one buffer cannot be donated twice.
    setting, state = jax.tree.map(
        lambda a: jnp.copy(a) if eqx.is_array(a) else a,
        (setting_of(parts), state_before(recipe, parts)),
    )
    step = eqx.filter_jit(step_of(recipe))
    with Loader(dataset_of(recipe), recipe.data, batch, 0, noise=True) as loader:
        for _ in range(steps):
            x0, _ = next(loader)
            stored = (loader.last_noise, loader.last_states)
            eps, states = (None if a is None else jnp.asarray(a) for a in stored)
            sample = Sample(jnp.asarray(x0), eps=eps, states=states)
            state, _ = step(setting, sample, jr.key(recipe.train.seed), state)
    data = recipe.data
    density = dataset_of(compose(["vp", "diffusion"], {}, data="gmm")).density()
    assert density is not None
    density = density.affine(jnp.asarray(data.shift), jnp.asarray(data.scale))
    sampler = build_free(Slot.sampler, *recipe.recorded(recipe.sampler))
    return scored(state.generator.ema, sampler, density, Method([], steps=(1,)))


if __name__ == "__main__":
    main()
