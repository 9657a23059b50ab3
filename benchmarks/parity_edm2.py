"""Is the `edm2` network the published one? Its output and its JVP against NVIDIA's own code, random weights.

Two environments, since neither needs the other's framework:

    python parity_edm2.py torch --edm2 CHECKOUT DIR     # with torch and a checkout of NVlabs/edm2
    python parity_edm2.py compare DIR --out FILE.json   # with scmkit

The first writes weights, inputs and results of small and full-sized networks; the second makes runs of
the weights by `scmkit.runs.convert.convert` and compares.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from parity import main

CASES: dict[str, dict[str, Any]] = {
    "small": {
        "img_resolution": 32,
        "img_channels": 3,
        "label_dim": 10,
        "model_channels": 16,
        "channels_per_head": 16,
        "num_blocks": 2,
    },
    "unlabelled": {
        "img_resolution": 16,
        "img_channels": 4,
        "label_dim": 0,
        "model_channels": 16,
        "channels_per_head": 8,
        "channel_mult": [1, 2],
        "num_blocks": 1,
    },
    "tiny": {  # What the test suite keeps.
        "img_resolution": 8,
        "img_channels": 3,
        "label_dim": 5,
        "model_channels": 8,
        "channels_per_head": 4,
        "channel_mult": [1, 2],
        "num_blocks": 1,
    },
    "edm2-img64-xs": {
        "img_resolution": 64,
        "img_channels": 3,
        "label_dim": 1000,
        "model_channels": 128,
    },
}
ARGUMENTS = {
    "label_balance": 0.3,
    "concat_balance": 0.7,
    "res_balance": 0.5,
    "attn_balance": 0.6,
    "clip_act": 0.5,
    "sigma_data": 1.0,
}
"""Arguments that leave no trace in the weights: what the test suite keeps of them are denoised samples."""
SIGMAS = (0.3, 2.0)
BATCH = 2


def reference(checkout: Path, folder: Path) -> None:
    """Weights, inputs, outputs and JVPs of every case, by NVIDIA's code."""
    sys.path.insert(0, str(checkout))
    import torch  # pyright: ignore[reportMissingImports]
    from training.networks_edm2 import Precond  # pyright: ignore[reportMissingImports]

    folder.mkdir(parents=True, exist_ok=True)
    for name, case in CASES.items():
        torch.manual_seed(0)
        net = Precond(use_fp16=False, **case).eval()
        for parameter in net.parameters():
            # The gains start at zero, which would silence what is to be compared.
            if parameter.ndim == 0:
                parameter.data = 0.5 + torch.rand(())
            parameter.data = parameter.data.half().float()  # So that files can be small.
        shape = (BATCH, case["img_channels"], case["img_resolution"], case["img_resolution"])
        x, dx = torch.randn(shape), torch.randn(shape)
        c, dc = torch.linspace(-0.9, 0.7, BATCH), torch.randn(BATCH)
        labels = torch.nn.functional.one_hot(torch.arange(BATCH) * 3, case["label_dim"] or 4)
        given = labels.float() if case["label_dim"] else None
        out, slope = torch.func.jvp(
            lambda x, c, net=net, l=given: net.unet(x, c, l), (x, c), (dx, dc)
        )
        without = net.unet(x, c, torch.zeros_like(given)) if given is not None else out
        torch.save({"ema": net.state_dict()}, folder / f"{name}.pt")
        results = {"x": x, "dx": dx, "c": c, "dc": dc, "out": out, "jvp": slope, "none": without}
        arrays = {key: value.detach().numpy() for key, value in results.items()}
        if name == "tiny":
            arrays |= {f"state/{k}": v.numpy() for k, v in net.named_buffers()}
            parameters = {k: v.detach().half().numpy() for k, v in net.named_parameters()}
            arrays |= {f"state/{k}": v for k, v in parameters.items()}
            other = Precond(use_fp16=False, **case, **ARGUMENTS).eval()
            other.load_state_dict(net.state_dict())
            denoised = other(x, torch.tensor(SIGMAS), given).detach().numpy()
            sigma = np.asarray(SIGMAS, np.float32)
            np.savez_compressed(folder / "edm2-arguments.npz", sigma=sigma, out=denoised)
        np.savez(folder / f"{name}.npz", **arrays)


def compare(folder: Path) -> list[dict[str, Any]]:
    """Relative errors of scmkit's network on the same weights and inputs."""
    import tempfile

    import equinox as eqx
    import jax
    import jax.numpy as jnp

    from scmkit import Conditioning
    from scmkit.runs.convert import convert

    rows = []
    for name, case in CASES.items():
        theirs = np.load(folder / f"{name}.npz")
        with tempfile.TemporaryDirectory() as runs:
            given = {"edm2.head_dim": case.get("channels_per_head", 64)}
            run = convert("edm2", folder / f"{name}.pt", Path(runs) / name, given)
            network = run.model.network

        @eqx.filter_jit
        def both(network: Any, given: Any, cond: Any) -> Any:
            x, c, dx, dc = given

            def forward(x: Any, c: Any) -> Any:
                return jax.vmap(lambda x, c, cond: network(x, c, cond, key=None))(
                    x, c[:, None], cond
                )

            return jax.jvp(forward, (x, c), (dx, dc))

        inputs = tuple(jnp.asarray(theirs[k]) for k in ("x", "c", "dx", "dc"))
        cond = Conditioning(jnp.arange(BATCH) * 3) if case["label_dim"] else None
        out, slope = both(network, inputs, cond)
        without, _ = both(network, inputs, None)
        row: dict[str, Any] = {"network": name}
        for key, value in (("out", out), ("none", without), ("jvp", slope)):
            row[key] = float(np.linalg.norm(value - theirs[key]) / np.linalg.norm(theirs[key]))
        rows.append(row)
        print(f"{name:<16}" + "".join(f"  {k} {row[k]:.1e}" for k in ("out", "none", "jvp")))
    return rows


if __name__ == "__main__":
    main(__doc__, "edm2", reference, compare)
