"""The field's samplers, on models that are exact: orders, identities, spreads, counts."""

import itertools
from functools import cache

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from exact import exact_model
from jax.experimental import io_callback
from scmkit_plugins.datasets.gmm import build_density
from scmkit_plugins.processes.edm import VarianceExploding
from scmkit_plugins.processes.flow_matching import RectifiedFlow
from scmkit_plugins.processes.trigflow import TrigFlowProcess
from scmkit_plugins.processes.vp import VariancePreserving
from scmkit_plugins.samplers import (
    ancestral,
    ddim,
    dpm_solver,
    dpm_solver_pp,
    heun,
    predictor_corrector,
)
from scmkit_plugins.samplers.consistency import ConsistencySampler
from scmkit_plugins.samplers.pf_ode import Options, PFODESampler

from scmkit import Guided, Model
from scmkit.errors import UsageError
from scmkit.interfaces import (
    UNCONDITIONED,
    AbstractDensity,
    AbstractNetwork,
    AbstractNoiseProcess,
    AbstractParameterization,
    Coefficients,
    Conditioning,
)
from scmkit.sampling import draw, ratio_on_grid, time_grid
from scmkit.sampling.unrolled import Unrolled, unrolled

PROCESSES = {
    "trigflow": TrigFlowProcess(0.5),
    "edm": VarianceExploding(),
    "flow": RectifiedFlow(),
    "vp": VariancePreserving(),
}
KINDS = {
    "ddim": (ddim.DDIM, ddim.Options, {}, 1),
    "heun": (heun.EDMHeun, heun.Options, {}, 2),
    "dpm-solver-1": (dpm_solver.DPMSolver, dpm_solver.Options, {"order": 1}, 1),
    "dpm-solver-2": (dpm_solver.DPMSolver, dpm_solver.Options, {"order": 2}, 2),
    "dpm-solver-3": (dpm_solver.DPMSolver, dpm_solver.Options, {"order": 3}, 3),
    "2S": (dpm_solver_pp.DPMSolverPP, dpm_solver_pp.Options, {"method": "2S"}, 2),
    "2M": (dpm_solver_pp.DPMSolverPP, dpm_solver_pp.Options, {"method": "2M"}, 2),
    "3M": (dpm_solver_pp.DPMSolverPP, dpm_solver_pp.Options, {"method": "3M"}, 3),
    "ddim, eta": (ddim.DDIM, ddim.Options, {"eta": 1.0}, None),
    "heun, churn": (
        heun.EDMHeun,
        heun.Options,
        {"churn": 40.0, "churn_min": 0.05, "churn_max": 50.0},
        None,
    ),
    "SDE-2M": (dpm_solver_pp.DPMSolverPP, dpm_solver_pp.Options, {"method": "SDE-2M"}, None),
    "ancestral": (ancestral.Ancestral, ancestral.Options, {}, None),
    "reverse-diffusion": (ancestral.Ancestral, ancestral.Options, {"variance": "forward"}, None),
    "predictor-corrector": (
        predictor_corrector.PredictorCorrector,
        predictor_corrector.Options,
        {},
        None,
    ),
}
SOLVERS = {name: order for name, (*_, order) in KINDS.items() if order is not None}
STOCHASTIC = [name for name in KINDS if name not in SOLVERS]
S, RATIO_MIN = 0.2, 1e-2
EPS = (-1.5, 0.3, 1.2)


def sampler(name, **options):
    kind, config, given, _ = KINDS[name]
    return kind(config(**given, **options))


class Bare(AbstractParameterization):
    """The network is the denoiser."""

    process: AbstractNoiseProcess
    sigma_data: float = 0.5

    def coefficients(self, t):
        return Coefficients(skip=0 * t, out=jnp.ones_like(t), in_=jnp.ones_like(t), noise=t[None])

    def weight(self, t):
        return jnp.ones_like(t)

    def velocity(self, F, x_t, t):
        return self.process.velocity_from_denoised(F, x_t, t)

    def jump(self, t, s):
        return self.ddim_jump(t, s)


class Posterior(AbstractNetwork):
    """The posterior mean of a density."""

    process: AbstractNoiseProcess
    density: AbstractDensity

    def __call__(self, x, c_noise, cond, *, key):
        return self.density.denoise(self.process, x, c_noise[0])


@cache
def all_solvers(process):
    """A program that runs every deterministic sampler with a traced number of steps."""
    kinds = {
        name: sampler(name, grid="angle", ratio_min=RATIO_MIN, to_zero=False) for name in SOLVERS
    }

    @jax.jit
    def run(eps, steps):
        noise = PROCESSES[process].sigma(PROCESSES[process].t_max.astype(eps.dtype)) * eps
        model = exact_model(PROCESSES[process], S)
        return {
            k: s(model, noise, UNCONDITIONED, steps=steps, key=jr.key(0)).x
            for k, s in kinds.items()
        }

    return run


@cache
def ends(process, steps):
    with jax.enable_x64(True):
        eps, n = jnp.asarray(EPS, jnp.float64), jnp.asarray(steps, jnp.int32)
        return {k: np.asarray(v) for k, v in all_solvers(process)(eps, n).items()}


@pytest.mark.parametrize("name", SOLVERS)
def test_order_of_convergence(name):
    # The PF-ODE of N(0, s^2): y goes as sqrt(s^2 + ratio^2).
    first = 80.0
    exact = first * np.asarray(EPS) * np.sqrt((S**2 + RATIO_MIN**2) / (S**2 + first**2))
    errors = [np.abs(ends("trigflow", n)[name] - exact).max() for n in (80, 160)]
    order = np.log2(errors[0] / errors[1])
    assert abs(order - SOLVERS[name]) < 0.2, order


@pytest.mark.parametrize("process", ["flow", "vp", "edm"])
def test_samples_do_not_depend_on_the_process(process):
    ours, theirs = ends(process, 7), ends("trigflow", 7)
    for name in SOLVERS:
        # t_max is float32, so the first ratios differ by a few parts in a million.
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, err_msg=name)


def test_first_order_solvers_are_one():
    found = ends("trigflow", 7)
    np.testing.assert_allclose(found["dpm-solver-1"], found["ddim"], rtol=1e-12)


def test_lower_orders_at_the_end():
    # Of order 1, 2, 1 in three steps, whatever the method; of order 1, 1 in two.
    def end(method, steps):
        given = {"method": method, "lower_order_final": True, "to_zero": False, "grid": "angle"}
        solver = dpm_solver_pp.DPMSolverPP(dpm_solver_pp.Options(**given))
        model, noise = exact_model(PROCESSES["edm"], S), 80 * jnp.asarray(EPS, jnp.float32)
        return solver(model, noise, UNCONDITIONED, steps=steps, key=jr.key(0)).x

    np.testing.assert_allclose(end("2M", 3), end("3M", 3), rtol=1e-5)
    plain = sampler("ddim", to_zero=False)
    model, noise = exact_model(PROCESSES["edm"], S), 80 * jnp.asarray(EPS, jnp.float32)
    two = plain(model, noise, UNCONDITIONED, steps=2, key=jr.key(0)).x
    np.testing.assert_allclose(end("2M", 2), two, rtol=1e-5)


def test_2m_is_the_papers_trigonometric_form():
    # arXiv 2410.11081, Appendix D, with the correction of Eq. 26.
    steps, sd, process = 7, 0.5, PROCESSES["trigflow"]
    with jax.enable_x64(True):
        param = exact_model(process, S).parameterization
        u = jnp.linspace(0, 1, steps + 1, dtype=jnp.float64)
        ratios = jax.vmap(lambda u: ratio_on_grid(param, u, grid="angle", ratio_min=RATIO_MIN))(u)
    angles = np.arctan(np.asarray(ratios) / sd)
    x, past = sd * np.sin(angles[0]) * np.asarray(EPS), None
    for s, t in itertools.pairwise(angles):
        a, b = np.cos(s), sd * np.sin(s)
        denoised = a * S**2 / (a**2 * S**2 + b**2) * x
        F = (np.cos(s) * x - denoised) / (sd * np.sin(s))
        new = np.cos(s - t) * x - np.sin(s - t) * sd * F
        if past is not None:
            before, other = past
            r = (np.log(np.tan(s)) - np.log(np.tan(before))) / (
                np.log(np.tan(s)) - np.log(np.tan(t))
            )
            new = new + np.sin(s - t) / (2 * r * np.sin(s)) * (other - denoised)
        x, past = new, (s, denoised)
    np.testing.assert_allclose(ends("trigflow", steps)["2M"], x / np.cos(angles[-1]), rtol=1e-6)


@pytest.mark.parametrize(("ours", "theirs"), [("ddim", "Euler"), ("heun", "Heun")])
def test_variance_exploding_solvers_are_diffraxs(ours, theirs):
    model = exact_model(PROCESSES["edm"], S)
    noise = 80 * jnp.asarray(EPS, jnp.float32)
    fixed = {"grid": "karras", "ratio_min": RATIO_MIN}
    mine = sampler(ours, to_zero=False, **fixed)
    other = PFODESampler(Options(solver=theirs, **fixed))
    a, b = (s(model, noise, UNCONDITIONED, steps=6, key=jr.key(0)) for s in (mine, other))
    np.testing.assert_allclose(a.x, b.x, rtol=1e-4)
    assert int(a.nfe) == int(b.nfe)


@pytest.mark.parametrize("grid", ["angle", "karras", "log-snr", "rectified", "time", "quadratic"])
def test_grids(grid):
    process = PROCESSES["vp"]
    param = Bare(process)
    times = time_grid(param, 8, grid=grid, ratio_min=RATIO_MIN)
    ratios = jax.vmap(process.ratio)(times)
    np.testing.assert_allclose(ratios[jnp.asarray([0, -1])], [80, RATIO_MIN], rtol=1e-3)
    equal = {
        "angle": jnp.arctan(ratios / 0.5),
        "karras": ratios ** (1 / 7),
        "log-snr": jnp.log(ratios),
        "rectified": ratios / (1 + ratios),
        "time": times,
        "quadratic": jnp.sqrt(times),
    }[grid]
    np.testing.assert_allclose(jnp.diff(equal), (equal[-1] - equal[0]) / 8, rtol=2e-2)


@pytest.mark.parametrize("data", ["gaussian", "mixture"])
def test_spread_of_stochastic_samplers(data):
    # Independent coordinates are as good as samples.
    process, n = PROCESSES["trigflow"], 5000
    if data == "gaussian":
        model, mean, std = exact_model(process, S), 0.0, S
    else:
        density = build_density(n)
        model = Model(Bare(process), Posterior(process, density))
        weights, means, stds = (
            np.asarray(a[0]) for a in (density.weights, density.means, density.stds)
        )
        mean = float(weights @ means)
        std = float(np.sqrt(weights @ (means**2 + stds**2) - mean**2))
    kinds = {k: sampler(k) for k in STOCHASTIC}

    @jax.jit
    def run(noise, steps):
        return {
            k: s(model, noise, UNCONDITIONED, steps=steps, key=jr.key(1)).x
            for k, s in kinds.items()
        }

    noise = process.prior((n,), key=jr.key(0))
    for name, x in run(noise, jnp.asarray(150, jnp.int32)).items():
        assert abs(float(x.mean()) - mean) < 4 * std / np.sqrt(n), name
        np.testing.assert_allclose(x.std(), std, rtol=0.04, err_msg=name)


class Counter:
    value = 0


class Counted(AbstractNetwork):
    """Half its input; counts how often it really runs."""

    counter: Counter

    def __call__(self, x, c_noise, cond, *, key):
        def note(x):
            self.counter.value += 1
            return 0.5 * x

        return io_callback(note, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


@pytest.mark.parametrize("to_zero", [True, False])
@pytest.mark.parametrize(
    ("name", "nfe"),
    [
        ("ddim", (5, 5)),
        ("heun", (9, 10)),
        ("dpm-solver-2", (9, 10)),
        ("dpm-solver-3", (13, 15)),
        ("2S", (9, 10)),
        ("3M", (5, 5)),
        ("predictor-corrector", (9, 10)),
    ],
)
def test_evaluations_are_counted(name, nfe, to_zero):
    counter = Counter()
    model = Model(Bare(PROCESSES["trigflow"]), Counted(counter))
    out = sampler(name, to_zero=to_zero)(model, jnp.ones(2), UNCONDITIONED, steps=5, key=jr.key(0))
    jax.block_until_ready(out.x)
    jax.effects_barrier()
    assert int(out.nfe) == counter.value == nfe[0 if to_zero else 1]


class Named(AbstractNetwork):
    """A number for each label, and for none; counts how often it is traced."""

    counter: Counter

    def __call__(self, x, c_noise, cond, *, key):
        self.counter.value += 1
        label = cond.label
        number = jnp.asarray(0.5) if label is None else 1.0 + label.astype(x.dtype)
        return jnp.broadcast_to(number, x.shape)


@pytest.mark.parametrize("name", KINDS)
def test_labels_guidance_and_one_program_for_all_numbers_of_steps(name):
    counter = Counter()
    model = Guided(Model(Bare(PROCESSES["flow"]), Named(counter)), 3.0)
    noise, cond = jnp.ones((4, 2)), Conditioning(jnp.asarray([0, 1, 2, 0], jnp.int32))
    traced = set()
    for steps in (4, 7, 30, 1):
        out = draw(model, sampler(name), noise, cond, steps=steps, key=jr.key(0))
        traced.add(counter.value)
        # D is one number whatever the level, so the last step arrives at it: none + 3 (label - none).
        np.testing.assert_allclose(
            out.x[:, 0], 0.5 + 3 * (np.asarray([0, 1, 2, 0]) + 0.5), rtol=1e-5
        )
        assert int(out.nfe[0]) % 2 == 0
    assert len(traced) == 1


def test_consistency_sampling_is_one_program_with_and_without_angles():
    counter = Counter()
    model = Model(Bare(PROCESSES["trigflow"]), Named(counter))
    traced = set()
    for angles in ((0.9, 0.4), (1.0, 0.2)):
        for steps in (1, 2, 3):
            draw(
                model,
                ConsistencySampler(angles),
                jnp.ones((3, 2)),
                UNCONDITIONED,
                steps=steps,
                key=jr.key(0),
            )
            traced.add(counter.value)
    assert len(traced) == 1


class Scaled(AbstractNetwork):
    """Its input times one weight."""

    weight: jax.Array

    def __call__(self, x, c_noise, cond, *, key):
        return self.weight.astype(x.dtype) * x


def test_a_fixed_number_of_steps_is_differentiable_in_reverse():
    process = PROCESSES["trigflow"]
    kinds = [sampler(name) for name in ("heun, churn", "dpm-solver-3", "3M", "SDE-2M")]
    noise = process.prior((3,), key=jr.key(0))

    def samples(weight):
        model = Model(Bare(process), Scaled(weight))
        return [s(model, noise, UNCONDITIONED, steps=4, key=jr.key(1)).x[0] for s in kinds]

    weight = jnp.asarray(0.3)
    backward = jax.jit(jax.jacrev(samples))(weight)
    _, forward = jax.jit(lambda w: jax.jvp(samples, (w,), (jnp.ones(()),)))(weight)
    np.testing.assert_allclose(backward, forward, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["Heun", "Midpoint", "Ralston", "Tsit5"])
def test_unrolled_steps_are_diffraxs(name):
    method = getattr(diffrax, name)()
    ours = unrolled(method)
    assert isinstance(ours, Unrolled) == (name != "Tsit5")

    def solved(solver):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, _: -y * jnp.cos(t) + t),
            solver,
            t0=0.0,
            t1=2.0,
            dt0=0.25,
            y0=jnp.asarray([1.0, -2.0]),
            max_steps=16,
        ).ys

    np.testing.assert_allclose(solved(ours), solved(method), rtol=1e-6)


def test_no_steps_are_refused():
    with pytest.raises(UsageError, match="steps 0: give a whole number from 1"):
        draw(
            exact_model(PROCESSES["edm"]),
            sampler("ddim"),
            jnp.ones((1, 2)),
            UNCONDITIONED,
            steps=0,
            key=jr.key(0),
        )
