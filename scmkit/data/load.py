"""From a data set to what a model needs to know of it."""

from scmkit.errors import DataError
from scmkit.interfaces import AbstractDataset, DataSpec


def spec_of(
    dataset: AbstractDataset, source: str, sigma_data: float = 0.5, *, clip: bool = True
) -> DataSpec:
    r"""The `DataSpec` that brings each channel to mean 0 and standard deviation `sigma_data`.

    $x = (raw - mean) \cdot \sigma_d / std$. `source` is the name or path it can be loaded from
    again. Raises `DataError` for a channel that is constant, which no scale can bring there.
    """
    statistics = dataset.statistics()
    for channel, (mean, std) in enumerate(zip(statistics.mean, statistics.std, strict=True)):
        # A spread below float32's resolution at the mean is rounding, not data.
        if not std > 1e-7 * abs(mean):
            raise DataError(
                f"data '{source}': channel {channel} is constant (every value is {mean:.6g}), so "
                f"it cannot be normalised; remove that channel and import the data again"
            )
    return DataSpec(
        source=source,
        shape=dataset.shape,
        num_classes=dataset.num_classes,
        shift=statistics.mean,
        scale=tuple(sigma_data / std for std in statistics.std),
        sigma_data=sigma_data,
        clip=clip,
    )
