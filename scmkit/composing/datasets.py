"""The data of a recipe: found by name or path, described, and found again."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scmkit.composing.blame import blaming
from scmkit.composing.build import build_free
from scmkit.composing.conformity import expect_array
from scmkit.composing.dotted import section
from scmkit.composing.entries import entries, find
from scmkit.composing.loading import load
from scmkit.composing.recipe import PluginRecord, Recipe
from scmkit.data import Store, spec_of
from scmkit.data.derived import data_digest
from scmkit.errors import DataError, PluginError, did_you_mean
from scmkit.interfaces import AbstractDataset, DataSpec
from scmkit.plugin import Slot
from scmkit.settings import DataSettings, configure
from scmkit.storage.containment import exists


@dataclass(frozen=True)
class FoundData:
    """A data set, how to find it again (`source`), and the record of its plugin by name, if it has one."""

    dataset: AbstractDataset
    source: str
    record: Mapping[str, PluginRecord] = dataclasses.field(default_factory=dict)


def resolve_data(data: str, settings: Mapping[str, Any] | None = None) -> FoundData:
    """The data set behind the name of a plugin or the path of a store.

    `settings` holds the plugin's options under dotted names. Raises `PluginError` where there is neither.
    """
    names = {entry.name for entry in entries()}
    # A name with a suffix is one of a store, there or not: no plugin is called so.
    is_path = "/" in data or os.sep in data or exists(Path(data)) or bool(Path(data).suffix)
    if is_path and data not in names:
        return FoundData(Store(data), str(Path(data).resolve()))
    if ":" not in data and data not in names:
        raise PluginError(
            f"no data '{data}': no plugin has that name{did_you_mean(data, names)}, and no store is at that "
            "path; `scmkit data import SOURCE DEST` makes one"
        )
    entry = find(data)
    own = section(settings or {}, entry.name)
    dataset = _built(data, own)
    config = configure(load(entry).config, own, entry.name)
    record = PluginRecord(entry.package, entry.version, dataclasses.asdict(config))
    return FoundData(dataset, entry.name, {entry.name: record})


def describe_data(found: FoundData, settings: Mapping[str, Any]) -> DataSpec:
    """What a model needs to know of the data, normalized as the `data.*` settings say."""
    data = configure(DataSettings, section(settings, "data"), "data")
    spec = spec_of(found.dataset, found.source, data.sigma_data, clip=data.clip)
    return dataclasses.replace(spec, digest=data_digest(found.dataset))


def normalized_as(spec: DataSpec, other: DataSpec) -> DataSpec:
    """A description of data with the normalization of another, if samples and classes are alike."""
    if (spec.shape, spec.num_classes) != (other.shape, other.num_classes):
        return spec
    return dataclasses.replace(
        spec, shift=other.shift, scale=other.scale, sigma_data=other.sigma_data, clip=other.clip
    )


@blaming()
def dataset_of(recipe: Recipe) -> AbstractDataset:
    """The data set a recipe was composed for.

    Raises `DataError` that says what has changed where it is another one by now.
    """
    if Slot.dataset not in recipe.slots:
        if not exists(Path(recipe.data.source)):
            raise DataError(
                f"{recipe.data.source}: the store that the run was trained on is gone; move it back there, "
                "or put a link there to where it is now"
            )
        dataset = Store(recipe.data.source)
    else:
        name = recipe.slots[Slot.dataset]
        dataset = _built(recipe.reference(name), recipe.plugins[name].config)
    if changed := _changes(recipe.data, dataset):
        raise DataError(
            f"data '{recipe.data.source}' is not what it was when the run began: {'; '.join(changed)}; put "
            "that back, or begin a new run (`scmkit train --teacher RUN` starts from the old one's weights)"
        )
    return dataset


def _changes(spec: DataSpec, dataset: AbstractDataset) -> list[str]:
    """In words, each property of a data set that is not as it was recorded, as far as it was."""
    changed = []
    if dataset.shape != spec.shape:
        changed.append(f"its samples are of shape {dataset.shape}, not {spec.shape}")
    if dataset.num_classes != spec.num_classes:
        now, then = (
            f"{n} classes" if n else "no labels" for n in (dataset.num_classes, spec.num_classes)
        )
        changed.append(f"it has {now}, not {then}")
    if changed or spec.digest is None:
        return changed
    return list(data_digest(dataset).differences(spec.digest))


def _built(reference: str, settings: Mapping[str, Any]) -> AbstractDataset:
    """The data set of a plugin, whose first sample has been held against the interface."""
    dataset: AbstractDataset = build_free(Slot.dataset, reference, settings)
    samples, labels = dataset.read("train", np.zeros(1, np.int64))
    expect_array(dataset, "dataset", samples, (1, *dataset.shape), np.float32)
    if labels is not None:
        expect_array(dataset, "dataset as labels", labels, (1,), np.int32)
    return dataset
