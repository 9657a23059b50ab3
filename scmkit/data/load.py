"""From a data set to what a model needs to know of it."""

from scmkit.data.statistics import constant_channels
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
    if constant := constant_channels(statistics):
        value = statistics.mean[constant[0]]
        more = f" and so are {len(constant) - 1} more" if len(constant) > 1 else ""
        raise DataError(
            f"data '{source}': channel {constant[0]} is constant (every value is {value:.6g}){more}, so it "
            f"cannot be normalised; import the data again without: add --drop-constant"
        )
    return DataSpec(
        source=source,
        shape=dataset.shape,
        num_classes=dataset.num_classes,
        shift=statistics.mean,
        scale=tuple(sigma_data / std for std in statistics.std),
        sigma_data=sigma_data,
        clip=clip,
        class_names=dataset.class_names,
        paired=dataset.paired,
        times=dataset.times,
    )
