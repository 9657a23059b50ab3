"""The inputs of a model, and the errors for anything else."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.errors import InputError
from scmkit.interfaces import Conditioning
from scmkit.types import Scalar


@dataclass(frozen=True)
class Inputs:
    """The inputs that a model was built and trained for, as far as they are known.

    **Attributes:**

    - `shape`: of one sample; None where it is not known.
    - `classes`: the number of classes; 0 for a model that is told no label, None where it is not known.
    - `unlabeled`: whether training also showed samples without their label.
    """

    shape: tuple[int, ...] | None = None
    classes: int | None = None
    unlabeled: bool = True

    def check(
        self,
        x_t: Float[Array, "*shape"],
        t: Scalar | float,
        cond: Conditioning,
        s: Scalar | float | None = None,
    ) -> None:
        """Raises `InputError` for anything but one sample at one time, such as a batch.

        Shapes are known while JAX traces, so that nothing of this is left in a compiled program. For the same
        reason times are looked at only where they are numbers of Python's or numpy's.
        """
        scalars = {"t": t, "s": s, "cond.label": cond.label}
        scalars |= {f"cond.scalars['{name}']": value for name, value in cond.scalars.items()}
        if self.shape is not None:
            _expect("x_t", jnp.shape(x_t), self.shape)
        for name, value in scalars.items():
            _expect(name, jnp.shape(value) if value is not None else (), ())
        for name, time in (("t", t), ("s", s)):
            if time is None or isinstance(time, jax.Array):
                continue
            if not (math.isfinite(time) and time >= 0):
                raise InputError(f"{name} is {time}: a time is a finite number of at least 0")


def _expect(name: str, got: tuple[int, ...], due: tuple[int, ...]) -> None:
    if got != due:
        raise InputError(
            f"{name} has shape {got}, and must have {due}: a model takes one sample at one time, and "
            "jax.vmap of it a batch"
        )
