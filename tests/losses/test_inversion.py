"""Distillation by inversion: exact where the solver is, and every grid, phase and follower in closed form."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from leading import PARAMS, SD, Solver, denoiser, density, exact, known
from scenes import scene_for
from scmkit_plugins.distances.l2 import L2
from scmkit_plugins.methods import boot, multistep_cd, pid, progressive_distillation, tract
from scmkit_plugins.methods._inversion import addim, heun_in_ratio, time_on_karras_grid
from scmkit_plugins.methods.scd import TeacherTangent
from scmkit_plugins.processes.edm import VarianceExploding

from scmkit.interfaces import Sample
from scmkit.losses import noised
from scmkit.settings import TrainingSettings


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def run(loss, model, *, n=64, **scene):
    """Values and noise levels of a loss at many keys."""
    given = scene_for(model, **scene)

    def one(key):
        out = loss(model, given, Sample(jnp.array([0.45])), key=key)
        return out.value, out.ratio

    return jax.jit(jax.vmap(one))(jr.split(jr.key(0), n))


def exact_scene(name, **followers):
    return {"tangent": Solver(PARAMS[name].process, density()), "followers": followers}


def level(angle):
    return SD * np.tan(np.arctan(80 / SD) * angle)


@pytest.mark.parametrize(
    ("name", "form"), [("trigflow", "vp"), ("edm", "vp"), ("vp", "edm"), ("flow", "edm")]
)
def test_tract_is_still_at_the_exact_map(name, form, float64):
    schedule = (16, 4) if form == "vp" else (16, 1)
    loss = tract.TractLoss(tract.Options(schedule, form=form), ())
    model = exact(name, schedule[-1])
    value, ratio = run(loss, model, n=128, **exact_scene(name, self=model))
    assert float(value.max()) < 1e-12
    karras = (0.002 ** (1 / 7) + np.arange(16) / 15 * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
    times = level(np.arange(1, 17) / 16) if form == "vp" else karras
    np.testing.assert_allclose(np.unique(np.round(np.log(ratio), 5)), np.log(times), atol=1e-4)


def test_a_later_phase_of_tract_learns_from_the_follower(float64):
    train, options = TrainingSettings(steps=10), tract.Options((16, 4, 1))
    assert tract.stages(options, train) == (5,)
    assert set(tract.followers(options, train)) == {"self", "teacher"}
    assert set(tract.followers(tract.Options((16, 1)), train)) == {"self"}
    loss = tract.TractLoss(options, (5,))
    one, four = (exact("trigflow", n) for n in (1, 4))
    lagging = exact_scene("trigflow", self=one, teacher=four)
    value, ratio = run(loss, one, step=5, steps=10, **lagging)
    assert float(value.max()) < 1e-12
    found = np.unique(np.round(np.log(ratio), 5))
    np.testing.assert_allclose(found, np.log(level(np.arange(1, 5) / 4)), atol=1e-4)


def test_the_self_teacher_averages():
    profile = tract.followers(tract.Options(momentum=0.5), TrainingSettings())["self"].profile
    average = jnp.zeros(2)
    for n in range(1, 6):
        average = profile.update(average, jnp.ones(2), jnp.asarray(n))
    np.testing.assert_allclose(average, 1 - 0.5**5)


@pytest.mark.parametrize("schedule", [(8,), (8, 3), (8, 8), (4, 8), (8, 0)])
def test_schedules_that_do_not_divide_are_refused(schedule):
    with pytest.raises(ValueError, match="each a part of the one before"):
        tract.Options(schedule)
    with pytest.raises(ValueError, match="'edm' ends in 1 step"):
        tract.Options((8, 2), form="edm")


def test_progressive_distillation_is_still_at_the_exact_map(float64):
    loss = progressive_distillation.ProgressiveLoss(progressive_distillation.Options(first=2), (5,))
    one, two = (exact("vp", n) for n in (1, 2))
    value, _ = run(loss, one, n=8, step=5, steps=10, followers={"teacher": two})
    assert float(value.max()) < 1e-12


@pytest.mark.parametrize("name", ["edm", "vp"])
def test_heun_in_the_ratio_is_that_of_edm(name, float64):
    """The same points in every process, at the noise levels of EDM's."""
    process, edm, r = PARAMS[name].process, VarianceExploding(), jnp.asarray(0.7)
    t, s = (process.time_at(ratio) for ratio in (jnp.asarray(1.0), r))
    point = noised(process, Sample(jnp.array([-0.2])), t, key=jr.key(0))
    y = point.x_t / process.alpha(t)
    first = y - density().denoise(edm, y, jnp.asarray(1.0))
    there = y + (r - 1) * first
    second = (there - density().denoise(edm, there, r)) / r
    tangent = TeacherTangent(process, denoiser(name))
    step = jax.jit(lambda s: heun_in_ratio(process, tangent, point, s).x_t)
    found = step(s) / process.alpha(s)
    np.testing.assert_allclose(found, y + (r - 1) * (first + second) / 2, rtol=1e-10)
    end = step(jnp.zeros(()))
    np.testing.assert_allclose(end, density().denoise(process, point.x_t, t), rtol=1e-10)


def test_coarser_karras_grids_are_parts_of_the_finest(float64):
    at = jax.jit(jax.vmap(lambda i, n: time_on_karras_grid(PARAMS["edm"], i, n, 12)))
    fine = at(jnp.arange(13), jnp.full(13, 12))
    np.testing.assert_allclose(at(jnp.arange(4), jnp.full(4, 3)), fine[::4])
    np.testing.assert_allclose(fine[jnp.array([0, 1, 12])], [0, 0.002, 80], rtol=1e-6)


@pytest.mark.parametrize("name", ["trigflow", "vp"])
def test_adjusted_ddim_adds_the_variance_to_the_noise(name, float64):
    process, v = PARAMS[name].process, 0.04
    t, r = (process.time_at(jnp.asarray(ratio)) for ratio in (2.0, 0.5))
    point = noised(process, Sample(jnp.array([-0.2, 0.7, 0.1])), t, key=jr.key(0))
    tangent = TeacherTangent(process, known(name))
    eps = (point.x_t - process.alpha(t) * 0.3) / process.sigma(t)
    found = addim(process, tangent, point, r, v).x_t - process.alpha(r) * 0.3
    k = process.alpha(r) - process.alpha(t) * process.sigma(r) / process.sigma(t)
    square = process.sigma(r) ** 2 * jnp.sum(eps**2) + 3 * k**2 * v
    np.testing.assert_allclose(jnp.sum(found**2), square, rtol=1e-11)
    np.testing.assert_allclose(found / jnp.linalg.norm(found), eps / jnp.linalg.norm(eps))
    straight = tangent.advance(point, r).x_t
    np.testing.assert_allclose(addim(process, tangent, point, r, 0.0).x_t, straight, rtol=1e-11)


def test_multistep_distillation(float64):
    options = multistep_cd.Options(segments=4, variance=0.0)
    loss = multistep_cd.MultistepLoss(L2(squared=False), options)
    steps = [int(loss.micro_steps(jnp.asarray(p))) for p in (0.0, 0.25, 0.5, 0.9)]
    assert steps == [16, 72, 320, 320]  # 64, 286.2, 1280 and 1280 in all.
    same = known("vp")
    value, _ = run(loss, same, tangent=TeacherTangent(same.process, same))
    assert float(value.max()) < 1e-6  # SNR + 1 is up to 1e5.
    with pytest.raises(ValueError, match="must ascend"):
        multistep_cd.Options(first=2)


DATA_FREE = {
    "pid": lambda n: pid.PIDLoss(L2(squared=True), pid.Options(points=n)),
    "pid-velocity": lambda n: pid.PIDLoss(
        L2(squared=True), pid.Options(n, grid="angle", residual="velocity")
    ),
    "boot": lambda n: boot.BOOTLoss(boot.Options(step=1 / n, boundary=0.0)),
}


@pytest.mark.parametrize("name", ["trigflow", "edm"])
@pytest.mark.parametrize("method", DATA_FREE)
def test_data_free_losses_vanish_on_the_exact_map_with_their_step(name, method):
    """Squares of residuals of first order."""
    model, tangent = exact(name, labels=2), Solver(PARAMS[name].process, density())
    coarse, fine = (
        float(run(DATA_FREE[method](n), model, n=4000, tangent=tangent)[0].mean()) for n in (25, 50)
    )
    assert 0.8 < np.log2(coarse / fine) / 2 < 1.2


@pytest.mark.parametrize("method", ["pid", "boot"])
def test_data_free_losses_are_zero_where_the_solver_is_exact(method):
    same = known("vp")
    tangent = TeacherTangent(same.process, same)
    loss = boot.BOOTLoss(boot.Options()) if method == "boot" else DATA_FREE[method](40)
    value, _ = run(loss, same, tangent=tangent)
    assert float(value.max()) < 1e-4
    other, _ = run(loss, known("vp", 0.5), tangent=tangent)
    assert float(other.min()) > 1e-2


def test_data_free_losses_do_not_look_at_data():
    model = known("trigflow")
    scene = scene_for(model, tangent=TeacherTangent(model.process, known("trigflow", 1.0)))
    for make in DATA_FREE.values():
        values = [make(40)(model, scene, Sample(x), key=jr.key(1)).value for x in jnp.eye(2)]
        assert float(values[0]) == float(values[1]) > 0
