"""What there is to know of a data set, as JSON and for people."""

from typing import TYPE_CHECKING, Any

from scmkit_cli.terminal import say

if TYPE_CHECKING:
    from scmkit.interfaces import AbstractDataset, Split

MANY = 16
"""Values or classes in a line."""


def describe(dataset: "AbstractDataset") -> dict[str, Any]:
    """What there is to know of any data set, as JSON: kind, shape, sizes, classes, statistics."""
    from dataclasses import asdict

    import numpy as np

    from scmkit.data import Store
    from scmkit.data.classes import class_name

    pairs = dataset.metadata.pairs if isinstance(dataset, Store) else None
    statistics, classes = dataset.statistics(), dataset.num_classes
    counts: dict[str, list[int]] = {"train": [], "test": []}
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        labels = dataset.labels(split)
        if labels is not None:
            counts[split] = np.bincount(labels, minlength=classes).tolist()
    return {
        "kind": "images" if len(dataset.shape) == 3 else "vectors",
        "shape": list(dataset.shape),
        "train": dataset.size("train"),
        "test": dataset.size("test"),
        "num_classes": classes,
        "mean": list(statistics.mean),
        "std": list(statistics.std),
        "dtype": dataset.metadata.dtype if isinstance(dataset, Store) else None,
        "classes": [class_name(i, dataset.class_names) for i in range(classes)],
        "counts": counts,
        "pairs": None if pairs is None else asdict(pairs),
        "licences": list(dataset.licences),
    }


def summary(facts: dict[str, Any]) -> str:
    """One line for people, from what `describe` returned."""
    shape = "x".join(str(n) for n in facts["shape"])
    labels = f"{facts['num_classes']} classes" if facts["num_classes"] else "no labels"
    sizes = f"{facts['train']} train and {facts['test']} test"
    return f"{sizes} {facts['kind']} of shape {shape}, {labels}"


def print_facts(data: str, facts: dict[str, Any]) -> None:
    """The data set's name and all that `describe` returned, on stdout."""
    say(f"{data}: {summary(facts)}")
    shown = {
        "dtype": [str(facts["dtype"])] if facts["dtype"] else [],
        "mean": [f"{value:.4g}" for value in facts["mean"]],
        "std": [f"{value:.4g}" for value in facts["std"]],
        "classes": [
            f"{name}: {train}+{test}"
            for name, train, test in zip(facts["classes"], *facts["counts"].values(), strict=True)
        ],
        "pairs": _of_pairs(facts["pairs"]) if facts["pairs"] else [],
    }
    for name, values in shown.items():
        if values:
            more, note = len(values) - MANY, "train+test " if name == "classes" else ""
            say(f"  {name:8} {note}{', '.join(values[:MANY])}{f' and {more} more' * (more > 0)}")
    for line in facts["licences"][:MANY]:
        say(f"  licence  {line}")
    empty = [
        name for name, n in zip(facts["classes"], facts["counts"]["train"], strict=True) if not n
    ]
    if empty:
        say(
            f"  empty    {', '.join(empty[:MANY])}: no training samples, so that no model can learn them"
        )


def _of_pairs(pairs: dict[str, Any]) -> list[str]:
    """How the pairs of a store were drawn, for people."""
    given = {name: pairs[name] for name in ("guidance", "guide", "guidance_interval")}
    return [
        f"{pairs['run']} at step {pairs['step']} (checkpoint {pairs['digest'][:12]})",
        f"{pairs['process']} with noise of deviation {pairs['noise_std']:.4g}",
        f"{pairs['sampler']} in {pairs['steps']} step{'s' if pairs['steps'] > 1 else ''}",
        *(
            f"{name.replace('_', ' ')} {value}"
            for name, value in given.items()
            if value is not None
        ),
        *(
            [f"states at noise-to-signal ratios {', '.join(f'{t:.4g}' for t in pairs['times'])}"]
            if pairs["times"]
            else []
        ),
        f"seed {pairs['seed']}",
    ]
