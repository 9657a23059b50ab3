"""Weights that live on a set, to which they are brought back after each step of the optimizer."""

import abc
from typing import TypeVar

import equinox as eqx
import jax
from jaxtyping import PyTree

T = TypeVar("T", bound=PyTree)


class AbstractConstrained(eqx.Module):
    """A module whose weights are brought back to a set after every optimizer step.

    Anywhere in a model or a loss. Nothing happens in a forward pass, a JVP or a target, so that none
    of them has a side effect (EDM2's forced weight normalization, arXiv 2312.02696, Section 2.3).
    """

    @abc.abstractmethod
    def constrained(self) -> "AbstractConstrained":
        """This module with its weights projected."""


def constrain(tree: T) -> T:
    """A tree with every `AbstractConstrained` module in it projected."""
    return jax.tree.map(
        lambda node: node.constrained() if _is_constrained(node) else node,
        tree,
        is_leaf=_is_constrained,
    )


def _is_constrained(node: object) -> bool:
    return isinstance(node, AbstractConstrained)
