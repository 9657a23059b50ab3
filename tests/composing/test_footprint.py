"""Sizes from shapes: against counts by hand, unrolled programs, and what is really kept."""

import jax
import pytest

from scmkit import compose, count_parameters
from scmkit.composing.footprint import footprint
from scmkit.interfaces import DataSpec

VECTORS = DataSpec("none", (5,), 0, (0.0,) * 5, (1.0,) * 5)
IMAGES = DataSpec("none", (4, 16, 16), 10, (0.0,) * 4, (1.0,) * 4)
DIT = {"dit.width": 64, "dit.depth": 4, "dit.heads": 2}


def dit(**given):
    return footprint(compose(["dit", "diffusion"], DIT | given, data=IMAGES))


def test_a_perceptron_counted_by_hand():
    given = {"mlp.width": 32, "mlp.depth": 2, "mlp.embedding_dim": 16, "positional.channels": 8}
    recipe = compose(["adaln", "diffusion"], given, data=VECTORS)
    embedding = 8 * 16 + 16 + 16 * 16 + 16
    block = 2 * (32 * 32 + 32) + 16 * 64 + 64
    weights = embedding + 5 * 32 + 32 + 2 * block + 32 * 5 + 5
    assert count_parameters(recipe) == weights
    size = footprint(recipe)
    assert size.parameters == weights
    products = 8 * 16 + 16 * 16 + 5 * 32 + 2 * (2 * 32 * 32 + 16 * 64) + 32 * 5
    # Two operations a product, and a few elementwise.
    assert 2 * products < size.flops < 2.6 * products


def test_a_scan_counts_as_often_as_it_runs():
    scanned, unrolled = dit(), dit(**{"dit.unroll": 4})
    assert scanned.parameters == unrolled.parameters
    assert scanned.flops == pytest.approx(unrolled.flops, rel=1e-3)
    assert dit(**{"dit.unroll": 2}).flops == pytest.approx(unrolled.flops, rel=1e-3)
    deeper = dit(**{"dit.depth": 8})
    # 64 tokens of 64 features: the linear layers, and the scores and what they weigh.
    products = 64 * 12 * 64 * 64 + 2 * 64 * 64 * 64
    assert deeper.flops - scanned.flops == pytest.approx(4 * 2 * products, rel=0.1)


def test_rematerialisation_and_low_precision_keep_less():
    plain, full = dit(**{"dit.remat": "none"}), dit(**{"dit.remat": "full"})
    assert full.sample_bytes < 0.2 * plain.sample_bytes
    low = dit(**{"dit.remat": "none", "train.precision": "bfloat16"})
    assert low.sample_bytes < 0.75 * plain.sample_bytes
    # Of a block, its input alone: 64 tokens of 64 float32 features, once for each of four blocks.
    assert full.sample_bytes > 4 * 64 * 64 * 4


def test_nothing_is_allocated():
    """2.2 billion weights would be 9 GB."""
    before = len(jax.live_arrays())
    given = {"edm2.channels": 576}
    data = DataSpec("none", (3, 64, 64), 1000, (0.0,) * 3, (1.0,) * 3)
    assert count_parameters(compose(["edm2", "sct"], given, data=data)) > 2.2e9
    assert sum(a.nbytes for a in jax.live_arrays()[before:]) < 1e6
