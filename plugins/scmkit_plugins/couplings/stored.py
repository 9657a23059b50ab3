"""The stored coupling: the noise from which a teacher's sampler made each sample."""

from scmkit.errors import DataError
from scmkit.interfaces import AbstractCoupling, Sample
from scmkit.plugin import Context, NoOptions, Plugin, Slot
from scmkit.types import Key


class Stored(AbstractCoupling):
    r"""The pairs $(\varepsilon, x_0)$ of the data as they are, for reflow (arXiv 2209.03003, Section 2.1)."""

    def __call__(self, batch: Sample, *, key: Key) -> Sample:
        return batch


def build(config: NoOptions, context: Context, *, key: Key) -> Stored:
    if not context.data.paired:
        raise DataError(
            f"coupling 'stored': data '{context.data.source}' has no noise stored with its samples; draw "
            "pairs from a run with `scmkit data pairs RUN DEST`, and train with --data DEST"
        )
    return Stored()


plugin = Plugin(
    name="stored",
    summary="the noise that is stored with each sample, as `scmkit data pairs` draws it (arXiv 2209.03003)",
    provides={Slot.coupling: build},
)
