"""Every method on a one-dimensional Gaussian mixture, where the right answer is known.

Each trains the same small network for the same number of steps with the pieces below `scmkit.train`. For each
number of sampling steps it reports the energy distance to the data and, for deterministic samplers of methods
that aim at it, the RMS error to the exact map (the data's deviation is 0.5). Where a method needs no more of
its teacher than a velocity, the teacher is exact; where it starts from the teacher's weights, it is a trained
diffusion model. The residuals are plain squares: one normalised sample by sample is biased in one dimension.
"""

import argparse
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from common import write
from jaxtyping import Array

from scmkit import Model, build, build_model, compose, dataset_of
from scmkit.composing.build import build_free
from scmkit.interfaces import UNCONDITIONED, AbstractDensity, AbstractNoiseProcess, Sample
from scmkit.plugin import Slot
from scmkit.testing import exact_model
from scmkit.training.setup import setting_of, state_before, step_of
from scmkit.training.start import weights_from

NETWORK = {"mlp.width": 64, "mlp.depth": 2, "mlp.embedding_dim": 64, "positional.channels": 32}
TRAINING = {
    "train.lr": 2e-3,
    "train.schedule": "cosine",
    "train.optimizer": "adam",
    "train.beta2": 0.99,
}
NOISE = {"log-normal.mean": 0.0, "log-normal.std": 1.8}
DRAWS = 4000


@dataclass(frozen=True)
class Method:
    """How a method is trained and sampled."""

    plugins: list[str]
    settings: dict[str, Any] = field(default_factory=dict)
    trained: bool = False
    """Whether the teacher is a trained network, whose weights the student starts from."""
    steps: tuple[int, ...] = (1, 2)
    aims_at_the_map: bool = True
    pairs: bool = False
    """Whether its data are pairs along the exact map, of noise and sample."""


METHODS = {
    "sct": Method(["sct"], {"sct.normalize": "none"}),
    "scd": Method(["scd"]),
    "ect": Method(["ect", "edm"], {"l2.squared": True}),
    "cd": Method(["cd"]),
    "cd-ddim": Method(["cd"], {"cd.solver": "ddim"}),
    "cd-edm": Method(["cd", "edm"]),
    "ct": Method(["ct"], {"ct.mu0": 0.0}),
    "ct-lagging": Method(["ct"]),
    "ict": Method(["ict", "l2"]),
    "tcm": Method(["tcm"], {"l2.squared": True}),
    "dscd": Method(
        ["dscd"],
        {
            "dscd.points": 257,
            "dscd.warmup_steps": 0,
            "log-normal.mean": -1.0,
            "log-normal.std": 1.4,
        },
    ),
    "cmt": Method(["cmt"]),
    "consistency-fm": Method(
        ["consistency-fm"],
        {
            "consistency-fm.segments": 1,
            "consistency-fm.delta": 0.01,
            "consistency-fm.warm_start": 0.0,
        },
        steps=(1,),
    ),
    "consistency-fm-segments": Method(
        ["consistency-fm"],
        {"consistency-fm.delta": 0.01, "consistency-fm.warm_start": 0.0},
        steps=(2,),
    ),
    "meanflow": Method(
        ["meanflow", "tangent=scd"], {"meanflow.power": 0.0, "train.beta2": 0.99}, steps=(1, 2, 4)
    ),
    "meanflow-from-weights": Method(
        ["meanflow", "tangent=scd"],
        {"meanflow.power": 0.0, "train.beta2": 0.99},
        trained=True,
        steps=(1, 2, 4),
    ),
    "meanflow-decoupled": Method(
        ["meanflow", "tangent=scd"],
        {"meanflow.power": 0.0, "train.beta2": 0.99, "mlp.decoupled": 1},
        trained=True,
        steps=(1, 2, 4),
    ),
    "improved-meanflow": Method(
        ["improved-meanflow", "tangent=scd"],
        {"improved-meanflow.power": 0.0, "train.beta2": 0.99},
        steps=(1, 2, 4),
    ),
    "ayf": Method(["ayf"], {"ayf.normalize": "none", "ayf.warmup_steps": 200}, steps=(1, 2, 4)),
    "ayf-lagrangian": Method(
        ["ayf"], {"ayf.normalize": "none", "ayf.objective": "lagrangian"}, steps=(1, 2, 4)
    ),
    "ayf-regression": Method(["ayf"], {"ayf.objective": "regression"}, steps=(1, 2, 4)),
    "lsd": Method(["lsd"], {}, steps=(1, 2, 4)),
    "psd": Method(["psd"], {"psd.equal": 0.5}, steps=(1, 2, 4)),
    "esd": Method(["esd"], {}, steps=(1, 2, 4)),
    "tvm": Method(["tvm"], {"train.beta2": 0.99}, steps=(1, 2, 4)),
    "shortcut": Method(
        ["shortcut"],
        {"shortcut.share": 0.5, "shortcut.decay": 0.99, "train.beta2": 0.99},
        steps=(1, 2, 4),
    ),
    "split-meanflow": Method(["split-meanflow", "tangent=scd"], {}, steps=(1, 2, 4)),
    "soflow": Method(["soflow", "tangent=scd"], {"soflow.power": 0.0}, steps=(1, 2, 4)),
    "facm": Method(
        ["facm", "tangent=scd"], {"facm.cosine": 0.0, "train.beta2": 0.99, "train.clip": 0.0}
    ),
    "ctm": Method(["ctm"], {"ctm.decay": 0.99, "train.beta2": 0.99}, steps=(1, 2, 4)),
    "progressive-distillation": Method(
        ["progressive-distillation"], {"train.clip": 0.0}, trained=True, steps=(1,)
    ),
    "ms-scd": Method(["ms-scd"], {"ms-scd.segments": 2}, steps=(2,)),
    "continuous-cd": Method(["continuous-cd"]),
    "continuous-ct": Method(["continuous-ct"]),
    "tract": Method(["tract"], {"tract.schedule": (32, 1), "train.clip": 0.0}, steps=(1,)),
    "tract-phases": Method(
        ["tract"], {"tract.schedule": (64, 8, 1), "train.clip": 0.0}, trained=True, steps=(1,)
    ),
    "tract-edm": Method(
        ["tract", "edm"],
        {"tract.form": "edm", "tract.schedule": (40, 1), "train.clip": 0.0},
        steps=(1,),
    ),
    "multistep-cd": Method(["multistep-cd"], {"multistep-cd.segments": 2}, steps=(2,)),
    "pid": Method(["pid"], {"pid.grid": "angle"}, steps=(1,)),
    "pid-velocity": Method(
        ["pid"],
        {"pid.grid": "angle", "pid.points": 65, "pid.residual": "velocity"},
        steps=(1,),
    ),
    "boot": Method(["boot"], steps=(1,)),
    "flow-matching": Method(
        ["flow-matching", "diffusion", "uniform", "ddim"],
        {"ddim.grid": "time", "ddim.to_zero": False},
        steps=(1, 2, 4),
    ),
    "imm": Method(["imm"], steps=(1, 2, 4)),
    "drifting": Method(
        ["drifting"],
        {"train.clip": 0.0, "train.warmup": 0},
        steps=(1,),
        aims_at_the_map=False,
    ),
    "drifting-bank": Method(
        ["drifting"],
        {"train.clip": 0.0, "train.warmup": 0, "drifting.bank": 512, "drifting.group": 16},
        steps=(1,),
        aims_at_the_map=False,
    ),
    "reflow": Method(["reflow"], steps=(1, 2, 4), pairs=True),
    "reflow-distillation": Method(["reflow-distillation"], steps=(1,), pairs=True),
    **{
        name: Method(
            [name],
            {"train.lr": 5e-4, "log-normal.mean": -0.8, "log-normal.std": 1.6} | settings,
            trained=True,
            steps=(1,),
            aims_at_the_map=False,
        )
        for name, settings in {
            "diff-instruct": {"fake.lr": 2e-3},
            "vsd": {"fake.lr": 2e-3},
            "dmd": {"fake.lr": 2e-3},
            "dmd2": {},
            "sid": {"fake.lr": 2e-3, "train.beta1": 0.9},
            "sida": {"fake.lr": 2e-3, "critic.lr": 2e-3, "train.beta1": 0.9},
            "emd": {"fake.lr": 2e-3},
            "f-distill": {},
        }.items()
    },
    "vsd-scd": Method(["vsd-scd"], {"train.lr": 5e-4, "fake.lr": 2e-3}, trained=True),
    "rcm": Method(["rcm"], {"rcm.normalize": "none", "rcm.warmup_steps": 200}, trained=True),
    "rcm-chain": Method(
        ["rcm"],
        {"rcm.normalize": "none", "rcm.warmup_steps": 200, "rcm.discrete": 0.3, "rcm.alone": 0.3},
        trained=True,
    ),
    **{
        f"moment-matching-{k}": Method(
            ["moment-matching"],
            {"moment-matching.steps": k, "train.lr": 5e-4, "fake.lr": 2e-3},
            trained=True,
            steps=(k,),
            aims_at_the_map=False,
        )
        for k in (1, 2, 4)
    },
    "fsf-dmd": Method(["fsf-dmd"], trained=True, steps=(1,), aims_at_the_map=False),
    "dmd2-hinge": Method(
        ["dmd2"],
        {"dmd2.gan": "hinge", "train.lr": 5e-4, "log-normal.mean": -0.8, "log-normal.std": 1.6},
        trained=True,
        steps=(1,),
        aims_at_the_map=False,
    ),
    "ladd": Method(
        ["ladd"],
        {"train.lr": 2e-4, "critic.lr": 2e-3, "train.beta1": 0.0},
        trained=True,
        steps=(1,),
        aims_at_the_map=False,
    ),
    "dmd2-softplus": Method(
        ["dmd2"],
        {
            "dmd2.gan": "softplus",
            "train.lr": 5e-4,
            "log-normal.mean": -0.8,
            "log-normal.std": 1.6,
        },
        trained=True,
        steps=(1,),
        aims_at_the_map=False,
    ),
}


def fit(
    plugins: list[str],
    settings: dict[str, Any],
    steps: int,
    batch: int,
    teacher: str,
    *,
    paired: bool = False,
) -> tuple[Model, Any, AbstractDensity]:
    """The averaged model after a training, its sampler and the density in the model's units.

    `teacher` is `"exact"`, or the name of a model in `TRAINED`; `paired` data are pairs along the exact map.
    """
    given = NETWORK | TRAINING | {"train.ema": "none", "gmm.size": 20_000} | settings
    given |= {"train.steps": steps, "train.batch_size": batch}
    recipe = compose(plugins, given, data="gmm", base=NOISE)
    recipe = recipe.replace(data=replace(recipe.data, paired=paired))
    dataset, data = dataset_of(recipe), recipe.data
    density = dataset.density()
    assert density is not None
    density = density.affine(jnp.asarray(data.shift), jnp.asarray(data.scale))
    key = jr.key(recipe.train.seed)
    parameterization = build_model(recipe, key=key).parameterization
    model = TRAINED.get(teacher) or exact_model(parameterization, density)
    parts = build(recipe, key=key, teacher=model)
    if teacher in TRAINED:
        parts = eqx.tree_at(lambda p: p.model, parts, weights_from(model, parts.model))
        for name, (module, loss) in parts.players.items():
            copy = model if isinstance(module, Model) else module
            players = parts.players | {name: (copy, loss)}
            parts = eqx.tree_at(lambda p: p.players, parts, players)
    # The step donates its state, and one buffer cannot be donated twice.
    setting, state = jax.tree.map(
        lambda a: jnp.copy(a) if eqx.is_array(a) else a,
        (setting_of(parts), state_before(recipe, parts)),
    )
    step = eqx.filter_jit(step_of(recipe))
    rng = np.random.default_rng(7)
    drawn = pairs(parts.model.process, density, dataset.size("train")) if paired else None
    for _ in range(steps):
        chosen = rng.integers(0, dataset.size("train"), batch)
        if drawn is None:
            sample = Sample(jnp.asarray(data.normalize(dataset.read("train", chosen)[0])))
        else:
            eps, x0 = drawn
            sample = Sample(x0[chosen], eps=eps[chosen])
        state, _ = step(setting, sample, key, state)
    sampler = build_free(Slot.sampler, *recipe.recorded(recipe.sampler))
    return state.generator.ema, sampler, density


def pairs(process: AbstractNoiseProcess, density: AbstractDensity, n: int) -> tuple[Array, Array]:
    """Noise, N(0, 1), and where the exact map takes it."""
    eps, T = jr.normal(jr.key(11), (n, 1)), process.t_max
    return eps, jax.vmap(lambda e: density.consistency(process, process.sigma(T) * e, T))(eps)


TRAINED: dict[str, Model] = {}


def energy_distance(x: np.ndarray, y: np.ndarray) -> float:
    """The energy distance of two samples of one dimension, by their sorted values."""

    def mean_gap(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.abs(a[:, None] - b[None]).mean())

    return 2 * mean_gap(x, y) - mean_gap(x, x) - mean_gap(y, y)


def scored(
    model: Model, sampler: Any, density: AbstractDensity, method: Method
) -> list[dict[str, Any]]:
    process, key = model.process, jr.key(99)
    noise = jax.vmap(lambda k: process.prior((1,), key=k))(jr.split(key, DRAWS))
    exact = jax.vmap(lambda x: density.consistency(process, x, process.t_max))(noise)
    rows = []
    for steps in method.steps:
        draw = eqx.filter_jit(
            jax.vmap(lambda x, k, n=steps: sampler(model, x, UNCONDITIONED, steps=n, key=k).x)
        )
        x = draw(noise, jr.split(jr.key(5), DRAWS))
        row: dict[str, Any] = {"steps": steps}
        if method.aims_at_the_map and sampler.deterministic(steps):
            row["map"] = float(jnp.sqrt(jnp.mean((x - exact) ** 2)))
        data = np.asarray(density.sample(DRAWS, key=jr.key(3)))  # pyright: ignore[reportAttributeAccessIssue]
        row["energy"] = energy_distance(np.asarray(x)[:, 0], data[:, 0])
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--steps", type=int, default=2000, help="of training")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results = []
    for name in args.methods:
        method, start = METHODS[name], time.perf_counter()
        if method.trained and "trigflow" not in TRAINED:
            TRAINED["trigflow"] = fit(
                ["trigflow", "diffusion"], {}, args.steps, args.batch, "exact"
            )[0]
        teacher = "trigflow" if method.trained else "exact"
        rows = scored(
            *fit(
                *(method.plugins, method.settings, args.steps, args.batch, teacher),
                paired=method.pairs,
            ),
            method,
        )
        seconds = round(time.perf_counter() - start)
        results += [{"method": name, **row, "seconds": seconds} for row in rows]
        for row in rows:
            off = f"map {row['map']:.4f}" if "map" in row else "map   -   "
            print(
                f"{name:<26} {row['steps']} steps  {off}  energy {row['energy']:.4f}  {seconds} s",
                flush=True,
            )
    write(args.out, results)


if __name__ == "__main__":
    main()
