"""Distribution matching: exact gradients, chains and fixed points, between Gaussians."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from leading import PARAMS, SD, Leading, Solver, exact, known
from scenes import scene_for
from scmkit_plugins.distances.l2 import L2
from scmkit_plugins.methods import (
    diff_instruct,
    dmd,
    emd,
    f_distill,
    fsf_dmd,
    moment_matching,
    rcm,
    sid,
    sida,
    vsd,
    vsd_scd,
)
from scmkit_plugins.methods._matching import FakeLoss, MatchingLoss, by_distance, made, seen
from scmkit_plugins.methods._tangent import ConsistencyLoss, consistency_error
from scmkit_plugins.methods.scd import TeacherTangent
from scmkit_plugins.processes.log_normal import LogNormal

from scmkit import Model
from scmkit.interfaces import UNCONDITIONED, AbstractProposal, AbstractTimeEmbedding, Point, Sample
from scmkit.losses import LogWeight, ddim, rollout, surrogate
from scmkit.sampling import angle_of, time_grid
from scmkit.settings import TrainingSettings
from scmkit.testing import Gaussian

REAL, FAKE = (0.2, 0.3), (-0.1, 0.45)
"""Mean and deviation of the data, and of what the generator makes."""


class Always(AbstractProposal):
    """One time."""

    t: jax.Array

    def sample(self, process, *, key):
        return self.t


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def gaussian(numbers):
    return Gaussian(mean=jnp.asarray(numbers[0]), std=jnp.asarray(numbers[1]))


def denoiser(name, numbers):
    """The diffusion model of a Gaussian."""
    process = PARAMS[name].process

    def to(x, t, s):
        return ddim(process, x, gaussian(numbers).denoise(process, x, t), t, s)

    return Model(PARAMS[name], Leading(name, to))


def generator(name, numbers):
    """The model that makes a Gaussian of noise, in one step."""
    process = PARAMS[name].process
    mean, std = numbers
    return Model(PARAMS[name], Leading(name, lambda x, t, s: mean + std * x / process.sigma(t)))


def scene_of(name, fake=FAKE, real=REAL, **rest):
    model, tangent = denoiser(name, fake), Solver(PARAMS[name].process, gaussian(real))
    rest = {"models": {"fake": model, "critic": model}} | rest
    return scene_for(model, tangent=tangent, **rest)


def mean_over_noise(f, nodes=3):
    """The mean of `f(z, eps)` over two normal numbers, exact for polynomials of degree five."""
    at, weights = np.polynomial.hermite_e.hermegauss(nodes)
    z, eps = (jnp.asarray(a).reshape(-1, 1) for a in np.meshgrid(at, at))
    weight = jnp.asarray(np.outer(weights, weights) / (2 * np.pi)).ravel()
    return jnp.sum(weight * jax.vmap(f)(z, eps))


def time(name, ratio):
    return PARAMS[name].process.time_at(jnp.asarray(ratio))


def kl(name, t, numbers, other):
    """The divergence of one noised Gaussian from another."""
    process = PARAMS[name].process
    alpha, sigma = process.alpha(t), process.sigma(t)
    (a, A), (b, B) = ((alpha * m, (alpha * s) ** 2 + sigma**2) for m, s in (numbers, other))
    return (jnp.log(B / A) + (A + (a - b) ** 2) / B - 1) / 2


def point_of(name, numbers, t, z, eps):
    x = numbers[0] + numbers[1] * z
    return Point(x, eps, PARAMS[name].process.perturb(x, eps, t), t)


@pytest.mark.parametrize("name", PARAMS)
def test_the_generators_gradient_is_that_of_the_divergence(name):
    """Of the KL divergence between noised Gaussians, times the ratio's square and the weight."""
    param, scene = PARAMS[name], scene_of(name)

    def value(numbers, t, loss):
        def one(z, eps):
            it = seen(param.process, scene, point_of(name, numbers, t, z, eps))
            return surrogate(it.point.x0, loss.field(param, it))

        return mean_over_noise(one)

    @jax.jit
    def gradients(numbers, ratio):
        t = param.process.time_at(ratio)
        kinds = [MatchingLoss(weight) for weight in (diff_instruct.evenly, vsd.by_angle)]
        found = [jax.grad(value)(numbers, t, loss) for loss in kinds]
        wanted = ratio**2 * jax.grad(lambda n: kl(name, t, n, REAL))(numbers)
        return found, [wanted, wanted / jnp.sin(angle_of(param, t))]

    for ratio in (0.1, 0.7, 5.0):
        found, wanted = gradients(jnp.array(FAKE), jnp.asarray(ratio))
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.2])
def test_sid_is_the_square_of_the_scores_difference_where_the_fake_is_exact(alpha):
    name, t = "trigflow", time("trigflow", 0.4)
    process, scene = PARAMS[name].process, scene_of(name)

    def of(f):
        return mean_over_noise(
            lambda z, eps: f(seen(process, scene, point_of(name, FAKE, t, z, eps)))
        )

    square = of(lambda it: jnp.sum((it.real - it.fake) ** 2))
    found = of(lambda it: jnp.sum(sid.identity(it, alpha)))
    np.testing.assert_allclose(found, (1 - alpha) * square, rtol=1e-10, atol=1e-15)
    assert square > 1e-3


def test_sida_is_sid_and_a_term_of_the_same_weight():
    """For a critic that says 0 of everything, log 2 of it."""
    players = {"fake": denoiser("trigflow", FAKE), "critic": lambda hidden: 0 * jnp.sum(hidden)}
    model, scene = generator("trigflow", FAKE), scene_of("trigflow", models=players)
    plain, _ = values(sid.SiDLoss(sid.Options(alpha=1.0)), model, scene)
    both, metrics = values(sida.SiDALoss(sida.Options(gan_weight=0.3)), model, scene)
    keys, sample = jr.split(jr.key(0), 16), Sample(jnp.array([0.45]))
    _, weight = jax.vmap(lambda k: sid.looked_at(model, scene, sample, sid.Options(), key=k))(keys)
    np.testing.assert_allclose(both - plain, 0.3 * np.log(2) * weight, rtol=1e-10)
    np.testing.assert_array_equal(metrics["critic"], 0)


class Label(AbstractTimeEmbedding):
    """The noise label itself."""

    dim: int = 1

    def __call__(self, c_noise):
        return c_noise


LOSSES = {
    "diff-instruct": lambda: MatchingLoss(diff_instruct.evenly),
    "dmd": lambda: dmd.DMDLoss(MatchingLoss(by_distance), L2(), dmd.Options()),
    "vsd": lambda: vsd.VSDLoss(LogWeight(Label()), MatchingLoss(vsd.by_angle)),
    "sid": lambda: sid.SiDLoss(sid.Options()),
    "emd": lambda: emd.EMDLoss(emd.Options(steps=3)),
    "moment-matching": lambda: moment_matching.MomentLoss(moment_matching.Options(steps=2)),
}


def values(loss, model, scene, sample=None, n=16):
    one = Sample(jnp.array([0.45])) if sample is None else sample
    out = outputs(loss, model, scene, one, jr.split(jr.key(0), n))
    return out.value, out.metrics


@eqx.filter_jit
def outputs(loss, model, scene, sample, keys):
    return jax.vmap(lambda key: loss(model, scene, sample, key=key))(keys)


@pytest.mark.parametrize("method", LOSSES)
def test_nothing_moves_where_the_fake_score_is_the_teachers(method):
    for fake, still in ((REAL, True), (FAKE, False)):
        model = generator("trigflow", FAKE)
        value, metrics = values(LOSSES[method](), model, scene_of("trigflow", fake=fake))
        assert (np.abs(metrics["field"]).max() < 1e-8) == still
        if still:
            np.testing.assert_allclose(value, 0, atol=1e-12)


def test_f_distill_is_still_there_too():
    loss = f_distill.FDistillLoss(f_distill.Options(gan=0.0))
    batch, keys = Sample(jnp.zeros((8, 1))), jr.split(jr.key(0), 8)
    model, scene = generator("trigflow", FAKE), scene_of("trigflow", fake=REAL)
    out = eqx.filter_jit(loss)(model, scene, batch, keys=keys)
    np.testing.assert_allclose(out.value, 0, atol=1e-20)


F = {
    "reverse-kl": lambda r: -jnp.log(r),
    "kl": lambda r: r * jnp.log(r),
    "js": lambda r: r * jnp.log(r) - (r + 1) * jnp.log((r + 1) / 2),
    "softened-reverse-kl": lambda r: (r + 1) * jnp.log((1 + 1 / r) / 2),
    "hellinger": lambda r: 2 * (jnp.sqrt(r) - 1) ** 2,
    "jeffreys": lambda r: (r - 1) * jnp.log(r),
}
"""The divergences of f-distill."""


@pytest.mark.parametrize("divergence", F)
def test_f_distill_has_the_gradient_of_its_divergence(divergence):
    name, t = "trigflow", time("trigflow", 0.6)
    process, scene = PARAMS[name].process, scene_of(name)
    alpha, sigma = process.alpha(t), process.sigma(t)
    h = f_distill.WEIGHTS[divergence]

    def log_density(x, numbers):
        return jax.scipy.stats.norm.logpdf(
            x, alpha * numbers[0], jnp.sqrt((alpha * numbers[1]) ** 2 + sigma**2)
        )

    def value(numbers):
        def one(z, eps):
            it = seen(process, scene, point_of(name, numbers, t, z, eps))
            log_ratio = log_density(it.point.x_t, REAL) - log_density(it.point.x_t, FAKE)
            weight = jax.lax.stop_gradient(h(jnp.exp(log_ratio)))
            return surrogate(it.point.x0, weight * (it.fake - it.real))

        return mean_over_noise(one, nodes=60)

    x = jnp.linspace(-6, 6, 4001)

    def integral(numbers):
        q = jnp.exp(log_density(x, numbers))
        ratio = jnp.exp(log_density(x, REAL) - log_density(x, numbers))
        return jnp.sum(q * F[divergence](ratio)) * (x[1] - x[0])

    found, wanted = (jax.jit(jax.grad(f))(jnp.array(FAKE)) for f in (value, integral))
    np.testing.assert_allclose(found, 0.6**2 * wanted, rtol=1e-6)


def test_weights_of_f_distill_are_bounded_and_one_in_the_mean():
    log_ratio = jnp.array([-9.0, 0.0, 1.0, 9.0])
    found = f_distill.weights(log_ratio, f_distill.Options(divergence="kl"))
    np.testing.assert_allclose(found / found[1], [0.1, 1, np.e, 20])
    np.testing.assert_allclose(jnp.mean(found), 1)


def chain(options, fake=FAKE, ratio=0.5):
    """A step of EMD's dynamics as an affine map of `(eps, z)`: its matrix and shift."""
    name = "trigflow"
    t, scene, model = time(name, ratio), scene_of(name, fake=fake), generator(name, FAKE)

    def step(both):
        pair = emd.Pair(both[:1], both[1:], jnp.zeros(1))
        after = [
            emd.moved(model, scene, pair, t, UNCONDITIONED, options, key=jr.key(0)),
            emd.moved(
                model, scene, emd.Pair(*jnp.zeros((3, 1))), t, UNCONDITIONED, options, key=jr.key(0)
            ),
        ]
        return jnp.concatenate([after[0].eps - after[1].eps, after[0].z - after[1].z])

    process = PARAMS[name].process
    alpha, sigma = process.alpha(t), process.sigma(t)
    x_t = jnp.array([sigma, alpha * FAKE[1]])
    gap = [1 / ((alpha * n[1]) ** 2 + sigma**2) for n in (REAL, fake)]
    precision = jnp.eye(2) + (gap[0] - gap[1]) * jnp.outer(x_t, x_t)
    return jax.jit(jax.jacobian(step))(jnp.array([0.3, -0.2])), precision


def test_a_step_of_emds_chain_leaves_the_exact_joint_as_it_is():
    """Exactly where the scores agree, else up to the square of the step size."""
    errors = []
    for gamma in (0.02, 0.01):
        options = emd.Options(noise_step=gamma, latent_step=gamma)
        matrix, precision = chain(options)
        covariance = jnp.linalg.inv(precision)
        noise = (1 - (1 - gamma) ** 2) * jnp.eye(2)
        errors.append(float(jnp.abs(matrix @ covariance @ matrix.T + noise - covariance).max()))
        np.testing.assert_allclose(matrix, jnp.eye(2) - gamma * precision, atol=1e-12)
        # The x_t of this joint has the teacher's variance.
        process, t = PARAMS["trigflow"].process, time("trigflow", 0.5)
        alpha, sigma = process.alpha(t), process.sigma(t)
        x_t = jnp.array([sigma, alpha * FAKE[1]])
        np.testing.assert_allclose(x_t @ covariance @ x_t, (alpha * REAL[1]) ** 2 + sigma**2)
    assert np.log2(errors[0] / errors[1]) > 1.9
    matrix, precision = chain(emd.Options(noise_step=0.3, latent_step=0.1), fake=REAL)
    np.testing.assert_allclose(precision, jnp.eye(2))
    noise = jnp.diag(1 - jnp.array([0.7, 0.9]) ** 2)
    np.testing.assert_allclose(matrix @ matrix.T + noise, jnp.eye(2), atol=1e-12)


def test_one_step_of_emd_is_diff_instruct():
    model, scene, t = generator("edm", FAKE), scene_of("edm"), time("edm", 0.8)
    options = emd.Options(steps=1, latent_step=0.0)
    start = emd.Pair(jnp.array([0.3]), jnp.array([-0.7]), jnp.zeros(1))
    after = emd.moved(model, scene, start, t, UNCONDITIONED, options, key=jr.key(0))
    it = seen(model.process, scene, point_of("edm", FAKE, t, start.z, start.eps))
    field = -model.process.ratio(t) / options.noise_step * after.pull
    np.testing.assert_allclose(field, it.fake - it.real, rtol=1e-6)
    np.testing.assert_allclose(after.z, start.z)


@pytest.mark.parametrize("name", ["trigflow", "edm"])
def test_the_endpoint_velocity_of_an_exact_flow_map_is_its_score(name):
    process = PARAMS[name].process
    model, loss = exact(name, labels=2), fsf_dmd.PseudoVelocityLoss(fsf_dmd.Options())
    density = gaussian(REAL)  # That of `exact`.
    still, _ = values(loss, model, scene_for(model, tangent=Solver(process, density)))
    np.testing.assert_allclose(still, 0, atol=1e-10)
    s = time(name, 0.5)
    scene = scene_for(model, tangent=Solver(process, gaussian(FAKE)), proposal=Always(s))
    key = jr.key(3)
    out = loss(model, scene, Sample(jnp.zeros(1)), key=key)
    z = process.prior((1,), key=jr.split(key, 3)[0])
    x = density.flow_map(process, z, process.t_max, s)
    real, fake = (gaussian(n).denoise(process, x, s) for n in (FAKE, REAL))
    wanted = jnp.abs(fake - real) / jnp.abs(x / process.alpha(s) - real)
    np.testing.assert_allclose(out.metrics["field"], wanted[0], rtol=1e-6)


def test_moment_matching_goes_a_part_of_the_samplers_steps():
    options, model = moment_matching.Options(steps=4), known("trigflow", 0.3)
    grid = time_grid(model.parameterization, 4)

    def one(key):
        _, point = moment_matching.stepped(model, Sample(jnp.array([0.1])), options, key=key)
        i = jr.randint(jr.split(key, 4)[0], (), 1, 5)
        return point.t, grid[4 - i], grid[5 - i]

    s, above, below = jax.jit(jax.vmap(one))(jr.split(jr.key(0), 1000))
    assert float((above * (1 + 1e-6) - s).min()) >= 0
    assert float((s - below * (1 - 1e-6)).min()) >= 0
    # Given x the step is a draw of q(z_s | z_t, x), whose noise is normal where z_t is of x.
    sample = Sample(jnp.array([0.3]))
    eps = jax.jit(
        jax.vmap(lambda key: moment_matching.stepped(model, sample, options, key=key)[1].eps)
    )(jr.split(jr.key(1), 4000))
    assert abs(float(eps.mean())) < 0.06
    assert abs(float(eps.std()) - 1) < 0.04


def test_the_auxiliary_denoiser_of_moment_matching_goes_half_way():
    made, real = 0.3, -0.1
    loss = moment_matching.AuxiliaryLoss(moment_matching.Options(steps=2))
    tangent = TeacherTangent(PARAMS["trigflow"].process, known("trigflow", real))

    def at(number):
        model = known("trigflow", number)
        scene = scene_for(
            model, tangent=tangent, models={"generator": known("trigflow", made), "fake": model}
        )
        return values(loss, model, scene)[0]

    middle, lower, upper = (at(n) for n in (0.1, 0.05, 0.15))
    np.testing.assert_allclose(lower, upper, rtol=1e-6)
    np.testing.assert_allclose(lower / middle, (0.25**2 + 0.15**2) / (2 * 0.2**2), rtol=1e-6)


def test_rcm_is_at_rest_at_the_exact_consistency_function_until_it_matches():
    model, name = exact("edm"), "edm"
    options = rcm.Options(normalize="none", warmup_steps=0, discrete=0.2, alone=0.2)
    train = TrainingSettings(steps=100)
    assert rcm.stages(options, train) == (20, 40)
    assert rcm.stages(rcm.Options(alone=0.0), train) == ()
    matching = MatchingLoss(by_distance, steps=4, proposal=rcm.Shifted(SD, 5.0))
    loss = rcm.RCMLoss(options, matching, rcm.Shifted(SD, 5.0), (20, 40))
    for step, moving in ((0, False), (30, False), (50, True)):
        scene = scene_of(name, step=step, steps=100)
        _, metrics = values(loss, model, scene, n=8)
        assert float(metrics["consistency"].max()) < 1e-8
        assert (float(metrics["field"].min()) > 0) == moving
    with pytest.raises(ValueError, match="leave no steps"):
        rcm.Options(discrete=0.6, alone=0.4)


def test_the_sum_is_the_sum():
    scene, model = scene_of("trigflow"), generator("trigflow", FAKE)
    options = vsd_scd.Options(normalize="none", weight=0.5)
    parts = (
        ConsistencyLoss(LogWeight(Label()), options),
        vsd.VSDLoss(LogWeight(Label()), MatchingLoss(vsd.by_angle)),
    )
    key, sample = jr.key(0), Sample(jnp.array([0.2]))
    found = vsd_scd.SumLoss(*parts, 0.5)(model, scene, sample, key=key)
    one, two = (
        part(model, scene, sample, key=k) for part, k in zip(parts, jr.split(key), strict=True)
    )
    np.testing.assert_allclose(found.value, one.value + 0.5 * two.value)
    error, *_ = consistency_error(model, scene, sample, options, key=jr.split(key)[0])
    np.testing.assert_allclose(one.value, error)


def test_dmd_regresses_where_noise_belongs_to_a_sample():
    model, scene = generator("edm", FAKE), scene_of("edm", fake=REAL)
    loss = dmd.DMDLoss(MatchingLoss(by_distance), L2(squared=True), dmd.Options())
    sample = Sample(jnp.array([0.2]), eps=jnp.array([0.7]))
    out = loss(model, scene, sample, key=jr.key(0))
    distance = (FAKE[0] + 0.7 * FAKE[1] - 0.2) ** 2
    np.testing.assert_allclose(out.value, 0.25 * distance, rtol=1e-6)


def test_a_rollouts_gradient_is_that_of_its_last_step():
    param = PARAMS["edm"]
    times = jnp.array([4.0, 1.0, 0.3])

    def roll(number, count=None, last=None):
        def to(x, t, s):
            return jnp.where(jnp.isclose(t, last), number, jax.lax.stop_gradient(number)) * x / 80

        model = Model(
            param, Leading("edm", to if last is not None else lambda x, t, s: number * x / 80)
        )
        return rollout(model, (1,), times, UNCONDITIONED, count=count, key=jr.key(0))[0]

    gradient = jax.jit(jax.value_and_grad(roll))
    for count, last in ((0, 80.0), (1, 4.0), (3, 0.3)):
        whole = gradient(jnp.asarray(0.5), jnp.asarray(count))
        parts = gradient(jnp.asarray(0.5), jnp.asarray(count), jnp.asarray(last))
        np.testing.assert_allclose(whole, parts, rtol=1e-6)
    np.testing.assert_array_equal(roll(0.5), roll(0.5, 3))


def test_what_is_made_takes_as_many_steps_as_not_and_goes_down():
    seen_at = []

    def to(x, t, s):
        jax.debug.callback(lambda t: seen_at.append(float(t)), t)
        return jnp.zeros_like(x)

    watched = Model(PARAMS["edm"], Leading("edm", to))
    proposal, sample = LogNormal(0.0, 2.0), Sample(jnp.zeros(1))
    make = jax.jit(lambda key: made(watched, sample, proposal, 3, key=key))
    lengths = set()
    for i in range(20):
        seen_at.clear()
        make(jr.key(i)).block_until_ready()
        jax.effects_barrier()
        lengths.add(len(seen_at))
        assert seen_at[0] == pytest.approx(80.0, rel=1e-5)
        assert sorted(seen_at, reverse=True) == seen_at
    assert lengths == {1, 2, 3}


def test_the_fake_learns_what_the_generator_makes():
    loss = FakeLoss()
    model = denoiser("trigflow", FAKE)
    scene = scene_of("trigflow", models={"generator": generator("trigflow", FAKE)})
    better = values(loss, model, scene, n=512)[0].mean()
    worse = values(loss, denoiser("trigflow", REAL), scene, n=512)[0].mean()
    assert better < worse
