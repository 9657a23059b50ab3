"""What a network is told besides its input, read from the context it is built in."""

from scmkit.models.conditioning import ConditioningEmbedding
from scmkit.plugin import Context
from scmkit.types import Key


def conditioning(context: Context, dim: int, *, key: Key) -> ConditioningEmbedding:
    """Times, class and scalars of the context as one vector of size `dim`."""
    return ConditioningEmbedding(
        context.embedding,
        dim,
        context.data.num_classes,
        noise_labels=context.noise_labels,
        conditions=context.conditions,
        key=key,
    )
