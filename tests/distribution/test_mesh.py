"""Meshes: what is said of them, which samples they take, and where arrays lie on them."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh

from scmkit.distribution.layout import Layout
from scmkit.distribution.mesh import check_batch, gather_dtype, parse_mesh
from scmkit.errors import UsageError


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        (None, (8, 1)),
        ("", (8, 1)),
        ("fsdp=8", (1, 8)),
        ("fsdp=2", (4, 2)),
        ("data=8", (8, 1)),
        (" data = 2 , fsdp = 4 ", (2, 4)),
        ("fsdp=4,gather=bfloat16", (2, 4)),
    ],
)
def test_what_a_text_says(text, sides):
    assert parse_mesh(text, 8) == sides
    assert gather_dtype(text) == (jnp.bfloat16 if text and "gather" in text else None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "data=3,fsdp=2",
            "that is 6 devices, and there are 8; meshes of all of them: data=8,fsdp=1, ",
        ),
        ("data=4", "that is 4 devices"),
        ("fsdp=3", "3 does not divide 8 devices; what does: 1, 2, 4, 8"),
        ("fsdp=16", "16 does not divide 8 devices"),
        ("gather=bfloat16", "none is gathered"),
        ("data=8,gather=bfloat16", "none is gathered"),
        *[
            (wrong, "write it as data=N,fsdp=M")
            for wrong in (
                "data",
                "fsdp=0",
                "fsdp=-2",
                "tensor=2",
                "data=2,data=4",
                "gather=int8",
                "8",
            )
        ],
    ],
)
def test_what_fits_no_devices_is_refused(text, said):
    with pytest.raises(UsageError) as refusal:
        parse_mesh(text, 8)
    assert str(refusal.value).startswith(f"--mesh {text}: ")
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("batch", "accumulate", "near"),
    [(60, 1, "56 and 64"), (4, 1, "8"), (24, 2, "16 and 32"), (100, 4, "96 and 128")],
)
def test_a_batch_that_does_not_divide_is_refused_with_those_that_do(batch, accumulate, near):
    with pytest.raises(UsageError, match=f"the nearest sizes that do: {near}$"):
        check_batch(batch, accumulate, 8)
    check_batch(int(near.split()[-1]), accumulate, 8)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((256, 512), 1),
        ((512, 256), 0),
        ((256, 256), 1),
        ((513, 256), 1),
        ((6, 100, 252), None),
        ((12, 3, 512, 512), 3),
        ((64, 64), None),
        ((1 << 14,), 0),
        ((0, 1 << 20), None),
        ((), None),
    ],
)
def test_an_array_is_divided_by_its_largest_axis_that_divides(shape, axis):
    """Small arrays, and those of which no axis divides, are whole."""
    layout = Layout(AbstractMesh((2, 8), ("data", "fsdp")))
    assert layout.axis(jax.ShapeDtypeStruct(shape, jnp.float32)) == axis
    whole = Layout(AbstractMesh((16, 1), ("data", "fsdp")))
    assert whole.axis(jax.ShapeDtypeStruct(shape, jnp.float32)) is None
