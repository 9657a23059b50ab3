"""Type aliases shared by every layer."""

from typing import TYPE_CHECKING

import jaxtyping
from jaxtyping import Array, Float, PRNGKeyArray

if TYPE_CHECKING:
    # An abstract attribute is no dataclass field; ClassVar says so to static checkers.
    from typing import ClassVar as AbstractClassVar
    from typing import ClassVar as AbstractVar
else:
    from equinox import AbstractClassVar, AbstractVar

Scalar = Float[Array, ""]
Sample = Float[Array, "*shape"]
Key = PRNGKeyArray
Keys = jaxtyping.Key[Array, " n"]

__all__ = ["AbstractClassVar", "AbstractVar", "Key", "Keys", "Sample", "Scalar"]
