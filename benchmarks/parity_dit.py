"""Is the `dit` network the published one? Output and JVP against facebookresearch/DiT, random weights.

Two environments, since neither needs the other's framework:

    python parity_dit.py torch --dit CHECKOUT DIR      # with torch, timm and a checkout of the original
    python parity_dit.py compare DIR --out FILE.json   # with scmkit

The first writes weights, inputs and results, the second maps the weights and compares. The smallest case is
the test suite's: `--tests tests/support/files/dit-small.npz` writes it, its weights mapped.
"""

import argparse
import dataclasses
import importlib
import importlib.metadata
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TIMES = (1.5, 1000.0)
"""The samples' largest times: of TrigFlow's kind and of DDPM's."""


@dataclass(frozen=True)
class Case:
    """A size of the network, and the data it is for."""

    width: int
    depth: int
    heads: int
    side: int
    classes: int
    patch: int = 2
    channels: int = 4


CASES = {
    "tiny": Case(width=32, depth=2, heads=4, side=8, classes=3),
    "small": Case(width=64, depth=3, heads=4, side=16, classes=10),
    "DiT-B/2": Case(width=768, depth=12, heads=12, side=32, classes=1000),
}
"""The first is the test suite's."""

Arrays = dict[str, np.ndarray]


def file_of(folder: Path, name: str) -> Path:
    return folder / f"dit-{name.replace('/', '-')}.npz"


# The original.


def original(checkout: Path) -> Any:
    """The checkout's `models` module."""
    import torch  # pyright: ignore[reportMissingImports]

    # timm imports torchvision, which beside a torch for CPUs may not find its operators and then
    # stumbles over these two. Nothing here calls them.
    library = torch.library.Library("torchvision", "FRAGMENT")
    for op in ("nms", "qnms"):
        library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    sys.path.insert(0, str(checkout))
    models: Any = importlib.import_module("models")
    models.operators = library  # Its end would take the operators with it.
    return models


def random_weights(model: Any, rng: np.random.Generator) -> None:
    """All parameters but the frozen positions at random; float16's digits, so that files are small."""
    import torch  # pyright: ignore[reportMissingImports]

    for name, parameter in model.named_parameters():
        if name != "pos_embed":
            shape = tuple(parameter.shape)
            std = math.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.3
            values = (std * rng.standard_normal(shape)).astype(np.float16)
            parameter.data.copy_(torch.from_numpy(values.astype(np.float32)))


def run_original(args: argparse.Namespace) -> None:
    """Write weights, inputs, outputs and tangents of every case."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch.nn.attention import (  # pyright: ignore[reportMissingImports]
        SDPBackend,
        sdpa_kernel,
    )

    models = original(args.dit)
    for seed, name in enumerate(args.only or CASES):
        case, rng = CASES[name], np.random.default_rng(seed)
        model = models.DiT(
            input_size=case.side,
            patch_size=case.patch,
            in_channels=case.channels,
            hidden_size=case.width,
            depth=case.depth,
            num_heads=case.heads,
            num_classes=case.classes,
            learn_sigma=False,
        ).eval()
        random_weights(model, rng)
        shape = (len(TIMES), case.channels, case.side, case.side)
        x, dx = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
        t = rng.uniform(0, TIMES).astype(np.float32)
        dt = rng.standard_normal(len(TIMES)).astype(np.float32)
        label = rng.integers(0, case.classes + 1, len(TIMES))
        primals = tuple(map(torch.from_numpy, (x, t)))
        tangents = tuple(map(torch.from_numpy, (dx, dt)))
        labels = torch.from_numpy(label)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            out, tangent = torch.func.jvp(
                lambda x, t, model=model, labels=labels: model(x, t, labels), primals, tangents
            )
            plain = model(*primals, labels)
        assert torch.equal(out, plain)
        weights = {
            f"weights/{k}": v.detach().numpy().astype(np.float16)
            for k, v in model.named_parameters()
            if k != "pos_embed"
        }
        given: Arrays = {"x": x, "t": t, "dx": dx, "dt": dt, "label": label}
        results: Arrays = {"out": out.numpy(), "tangent": tangent.numpy()}
        args.dir.mkdir(parents=True, exist_ok=True)
        np.savez(file_of(args.dir, name), allow_pickle=False, **given, **results, **weights)
        print(f"{name}: {sum(w.size for w in weights.values()) / 1e6:.2f}M parameters")
    versions = {p: importlib.metadata.version(p) for p in ("torch", "timm", "numpy")}
    (args.dir / "versions.json").write_text(json.dumps(versions))


# This package.


def from_dit(arrays: Arrays) -> Arrays:
    """The original's weights under the names and in the layout of `scmkit_plugins.networks.dit.DiT`.

    A modulation of the original holds shift, scale (and gate); here it holds scale, shift, and the
    gate is a layer of its own. The positional embedding's factor sqrt 2 goes into the first layer.
    """
    depth = 1 + max(int(k.split(".")[1]) for k in arrays if k.startswith("blocks."))

    def stacked(name: str) -> np.ndarray:
        return np.stack([arrays[f"blocks.{i}.{name}"] for i in range(depth)])

    def linear(weight: np.ndarray, bias: np.ndarray, name: str) -> Arrays:
        return {f"{name}.weight": np.swapaxes(weight, -1, -2), f"{name}.bias": bias}

    def of_block(theirs: str, ours: str) -> Arrays:
        return linear(stacked(f"{theirs}.weight"), stacked(f"{theirs}.bias"), f"blocks.{ours}")

    def modulation(weight: np.ndarray, bias: np.ndarray, parts: list[int], name: str) -> Arrays:
        n = weight.shape[-1]
        w, b = (np.split(a, a.shape[axis] // n, axis) for a, axis in ((weight, -2), (bias, -1)))
        joined = [np.concatenate([a[i] for i in parts], axis) for a, axis in ((w, -2), (b, -1))]
        return linear(joined[0], joined[1], f"{name}.modulation")

    patches = arrays["x_embedder.proj.weight"]
    mlp = "t_embedder.mlp"
    last = "final_layer"
    adaln = (
        stacked("adaLN_modulation.1.weight"),
        stacked("adaLN_modulation.1.bias"),
    )
    return {
        "conditioning.first.weight": arrays[f"{mlp}.0.weight"] / np.float32(2**0.5),
        "conditioning.first.bias": arrays[f"{mlp}.0.bias"],
        "conditioning.second.weight": arrays[f"{mlp}.2.weight"],
        "conditioning.second.bias": arrays[f"{mlp}.2.bias"],
        "conditioning.labels": arrays["y_embedder.embedding_table.weight"],
        "first.weight": patches.transpose(2, 3, 1, 0).reshape(-1, patches.shape[0]),
        "first.bias": arrays["x_embedder.proj.bias"],
        **modulation(*adaln, [1, 0], "blocks.norm1"),
        **modulation(*adaln, [2], "blocks.gate1"),
        **modulation(*adaln, [4, 3], "blocks.norm2"),
        **modulation(*adaln, [5], "blocks.gate2"),
        **of_block("attn.qkv", "qkv"),
        **of_block("attn.proj", "out"),
        **of_block("mlp.fc1", "up"),
        **of_block("mlp.fc2", "down"),
        **modulation(
            arrays[f"{last}.adaLN_modulation.1.weight"],
            arrays[f"{last}.adaLN_modulation.1.bias"],
            [1, 0],
            "norm",
        ),
        **linear(arrays[f"{last}.linear.weight"], arrays[f"{last}.linear.bias"], "last"),
    }


def skeleton(case: Case) -> Any:
    """The network of a case, without its arrays."""
    import equinox as eqx
    import jax.random as jr
    from scmkit_plugins.layers import xla_attention
    from scmkit_plugins.modulation import adaln, positional
    from scmkit_plugins.networks import dit

    from scmkit.interfaces import DataSpec
    from scmkit.plugin import Context, NoOptions, Slot
    from scmkit.settings import configure

    shape = (case.channels, case.side, case.side)
    data = DataSpec(
        source="parity", shape=shape, num_classes=case.classes, shift=(0.0,), scale=(1.0,)
    )
    # The original's frequencies exclude their lower end.
    least = {"channels": 256, "min_frequency": 1e-4 ** (127 / 128)}
    time = configure(positional.PositionalEmbedding, least, "positional")
    size = dit.DiTOptions(width=case.width, depth=case.depth, heads=case.heads, patch=case.patch)

    def build() -> Any:
        built: dict[Slot, Any] = {}
        for slot, part, options in (
            (Slot.embedding, positional, time),
            (Slot.norm, adaln, NoOptions()),
            (Slot.attention, xla_attention, xla_attention.XLAAttention()),
            (Slot.network, dit, size),
        ):
            factory = part.plugin.provides[slot]
            built[slot] = factory(options, Context(data, dict(built)), key=jr.key(0))
        return built[Slot.network]

    return eqx.filter_eval_shape(build)


def load(network: Any, weights: Arrays) -> Any:
    """`network` with its arrays by name; every weight must be used, and be of the right shape."""
    import jax
    import jax.numpy as jnp

    left = dict(weights)

    def weight(path: Any, leaf: Any) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        value = left.pop(jax.tree_util.keystr(path, simple=True, separator="."))
        assert value.shape == leaf.shape, (path, value.shape, leaf.shape)
        return jnp.asarray(value, leaf.dtype)

    network = jax.tree_util.tree_map_with_path(weight, network)
    assert not left, list(left)
    return network


def compare(args: argparse.Namespace) -> None:
    """Run the network on the original's weights and inputs, and print how far apart they are."""
    import equinox as eqx
    import jax
    from common import write

    from scmkit.interfaces import Conditioning

    @eqx.filter_jit
    def both(network: Any, x: Any, t: Any, label: Any, dx: Any, dt: Any) -> Any:
        def one(x: Any, t: Any, label: Any, dx: Any, dt: Any) -> Any:
            cond = Conditioning(label)
            return jax.jvp(lambda x, t: network(x, t[None], cond, key=None), (x, t), (dx, dt))

        return jax.vmap(one)(x, t, label, dx, dt)

    rows = {}
    for name in args.only or CASES:
        with np.load(file_of(args.dir, name)) as file:
            data = dict(file)
        arrays = {k[8:]: v.astype(np.float32) for k, v in data.items() if k.startswith("weights/")}
        weights = from_dit(arrays)
        network = load(skeleton(CASES[name]), weights)
        label = data["label"].astype(np.int32)
        out, tangent = both(network, data["x"], data["t"], label, data["dx"], data["dt"])
        rows[name] = {
            **dataclasses.asdict(CASES[name]),
            "parameters": sum(w.size for w in weights.values()),
            "out": _relative(out, data["out"]),
            "tangent": _relative(tangent, data["tangent"]),
        }
        print(f"{name:8} output {rows[name]['out']:.1e}, tangent {rows[name]['tangent']:.1e}")
        if name == "tiny" and args.tests is not None:
            given = {k: v for k, v in data.items() if not k.startswith("weights/")}
            weights = {k: _compact(v) for k, v in weights.items()}
            np.savez_compressed(args.tests, allow_pickle=False, **given, **weights)
            print(f"wrote {args.tests}")
    versions = json.loads((args.dir / "versions.json").read_text())
    write(args.out, {"peer": {"repository": "facebookresearch/DiT", **versions}, "rows": rows})


def _relative(actual: Any, expected: np.ndarray) -> float:
    """The error's norm over the norm of what is expected."""
    expected = expected.astype(np.float64)
    return float(np.linalg.norm(np.asarray(actual) - expected) / np.linalg.norm(expected))


def _compact(a: np.ndarray) -> np.ndarray:
    """Half the size where that is exact: all but the layer that took the factor sqrt 2."""
    half = a.astype(np.float16)
    return half if np.array_equal(half, a) else a


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(required=True)
    theirs = commands.add_parser("torch", help="run the original, and write what it gives")
    theirs.add_argument("--dit", type=Path, required=True, help="a checkout of the original")
    theirs.set_defaults(run=run_original)
    ours = commands.add_parser("compare", help="run this package, and compare")
    ours.add_argument("--tests", type=Path, help="where to write the test suite's case")
    ours.add_argument("--out", type=Path)
    ours.set_defaults(run=compare)
    for command in (theirs, ours):
        command.add_argument("dir", type=Path, help="where the one leaves results for the other")
        command.add_argument("--only", nargs="*", choices=CASES)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
