"""What a network is told besides its input, read from the context it is built in."""

from scmkit.models.conditioning import ConditioningEmbedding
from scmkit.plugin import Context
from scmkit.types import Key


def conditioning(
    context: Context, dim: int, *, decoupled: bool = False, key: Key
) -> ConditioningEmbedding:
    """Times, class and scalars of the context as one vector of size `dim`.

    A `decoupled` network is told one time in each of its parts, by `both_ends`.
    """
    return ConditioningEmbedding(
        context.embedding,
        dim,
        context.data.num_classes,
        noise_labels=1 if decoupled else context.noise_labels,
        conditions=context.conditions,
        key=key,
    )


def check_decoupled(name: str, decoupled: int, depth: int) -> None:
    """Raises `ValueError` where no block is left to be told where a jump starts."""
    if decoupled >= depth:
        raise ValueError(
            f"{name}: of {depth} blocks {decoupled} are to be told where a jump ends, and none where it "
            f"starts; set {name}.decoupled to less than {depth}"
        )
