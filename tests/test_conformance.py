"""Every built-in plugin against the checks for the slots it fills, and the checks against wrong ones."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from emoji_packages import write_packed
from mnist_format import write_mnist_format

from scmkit.composing.entries import entries, find
from scmkit.composing.loading import load
from scmkit.data import ArrayDataset
from scmkit.interfaces import (
    UNCONDITIONED,
    AbstractAttention,
    AbstractBatchLoss,
    AbstractCoupling,
    AbstractDistance,
    AbstractGroupLoss,
    AbstractLoss,
    AbstractMetric,
    AbstractNoiseProcess,
    AbstractParameterization,
    AbstractProposal,
    Coefficients,
    Evaluation,
    LossOutput,
    Sample,
    Statistics,
)
from scmkit.losses import noised
from scmkit.plugin import Plugin, Slot
from scmkit.testing import Check, assert_abstract_or_final, checks

SMALL = {
    "classifier": {"steps": 5, "width": 4},
    "dit": {"width": 16, "depth": 2, "heads": 2},
    "ddpmpp": {
        "channels": 8,
        "multipliers": (1, 2),
        "blocks": 1,
        "attention_resolutions": (),
        "embedding_multiplier": 2,
    },
    "edm2": {
        "channels": 8,
        "multipliers": (1, 2),
        "blocks": 1,
        "attention_resolutions": (),
        "head_dim": 8,
    },
    "emoji": {"path": str(write_packed(Path(tempfile.mkdtemp()))), "side": 8},
    "fashion-mnist": {"path": str(write_mnist_format(Path(tempfile.mkdtemp())))},
    "mlp": {"width": 16, "depth": 2, "embedding_dim": 16},
    "operator-mlp": {"width": 16, "depth": 2, "embedding_dim": 16},
    "operator-unet": {
        "channels": 8,
        "multipliers": (1, 2),
        "blocks": 1,
        "head_dim": 4,
        "attention_resolutions": (),
        "embedding_dim": 16,
    },
    "unet": {
        "channels": 8,
        "multipliers": (1, 2),
        "blocks": 1,
        "head_dim": 4,
        "attention_resolutions": (),
        "embedding_dim": 16,
    },
}
"""Options with which a network compiles in seconds, and a data set finds its files."""


ELSEWHERE = {"efficientnet", "inception", "lpips"}
"""What needs a large file, and is checked in the tests of its own."""


IMAGES = {"diffusion", "sct", "scd", "meanflow", "dmd2"}
"""The methods whose losses are checked on labeled images in every run of the tests; all are on vectors."""

COMPARED = {"ddpmpp", "edm2", "unet"}
"""The networks of which tests of their own hold outputs and derivatives on images; all are on vectors where
they take them, and the transformer on images."""

WRAPPED = {"operator-unet"}
"""The networks that are another inside what `operator-mlp` has as well: one program of them in every run."""

COUPLED = IMAGES | {"ect", "ict", "shortcut", "pid"}
"""The methods of which every run of the tests holds what they say of the noise of a coupling."""


def marks(plugin: str, check: str) -> list[pytest.MarkDecorator]:
    """Whether a check is left to `pytest -m slow`: to compile it takes seconds."""
    twice = check.startswith("loss[labeled") and plugin not in IMAGES
    again = plugin in COMPARED and "[labeled" in check
    again |= plugin in WRAPPED and check != "network[labeled-image]/output_is_like_the_sample"
    declared = "noise_of_a_coupling" in check and plugin not in COUPLED
    return [pytest.mark.slow] if twice or again or declared else []


def built_ins() -> list[Any]:
    # In the order of `entries`, on which xdist's workers must agree.
    return [
        pytest.param(check, id=f"{entry.name}/{check.name}", marks=marks(entry.name, check.name))
        for entry in entries()
        if entry.package == "scmkit" and entry.name not in ELSEWHERE
        for check in checks(load(entry), config=SMALL.get(entry.name))
    ]


@pytest.mark.parametrize("check", built_ins())
def test_conformance(check: Check) -> None:
    check.run()


def test_every_slot_has_checks() -> None:
    slots = {slot for entry in entries() for slot in load(entry).provides}
    assert slots == set(Slot)
    for name in ("trigflow", "scd", "consistency", "gmm", "mmd"):
        plugin = load(find(name))
        found = [check.name for check in checks(plugin)]
        assert len(found) == len(set(found))
        for slot in plugin.provides:
            assert any(check.startswith(slot) for check in found)


# Parts that are wrong in one way each, and the check that must say so.


class Process(AbstractNoiseProcess):
    """VE, or something wrong."""

    wrong: str
    ratio_max: float = 80.0

    def alpha(self, t: Any) -> Any:
        return jnp.ones_like(t)

    def sigma(self, t: Any) -> Any:
        return jax.lax.stop_gradient(t) if self.wrong == "derivative" else t

    def time_at(self, ratio: Any) -> Any:
        return 2 * ratio if self.wrong == "time" else ratio


class Parameterization(AbstractParameterization):
    """`f = x - ratio F`, or something wrong."""

    wrong: str
    process: AbstractNoiseProcess
    sigma_data: float

    def coefficients(self, t: Any) -> Coefficients:
        ratio, one = self.process.ratio(t), jnp.ones_like(t)
        skip = 0.9 * one if self.wrong == "boundary" else one
        return Coefficients(skip=skip, out=-ratio, in_=one, noise=ratio[None])

    def weight(self, t: Any) -> Any:
        return -jnp.ones_like(t) if self.wrong == "weight" else jnp.ones_like(t)

    def velocity(self, F: Any, x_t: Any, t: Any) -> Any:
        right = self.process.velocity_from_denoised(self.denoise(F, x_t, t), x_t, t)
        return -right if self.wrong == "velocity" else right

    def jump(self, t: Any, s: Any) -> Any:
        return self.ddim_jump(t, s)


class Proposal(AbstractProposal):
    """Always the same time, beyond the last."""

    def sample(self, process: AbstractNoiseProcess, *, key: Any) -> Any:
        return 2 * process.t_max


class Attention(AbstractAttention):
    """Softmax attention, or something wrong."""

    wrong: str

    def __call__(self, q: Any, k: Any, v: Any) -> Any:
        scale = 1.0 if self.wrong == "scale" else q.shape[-1] ** -0.5
        logits = jnp.einsum("qhd,khd->hqk", q * scale, k)
        weights = jax.nn.softmax(logits)
        if self.wrong == "derivative":
            weights = jax.lax.stop_gradient(weights)
        if self.wrong == "forward":
            identity = jax.custom_vjp(lambda a: a)
            identity.defvjp(lambda a: (a, None), lambda _, g: (g,))
            weights = identity(weights)
        return jnp.einsum("hqk,khd->qhd", weights, v)


class Loss(AbstractLoss):
    """A regression on the tangent, or something wrong."""

    wrong: str

    def __call__(self, model: Any, scene: Any, sample: Any, *, key: Any) -> LossOutput:
        t = scene.proposal.sample(model.process, key=key)
        point = noised(model.process, sample, t, key=key)
        gap = model.velocity(point.x_t, t, point.cond) - scene.tangent(point)
        if self.wrong == "untrained":
            gap = jax.lax.stop_gradient(gap)
        ratio = -model.process.ratio(t) if self.wrong == "ratio" else model.process.ratio(t)
        return LossOutput(jnp.mean(gap**2), {}, ratio)


class Distance(AbstractDistance):
    """The Euclidean distance, or something wrong."""

    wrong: str

    def __call__(self, x: Any, y: Any) -> Any:
        square = jnp.sum((x - y) ** 2)
        return {
            "vector": (x - y) ** 2,
            "negative": -square,
            "offset": square + 1,
            "root": jnp.sqrt(square),
            "one-sided": square * (1 + x.ravel()[0] ** 2),
            "constant": jax.lax.stop_gradient(square),
        }[self.wrong]


class Coupling(AbstractCoupling):
    """Fresh noise, or something wrong."""

    wrong: str

    def __call__(self, batch: Any, *, key: Any) -> Any:
        key = jr.key(0) if self.wrong == "key" else key
        eps = jr.normal(key, batch.x0.shape) * (3 if self.wrong == "wide" else 1)
        if self.wrong == "dtype":
            eps = eps.astype(jnp.bfloat16)
        cond = UNCONDITIONED if self.wrong == "label" else batch.cond
        return Sample(batch.x0, cond, None if self.wrong == "none" else eps)


class Turning(AbstractBatchLoss):
    """A loss that looks at where a sample stands in its batch."""

    def __call__(self, model: Any, scene: Any, batch: Any, *, keys: Any) -> LossOutput:
        out = jax.vmap(lambda sample, key: Loss("")(model, scene, sample, key=key))(batch, keys)
        return eqx.tree_at(lambda o: o.value, out, out.value * jnp.arange(1.0, 1 + len(out.value)))


class Grouped(AbstractGroupLoss):
    """A loss on groups of a size that is none."""

    group: float = 2.5

    def __call__(self, model: Any, scene: Any, samples: Any, *, key: Any) -> LossOutput:
        raise AssertionError("no group can be made")


class Data(ArrayDataset):
    """Too bright, of any brightness, and with the wrong mean."""

    def statistics(self) -> Statistics:
        return Statistics((9.0,), (1.0,))


def data(config: Any) -> Data:
    images = np.random.default_rng(0).normal(size=(40, 1, 8, 8)).astype(np.float32)
    return Data(images, images, levels=256)


class Metric(AbstractMetric):
    """How well mean and deviation agree, or something wrong."""

    def __init__(self, wrong: str) -> None:
        self.wrong = wrong
        self.larger_is_better = wrong != "direction"
        self.space = "mmd" if wrong == "space" else None

    def applies(self, evaluation: Evaluation) -> bool:
        return True

    def __call__(self, evaluation: Evaluation) -> float:
        if self.wrong == "needs" and evaluation.probabilities is None:
            return float("nan")
        x, y = evaluation.samples, evaluation.reference
        return -float(abs(x.mean() - y.mean()) + abs(x.std() - y.std()))


def part(make: Callable[..., Any]) -> Callable[..., Any]:
    return lambda config, context, *, key: make(context)


WRONG = (
    {
        "noise/time_at_inverts_the_ratio": {Slot.noise: part(lambda _: Process(wrong="time"))},
        "noise/derivatives_are_finite_and_right": {
            Slot.noise: part(lambda _: Process(wrong="derivative"))
        },
        "proposal[edm]/times_lie_between_data_and_prior": {
            Slot.proposal: part(lambda _: Proposal())
        },
        "proposal[edm]/times_depend_on_the_key_alone": {Slot.proposal: part(lambda _: Proposal())},
        "attention/values_are_softmax_attention": {
            Slot.attention: part(lambda _: Attention("scale"))
        },
        "attention/forward_mode_is_right": {
            Slot.attention: part(lambda _: Attention("derivative"))
        },
        "loss[vector]/every_player_is_trained": {Slot.loss: part(lambda _: Loss("untrained"))},
        "loss[vector]/ratio_says_where_the_sample_stood": {
            Slot.loss: part(lambda _: Loss("ratio"))
        },
        "loss[vector]/the_order_of_a_batch_is_nothing": {Slot.loss: part(lambda _: Turning())},
        "loss[vector]/the_key_decides": {Slot.loss: part(lambda _: Grouped())},
        "loss[vector]/noise_of_a_coupling_is_taken_as_declared": {
            Slot.loss: part(lambda _: Loss("undeclared"))
        },
        "dataset/samples_are_float32_of_one_shape": {Slot.dataset: data},
        "dataset/samples_lie_on_their_levels": {Slot.dataset: data},
        "dataset/statistics_are_those_of_the_train_split": {Slot.dataset: data},
        "dataset/the_splits_are_different_data": {Slot.dataset: data},
    }
    | {
        f"distance[image]/{check}": {Slot.distance: part(lambda _, wrong=wrong: Distance(wrong))}
        for wrong, check in {
            "vector": "distances_are_float32_scalars",
            "negative": "distances_are_not_negative",
            "offset": "equal_samples_are_no_distance_apart",
            "one-sided": "the_order_of_two_samples_is_nothing",
            "constant": "gradients_are_right",
        }.items()
    }
    | {
        "distance[vector]/equal_samples_are_no_distance_apart": {
            Slot.distance: part(lambda _: Distance("root"))
        }
    }
    | {
        f"coupling[labelled-image]/{check}": {
            Slot.coupling: part(lambda _, wrong=wrong: Coupling(wrong))
        }
        for wrong, check in {
            "dtype": "every_sample_has_noise",
            "label": "samples_keep_their_labels",
            "wide": "noise_is_normal",
            "key": "the_key_decides",
        }.items()
    }
    | {"coupling[vector]/every_sample_has_noise": {Slot.coupling: part(lambda _: Coupling("none"))}}
    | {
        f"metric/{check}": {Slot.metric: lambda _, wrong=wrong: Metric(wrong)}
        for wrong, check in {
            "direction": "worse_samples_score_worse",
            "space": "its_space_is_a_features_plugin",
            "needs": "it_says_whether_it_applies",
        }.items()
    }
    | {
        f"parameterization[edm]/{check}": {
            Slot.parameterization: part(
                lambda c, wrong=wrong: Parameterization(
                    wrong=wrong, process=c.noise, sigma_data=c.data.sigma_data
                )
            )
        }
        for wrong, check in {
            "boundary": "denoising_almost_clean_data_is_the_identity",
            "weight": "weight_is_positive",
            "velocity": "velocity_agrees_with_denoise",
        }.items()
    }
)


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found(name: str) -> None:
    makes = "diffusion" if Slot.loss in WRONG[name] else None
    found = {c.name: c for c in checks(Plugin("odd", "wrong", WRONG[name], makes=makes))}
    with pytest.raises(AssertionError) as caught:
        found[name].run()
    assert len(str(caught.value).split()) > 5


def test_attention_without_forward_mode_is_found() -> None:
    plugin = Plugin("odd", "wrong", {Slot.attention: part(lambda _: Attention("forward"))})
    found = {c.name: c for c in checks(plugin)}
    with pytest.raises(TypeError, match="jvp"):
        found["attention/forward_mode_is_right"].run()


def test_extending_a_finished_module_is_found() -> None:
    class Base(eqx.Module):
        def one(self) -> int:
            return 1

    class Derived(Base):
        def one(self) -> int:
            return 2

    module = type(jax)("odd")
    for kind in (Base, Derived):
        kind.__module__ = "odd"
        setattr(module, kind.__name__, kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "odd", module)
        with pytest.raises(AssertionError, match=r"extends .*Base, which is concrete"):
            assert_abstract_or_final(module)
