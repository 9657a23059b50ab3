"""Is the `ddpmpp` network the published one? Output and JVP against NVIDIA's own code, random weights.

Two environments, since neither needs the other's framework:

    python parity_edm.py torch --edm CHECKOUT DIR      # with torch and a checkout of NVlabs/edm
    python parity_edm.py compare DIR --out FILE.json   # with scmkit

The first writes weights, inputs and results of small and full-sized networks, the second reads the weights
as `scmkit convert` does and compares. The files of the small networks are those in `tests/support/files`.
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from parity import main

CIFAR = {"img_resolution": 32, "channel_mult": [2, 2, 2], "augment_dim": 9}
CASES: dict[str, dict[str, Any]] = {
    "songunet-box": {
        "img_resolution": 8,
        "model_channels": 8,
        "channel_mult": [1, 2],
        "num_blocks": 1,
        "attn_resolutions": [8],
        "augment_dim": 9,
    },
    "songunet-fir": {
        "img_resolution": 8,
        "model_channels": 8,
        "channel_mult": [2, 1],
        "channel_mult_emb": 3,
        "num_blocks": 1,
        "attn_resolutions": [4],
        "label_dim": 5,
        "resample_filter": [1, 3, 3, 1],
    },
    "cifar10-unlabelled": CIFAR,
    "cifar10-labelled": CIFAR | {"label_dim": 10},
    "ffhq-64x64": {"img_resolution": 64, "channel_mult": [1, 2, 2, 2], "augment_dim": 9},
}
BATCH = 2
KEPT, SIGMAS = "songunet-fir", (0.3, 2.0)
"""Of that network the test suite keeps samples that it denoised with `sigma_data` of 1."""


def reference(checkout: Path, folder: Path) -> None:
    """Weights, inputs, outputs and JVPs of every case, by NVIDIA's code."""
    sys.path.insert(0, str(checkout))
    import torch  # pyright: ignore[reportMissingImports]
    from training import networks  # pyright: ignore[reportMissingImports]

    def weights_of_attention(q: Any, k: Any) -> Any:
        return torch.einsum("ncq,nck->nqk", q, k / np.sqrt(k.shape[1])).softmax(dim=2)

    # Theirs is an autograd Function without a jvp.
    networks.AttentionOp = SimpleNamespace(apply=weights_of_attention)
    folder.mkdir(parents=True, exist_ok=True)
    for name, case in CASES.items():
        torch.manual_seed(0)
        net = networks.SongUNet(in_channels=3, out_channels=3, **case).eval()
        for key, parameter in net.named_parameters():
            # Fresh weights of 1e-5 would silence what is to be compared.
            fan_in = parameter[0].numel()
            noise = torch.randn(parameter.shape) * (fan_in**-0.5 if fan_in > 1 else 0.3)
            centre = 1.0 if fan_in == 1 and key.endswith("weight") else 0.0
            # Numbers of float16, so that they are stored in half of the space.
            parameter.data = (centre + noise).half().float()
        shape = (BATCH, 3, case["img_resolution"], case["img_resolution"])
        x, dx = torch.randn(shape), torch.randn(shape)
        c, dc = torch.linspace(-0.9, 0.7, BATCH), torch.randn(BATCH)
        classes = case.get("label_dim", 0)
        labels = torch.nn.functional.one_hot(torch.arange(BATCH) * 3, classes or 4).float()
        given = labels if classes else None
        run = lambda x, c, net=net, given=given: net(x, c, given)  # noqa: E731
        out, slope = torch.func.jvp(run, (x, c), (dx, dc))
        none = net(x, c, torch.zeros_like(labels))
        results = {"x": x, "dx": dx, "c": c, "dc": dc, "out": out, "jvp": slope, "none": none}
        np.savez_compressed(
            folder / f"{name}.npz",
            **{f"model.{key}": value.half().numpy() for key, value in net.state_dict().items()},
            **{key: value.detach().numpy() for key, value in results.items()},
        )
        if name == KEPT:
            sigmas = torch.tensor(SIGMAS)
            precond = networks.EDMPrecond(
                img_channels=3, model_type="SongUNet", sigma_data=1.0, **case
            ).eval()
            precond.model = net
            np.savez_compressed(
                folder / "edm-arguments.npz",
                sigma=sigmas.numpy(),
                sigma_data=precond(x, sigmas, given).detach().numpy(),
            )


def compare(folder: Path) -> list[dict[str, Any]]:
    """Relative errors of scmkit's network on the same weights and inputs."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    from scmkit import Conditioning

    rows = []
    for name in CASES:
        with np.load(folder / f"{name}.npz") as file:
            theirs = {key: file[key].astype(np.float32) for key in file.files}
        network, classes, parameters = load(theirs)

        @eqx.filter_jit
        def both(network: Any, given: Any, cond: Any) -> Any:
            x, c, dx, dc = given

            def forward(x: Any, c: Any) -> Any:
                run = jax.vmap(lambda x, c, cond: network(x, c, cond, key=None))
                return run(x, c[:, None], cond)

            return jax.jvp(forward, (x, c), (dx, dc))

        inputs = tuple(jnp.asarray(theirs[key]) for key in ("x", "c", "dx", "dc"))
        cond = Conditioning(jnp.arange(BATCH) * 3) if classes else None
        out, slope = both(network, inputs, cond)
        none = both(network, inputs, None)[0] if classes else out
        row: dict[str, Any] = {"network": name, "parameters": parameters}
        for key, value in (("out", out), ("none", none), ("jvp", slope)):
            row[key] = float(np.linalg.norm(value - theirs[key]) / np.linalg.norm(theirs[key]))
        rows.append(row)
        errors = "".join(f"  {key} {row[key]:.1e}" for key in ("out", "none", "jvp"))
        print(f"{name:<20}{parameters:>10}{errors}")
    return rows


def load(arrays: dict[str, np.ndarray]) -> tuple[Any, int, int]:
    """The network with these weights, its number of classes, and of parameters."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import jax.random as jr
    from scmkit_plugins.importers.ddpmpp import DDPMPPImporter
    from scmkit_plugins.layers import xla_attention
    from scmkit_plugins.modulation import additive_group_norm, positional
    from scmkit_plugins.networks import ddpmpp

    from scmkit.plugin import Context, Slot
    from scmkit.runs.arrays import named_leaves

    weights = {name: a for name, a in arrays.items() if name.startswith("model.")}
    found = DDPMPPImporter().read(weights, {})
    parts = {
        Slot.embedding: positional.plugin,
        Slot.norm: additive_group_norm.plugin,
        Slot.attention: xla_attention.plugin,
        Slot.network: ddpmpp.plugin,
    }

    def build() -> Any:
        built: dict[Slot, Any] = {}
        for slot, plugin in parts.items():
            settings = {
                name.partition(".")[2]: value
                for name, value in found.settings.items()
                if name.startswith(f"{plugin.name}.")
            }
            context = Context(found.data, dict(built))
            factory = plugin.provides[slot]
            built[slot] = factory(plugin.config(**settings), context, key=jr.key(0))
        return built[Slot.network]

    skeleton = eqx.filter_eval_shape(build)
    leaves = [
        jnp.asarray(found.leaves[f"network/{name}"][1])
        if isinstance(leaf, jax.ShapeDtypeStruct)
        else leaf
        for name, leaf in named_leaves(skeleton)
    ]
    network = jax.tree.unflatten(jax.tree.structure(skeleton), leaves)
    parameters = sum(leaf.size for leaf in leaves if isinstance(leaf, jax.Array))
    return network, found.data.num_classes, parameters


if __name__ == "__main__":
    main(__doc__, "edm", reference, compare)
