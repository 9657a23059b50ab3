"""What the discrete consistency losses become as their grid gets finer, in value and in gradient, in float64.

A small network with random weights is the consistency function, and the exact denoiser of a Gaussian mixture
the teacher. All expectations are sums: over every interval of EDM's grid of N points, and over data and noise
by Gauss-Hermite quadrature. `f` is the function, `t = tau(u)` the grid, and `df/dt` the derivative along the
teacher's path (distillation, CD) or along the straight path of a sample and its noise (training, CT):

- without stop-gradient `(N-1)^2 L` tends to `E[tau'^2 |df/dt|^2]`, and its gradient to that one's gradient;
- with it `(N-1) grad L` tends to `2 E[tau' grad f . df/dt]`, and `(N-1)^2 grad L` grows without bound;
- with stop-gradient CT has the limit of CD, without it another one.

    python benchmarks/limits.py --picture docs/images/limits.png --out benchmarks/results/limits.json
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from common import write
from jaxtyping import Array, Float
from scmkit_plugins.methods._data_tangent import DataTangent
from scmkit_plugins.processes.edm import EDMParameterization, VarianceExploding

from scmkit import Model
from scmkit.data import Mixture
from scmkit.interfaces import (
    UNCONDITIONED,
    AbstractNetwork,
    AbstractNoiseProcess,
    AbstractTangentEstimator,
    Point,
)
from scmkit.losses import heun

SIGMA_DATA, SMALLEST, LARGEST, RHO = 0.5, 2e-3, 80.0, 7
WEIGHTS, MEANS, STDS = (0.3, 0.7), (-0.7, 0.5), (0.2, 0.1)
NODES_DATA, NODES_NOISE, NODES_TIME, CHUNK = 8, 64, 128, 8
POINTS = tuple(2**k + 1 for k in range(3, 13))
KINDS = ("CD", "CT")


class Small(AbstractNetwork):
    """One hidden layer on the input and the noise label."""

    first: Float[Array, "h 2"]
    bias: Float[Array, " h"]
    last: Float[Array, " h"]

    def __call__(self, x: Array, c_noise: Array, cond: Any, *, key: Any) -> Array:
        return jnp.tanh(self.first @ jnp.concatenate([x, c_noise]) + self.bias) @ self.last[:, None]


class ExactTangent(AbstractTangentEstimator):
    """The velocity of a density's own ODE, and DDIM with its denoiser."""

    process: AbstractNoiseProcess
    density: Mixture

    def __call__(self, point: Point) -> Array:
        denoised = self.density.denoise(self.process, point.x_t, point.t)
        return self.process.velocity_from_denoised(denoised, point.x_t, point.t)

    def advance(self, point: Point, r: Array) -> Point:
        x_r = point.x_t + (r - point.t) * self(point)
        return Point(point.x0, point.eps, x_r, r, point.cond)


def problem(hidden: int = 8) -> tuple[Model, dict[str, AbstractTangentEstimator]]:
    """A model with random weights in the default dtype, and the tangents of the two kinds."""
    process = VarianceExploding(LARGEST)
    keys, dtype = jr.split(jr.key(0), 3), jnp.zeros(()).dtype
    shapes = ((hidden, 2), (hidden,), (hidden,))
    network = Small(*(jr.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True)))
    density = Mixture(*(jnp.asarray([row]) for row in (WEIGHTS, MEANS, STDS)))
    tangents = {"CD": ExactTangent(process, density), "CT": DataTangent(process)}
    parameterization = EDMParameterization(process, SIGMA_DATA)
    return Model(parameterization=parameterization, network=network), tangents


def samples() -> tuple[Array, Array, Array]:
    """Data, noise and the weight of each pair, by quadrature; exact for polynomials of high degree."""
    z, w = np.polynomial.hermite_e.hermegauss(NODES_DATA)
    eps, v = np.polynomial.hermite_e.hermegauss(NODES_NOISE)
    x0 = np.concatenate([m + s * z for m, s in zip(MEANS, STDS, strict=True)])
    p = np.concatenate([share * w / w.sum() for share in WEIGHTS])
    x0, eps = np.meshgrid(x0, eps, indexing="ij")
    return tuple(jnp.asarray(a.ravel()) for a in (x0, eps, np.outer(p, v / v.sum())))  # pyright: ignore[reportReturnType]


def spacing(u: Array) -> Array:
    """EDM's grid, `tau(u)`."""
    low, high = SMALLEST ** (1 / RHO), LARGEST ** (1 / RHO)
    return (low + u * (high - low)) ** RHO


def flat(model: Model) -> Array:
    """The arrays of a model, or of its gradient, in one vector."""
    return jnp.concatenate([a.ravel() for a in jax.tree.leaves(eqx.filter(model, eqx.is_array))])


def expected(one: Callable[[Array, Point], Array], t: Array, start: Any) -> Array:
    """The mean over samples of `one(extra, point)` at times `t`, each with its own `start`, summed."""

    def at(x0: Array, eps: Array, t: Array, extra: Array) -> Array:
        x0, eps = x0[None], eps[None]
        return one(extra, Point(x0, eps, x0 + t * eps, t, UNCONDITIONED))

    x0, eps, weight = samples()
    over_samples = jax.vmap(at, (0, 0, None, None))
    return jnp.sum(jax.vmap(lambda t, e: over_samples(x0, eps, t, e) @ weight)(t, start))


@eqx.filter_jit
def discrete(
    model: Model, tangent: AbstractTangentEstimator, n: Array, stop: bool
) -> tuple[Array, Array]:
    """The loss on a grid of `n` points, the mean over its intervals of the squared distance of `f` at their
    two ends, and its gradient; `n - 1` is a multiple of `CHUNK`."""

    intervals = (n - 1).astype(float)

    def part(model: Model, t: Array, r: Array) -> Array:
        target = jax.lax.stop_gradient(model) if stop else model

        def one(r: Array, here: Point) -> Array:
            there = (
                heun(tangent, here, r)
                if isinstance(tangent, ExactTangent)
                else tangent.advance(here, r)
            )
            gap = model.denoise(here.x_t, here.t) - target.denoise(there.x_t, there.t)
            return jnp.sum(gap**2)

        return expected(one, t, r)

    def add(i: Array, total: tuple[Array, Array]) -> tuple[Array, Array]:
        j = (i * CHUNK + jnp.arange(CHUNK)).astype(float)
        t, r = spacing((j + 1) / intervals), spacing(j / intervals)
        value, gradient = eqx.filter_value_and_grad(part)(model, t, r)
        return total[0] + value, total[1] + flat(gradient)

    zero = (jnp.zeros(()), jnp.zeros_like(flat(model)))
    value, gradient = jax.lax.fori_loop(0, (n - 1) // CHUNK, add, zero)
    return value / intervals, gradient / intervals


@eqx.filter_jit
def continuous(
    model: Model, tangent: AbstractTangentEstimator, stop: bool, printed: bool = False
) -> tuple[Array, Array]:
    """The limit and its gradient; with `stop` it is the inner product, of which only the gradient means
    something. `printed` is for the tangent with a factor -t too many, as it stands in a slide."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES_TIME)
    u, weights = jnp.asarray((nodes + 1) / 2), jnp.asarray(weights / 2)
    speed = jax.vmap(jax.grad(spacing))(u)

    def value(model: Model) -> Array:
        def one(factors: Array, here: Point) -> Array:
            speed, weight = factors
            dx = -here.t * tangent(here) if printed else tangent(here)
            f, df = eqx.filter_jvp(model.denoise, (here.x_t, here.t), (dx, jnp.ones_like(here.t)))
            if stop:
                return weight * 2 * speed * jnp.sum(f * jax.lax.stop_gradient(df))
            return weight * jnp.sum((speed * df) ** 2)

        return expected(one, spacing(u), jnp.stack([speed, weights], axis=1))

    limit, gradient = eqx.filter_value_and_grad(value)(model)
    return limit, flat(gradient)


def distance(a: Array, b: Array) -> float:
    """The relative distance of two vectors."""
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


def measure(points: tuple[int, ...] = POINTS) -> dict[str, Any]:
    """Everything that the picture shows, for each number of points."""
    model, tangents = problem()
    plain = {kind: continuous(model, tangents[kind], False) for kind in KINDS}
    stopped = {kind: continuous(model, tangents[kind], True) for kind in KINDS}
    wrong = continuous(model, tangents["CT"], True, True)[1]
    target = stopped["CD"][1]
    found: dict[str, Any] = {
        "N": list(points),
        "value of CT over CD without stop-gradient, limit": float(plain["CT"][0] / plain["CD"][0]),
        "gradient of CT from CD without stop-gradient, limit": distance(
            plain["CT"][1], plain["CD"][1]
        ),
        "gradient of CT from CD with stop-gradient, limit": distance(stopped["CT"][1], target),
        "gradient with the tangent as printed from CD, limit": distance(wrong, target),
    }
    for kind in KINDS:
        rows: dict[str, list[float]] = {name: [] for name in ROWS}
        for n in points:
            count = jnp.asarray(n)
            value, gradient = discrete(model, tangents[kind], count, False)
            _, held = discrete(model, tangents[kind], count, True)
            m = n - 1
            rows["value"].append(abs(float(m**2 * value / plain[kind][0] - 1)))
            rows["gradient"].append(distance(m**2 * gradient, plain[kind][1]))
            rows["gradient, stopped"].append(distance(m * held, target))
            rows["squared, stopped"].append(float(m**2 * jnp.linalg.norm(held)))
            rows["squared"].append(float(m**2 * jnp.linalg.norm(gradient)))
        found[kind] = rows | {
            f"order of {name}": order(points, rows[name])
            for name in ("value", "gradient", "gradient, stopped")
        }
    return found


ROWS = ("value", "gradient", "gradient, stopped", "squared, stopped", "squared")


def order(points: tuple[int, ...], errors: list[float]) -> float:
    """The slope of the last four errors over the number of intervals."""
    n, e = np.log(np.asarray(points[-4:]) - 1.0), np.log(errors[-4:])
    return float(-np.polyfit(n, e, 1)[0])


def draw(found: dict[str, Any], picture: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    intervals = np.asarray(found["N"]) - 1
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    labels = {
        "value": "$(N-1)^2 L$, no stop-gradient, own limit",
        "gradient": "$(N-1)^2 \\nabla L$, no stop-gradient, own limit",
        "gradient, stopped": "$(N-1) \\nabla L$, stop-gradient, CD's limit",
    }
    for kind, style, fill in (("CD", "-", "full"), ("CT", "--", "none")):
        for (name, label), (marker, color) in zip(
            labels.items(), (("o", "C0"), ("s", "C1"), ("^", "C2")), strict=True
        ):
            rows = found[kind]
            left.plot(intervals, rows[name], style, marker=marker, color=color, ms=5, fillstyle=fill,
                      label=f"{kind}: {label}: order {rows[f'order of {name}']:.2f}")  # fmt: skip
    left.set(xscale="log", yscale="log", xlabel="$N - 1$", ylabel="relative distance to the limit")
    apart = found["gradient of CT from CD without stop-gradient, limit"]
    left.axhline(apart, ls=":", color="grey")
    told = "from CT's limit of $(N-1)^2 \\nabla L$ to CD's"
    left.text(intervals[-1], 1.2 * apart, told, ha="right", fontsize=7.5)
    left.set_ylim(top=1)
    left.set_title("What tends to a limit")
    left.legend(fontsize=7.5, loc="lower left")
    start = found["CD"]["squared, stopped"][0]
    for kind, style, fill in (("CD", "-", "full"), ("CT", "--", "none")):
        rows = found[kind]
        right.plot(intervals, np.asarray(rows["squared, stopped"]) / start, style, marker="^", color="C3",
                   ms=5, fillstyle=fill, label=f"{kind}: $(N-1)^2 |\\nabla L|$, stop-gradient")  # fmt: skip
        right.plot(intervals, np.asarray(rows["squared"]) / start, style, marker="s", color="C1", ms=5,
                   fillstyle=fill, label=f"{kind}: $(N-1)^2 |\\nabla L|$, no stop-gradient")  # fmt: skip
    right.plot(intervals, intervals / intervals[0], ":", color="grey", label="$\\propto N - 1$")
    right.set(xscale="log", yscale="log", xlabel="$N - 1$", ylabel="size, in units of the first")
    right.set_title("What does not: stop-gradient takes one power of $N - 1$")
    right.legend(fontsize=7.5, loc="upper left")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.savefig(picture, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    found = measure()
    for name, value in found.items():
        if name in KINDS:
            for row, values in value.items():
                shown = (
                    " ".join(f"{v:.2e}" for v in values)
                    if isinstance(values, list)
                    else f"{values:.3f}"
                )
                print(f"{name} {row:<28} {shown}")
        elif name != "N":
            print(f"{name}: {value:.3e}")
    if args.picture is not None:
        draw(found, args.picture)
    write(args.out, found)


if __name__ == "__main__":
    main()
