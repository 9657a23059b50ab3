"""Guidance: the closed form on Gaussian models, its special cases, and the student that is told."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scmkit_plugins.methods.scd import TeacherTangent
from scmkit_plugins.processes.edm import EDMParameterization, VarianceExploding
from scmkit_plugins.processes.trigflow import TrigFlowParameterization, TrigFlowProcess
from scmkit_plugins.samplers.consistency import ConsistencySampler
from scmkit_plugins.samplers.pf_ode import Options, PFODESampler

from scmkit import Conditioning, Guided, Model, Run, build, build_model, compose, sample, train
from scmkit.errors import OptionError, PluginError, UsageError
from scmkit.interfaces import UNCONDITIONED, AbstractNetwork, DataSpec, Point
from scmkit.models.conditioning import ConditioningEmbedding
from scmkit.sampling import draw, with_guidance
from scmkit.testing.oracles import Gaussian, exact_model

SD = 0.5
TRIG = TrigFlowParameterization(TrigFlowProcess(SD), SD)
EDM = EDMParameterization(VarianceExploding(), SD)
SHARP, BROAD = Gaussian.isotropic(0.2), Gaussian.isotropic(0.6)
TIMES = (0.05, 0.4, 1.1, 1.5)


class Labelled(AbstractNetwork):
    """One Gaussian's exact network with a label, another's without."""

    labelled: AbstractNetwork
    plain: AbstractNetwork

    def __call__(self, x, c_noise, cond, *, key):
        has_label = cond.label is not None
        return (self.labelled if has_label else self.plain)(x, c_noise, UNCONDITIONED, key=key)


def labelled(parameterization):
    networks = [exact_model(parameterization, g).network for g in (SHARP, BROAD)]
    return Model(parameterization, Labelled(*networks))


def denoised(t, strength):
    """Guidance is linear in the denoised sample: `D_u + w (D_c - D_u)` for two Gaussians."""
    x = jnp.asarray([0.3, -0.8])
    weak, strong = (g.denoise(TRIG.process, x, t) for g in (BROAD, SHARP))
    return x, weak + strength * (strong - weak)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("strength", [0.0, 1.0, 2.5])
def test_classifier_free_guidance_in_closed_form(t, strength):
    t = jnp.asarray(t)
    x, expected = denoised(t, strength)
    cond = Conditioning(jnp.asarray(3))
    actual = Guided(labelled(TRIG), strength).denoise(x, t, cond)
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=1e-6)
    told = Conditioning(jnp.asarray(3), {"guidance": jnp.asarray(strength)})
    np.testing.assert_array_equal(Guided(labelled(TRIG)).denoise(x, t, told), actual)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("guide", [TRIG, EDM], ids=["same", "another process"])
def test_autoguidance_in_closed_form(t, guide):
    t = jnp.asarray(t)
    x, expected = denoised(t, 1.7)
    model = Guided(exact_model(TRIG, SHARP), 1.7, guide=exact_model(guide, BROAD))
    np.testing.assert_allclose(model.denoise(x, t), expected, rtol=3e-4, atol=1e-5)


def built(classes, **options):
    data = DataSpec("none", (2,), classes, (0.0, 0.0), (1.0, 1.0))
    given = TINY_MODEL | {f"diffusion.{k}": v for k, v in options.items()}
    return build_model(compose(["trigflow", "diffusion"], given, data=data), key=jr.key(classes))


def test_a_guide_without_classes_is_not_told_the_label():
    """Classifier-free guidance with an unconditional model of its own, as in EDM2."""
    model, guide = built(3), built(0)
    x, t, cond = jnp.asarray([0.3, -0.8]), jnp.asarray(0.7), Conditioning(jnp.asarray(2))
    strong, weak = model.denoise(x, t, cond), guide.denoise(x, t)
    for weaker in (guide, Guided(guide, guide=guide)):
        guided = Guided(model, 3.0, guide=weaker).denoise(x, t, cond)
        np.testing.assert_allclose(guided, weak + 3.0 * (strong - weak), rtol=1e-5)


def test_a_model_that_saw_every_label_is_guided_by_another_only():
    model = built(3, label_dropout=0.0)
    with pytest.raises(UsageError, match="trained with every label shown"):
        Guided(model, 2.0)
    Guided(model, 2.0, guide=built(0))


def test_the_interval_is_in_noise_to_signal_ratios():
    model = Guided(labelled(TRIG), 3.0, interval=(0.3, 2.0))
    for ratio, strength in ((0.29, 1.0), (0.31, 3.0), (1.99, 3.0), (2.01, 1.0)):
        t = TRIG.process.time_at(jnp.asarray(ratio))
        x, expected = denoised(t, strength)
        actual = model.denoise(x, t, Conditioning(jnp.asarray(0)))
        np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=1e-6)


def test_without_a_label_there_is_nothing_to_guide_to():
    model, x, t = labelled(TRIG), jnp.asarray([0.3, -0.8]), jnp.asarray(0.7)
    np.testing.assert_array_equal(Guided(model).raw(x, t), model.raw(x, t))
    for guided, cond in (
        (Guided(model, 9.0), UNCONDITIONED),
        (Guided(model), Conditioning(None, {"guidance": jnp.asarray(2.0)})),
    ):
        with pytest.raises(UsageError, match="no label was given"):
            guided.raw(x, t, cond)


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), -0.5])
def test_strengths_are_finite(strength):
    with pytest.raises(UsageError, match=f"guidance {strength}: give a finite strength"):
        Guided(labelled(TRIG), strength)
    with pytest.raises(UsageError, match="finite"):
        with_guidance(UNCONDITIONED, 3, strength)


def test_samplers_take_a_guided_model_and_count_both_evaluations():
    noise = jr.normal(jr.key(0), (4, 2))
    cond = Conditioning(jnp.arange(4))
    model, sampler = Guided(labelled(TRIG), 1.0), PFODESampler(Options())
    out = draw(model, sampler, noise, cond, steps=3, key=jr.key(1))
    plain = draw(labelled(TRIG), sampler, noise, cond, steps=3, key=jr.key(1))
    np.testing.assert_allclose(out.x, plain.x, rtol=1e-5, atol=1e-6)
    assert out.nfe.tolist() == (2 * plain.nfe).tolist()
    jumps = draw(model, ConsistencySampler(()), noise, cond, steps=2, key=jr.key(1))
    assert jumps.nfe.tolist() == [4] * 4


def test_the_tangent_takes_each_samples_strength():
    tangent = TeacherTangent(process=TRIG.process, teacher=Guided(labelled(TRIG)))
    x, t, labels = jnp.asarray([0.3, -0.8]), jnp.asarray(0.9), jnp.arange(3)
    strengths = jnp.asarray([1.0, 1.5, 2.0])
    cond = Conditioning(labels, {"guidance": strengths})
    actual = jax.vmap(lambda c: tangent(Point(x, x, x, t, c)))(cond)
    for strength, velocity in zip(strengths, actual, strict=True):
        _, d = denoised(t, strength)
        np.testing.assert_allclose(velocity, (jnp.cos(t) * x - d) / jnp.sin(t), rtol=2e-4)


TINY = {
    "mlp.width": 16,
    "mlp.depth": 1,
    "mlp.embedding_dim": 8,
    "positional.channels": 8,
    "train.batch_size": 16,
    "train.steps": 12,
    "train.lr": 1e-2,
    "teacher.train.steps": 2,
}


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    class Silent:
        messages: list = []  # noqa: RUF012

        def message(self, text):
            self.messages.append(text)

        def start(self, *_):
            pass

        advance = start

        def stop(self):
            pass

    given = TINY | {"scd.guidance_range": (1.0, 2.0)}
    recipe = compose(["trigflow", "scd"], given)
    return train(recipe, out=tmp_path_factory.mktemp("runs"), name="s", reporter=Silent()), Silent


def test_a_student_is_told_the_strength_and_starts_as_its_teacher(student):
    run, reporter = student
    assert run.recipe.conditions == {"guidance"}
    assert not any("fresh weights" in m for m in reporter.messages)
    teacher = Run.load(run.path / "teacher")
    assert not teacher.recipe.conditions
    embedding = run.model.network.conditioning  # pyright: ignore
    assert isinstance(embedding, ConditioningEmbedding)
    weight = embedding.scalars.embeddings["guidance"].weight
    assert jnp.abs(weight).max() > 0  # It has been trained.


def test_a_student_is_sampled_at_a_strength(student):
    run, _ = student
    low, high = (
        sample(run.model, run.recipe.data, 4, guidance=strength) for strength in (1.0, 2.0)
    )
    unsaid = sample(run.model, run.recipe.data, 4)
    np.testing.assert_allclose(low, unsaid, atol=1e-6)
    assert np.abs(high - low).max() > 0


@pytest.mark.slow
def test_a_student_of_an_autoguided_teacher(student, tmp_path, monkeypatch):
    """The weaker run is found again from another directory, and its own network may be another."""
    run, reporter = student
    monkeypatch.chdir(run.path.parent)
    given = TINY_MODEL | {"mlp.width": 8}
    weak = train(
        compose(["edm", "diffusion"], given), out=tmp_path, name="weak", reporter=reporter()
    )
    given = TINY_MODEL | {"scd.guidance": 1.5, "scd.guide": "../" * 9 + str(weak.path)[1:]}
    recipe = compose(["scd"], given, teacher=run.path / "teacher")
    assert recipe.plugins["scd"].config["guide"] == str(weak.path.resolve())
    guided = train(recipe, out=tmp_path, name="guided", reporter=reporter())
    assert np.isfinite([line["loss"] for line in guided.metrics]).all()
    assert guided.step == 12
    with pytest.raises(UsageError, match="nowhere' is not a run"):
        build(
            compose(["scd"], given | {"scd.guide": "nowhere"}, teacher=run.path / "teacher"),
            key=jr.key(0),
            teacher=weak.model,
        )


def test_a_network_that_takes_no_strength_says_so():
    model = build_model(compose(["trigflow", "sct"], TINY_MODEL), key=jr.key(0))
    with pytest.raises(
        UsageError, match=r"not told the condition 'guidance'; wrap .* scmkit.Guided"
    ):
        sample(model, compose([], TINY_MODEL).data, 2, guidance=1.5)


TINY_MODEL = {k: v for k, v in TINY.items() if not k.startswith("teacher")}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scd.guidance_range": "2,1"}, r"guidance_range \(2.0, 1.0\): give two numbers"),
        ({"scd.guidance_interval": "1"}, r"guidance_interval \(1.0,\): give two numbers"),
        ({"scd.guidance": -1}, "greater than or equal to 0"),
    ],
)
def test_bad_options_are_refused(given, message):
    with pytest.raises(OptionError, match=message):
        compose(["scd"], given)


def test_guidance_needs_classes_or_a_guide():
    data = DataSpec("none", (2,), 0, (0.0, 0.0), (1.0, 1.0))
    recipe = compose(["scd"], {"scd.guidance": 2.0}, data=data)
    model = eqx.filter_eval_shape(build_model, recipe, key=jr.key(0))
    with pytest.raises(
        PluginError, match=r"needs data with classes; name a weaker run with the option 'guide'"
    ):
        build(recipe, key=jr.key(0), teacher=model)
