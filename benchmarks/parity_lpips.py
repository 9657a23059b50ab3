"""Is `lpips` the published distance? Against the package lpips, on the same weights.

Two environments, since neither needs the other's framework:

    pip install torch torchvision lpips
    python parity_lpips.py torch DIR                     # with these; nothing is downloaded
    python parity_lpips.py compare DIR --out FILE.json   # with scmkit

VGG16's weights are random, those of channels the package's own. The first writes both files, distances of
images, and their gradients in the first image, in float32 and in float64: what rounding does to the signs of
ReLUs, and so to gradients, is seen in the difference of the two.
"""

import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from parity import main

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from weights_formula import images, parameter  # pyright: ignore[reportMissingImports]

SHAPES = {"as they are": (3, 3, 64, 64), "resized": (3, 3, 32, 32)}
SIDES = {"as they are": 0, "resized": 224}


def reference(folder: Path) -> None:
    """Weight files and results, by the original's code."""
    import lpips  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]
    import torchvision  # pyright: ignore[reportMissingImports]

    folder.mkdir(parents=True, exist_ok=True)
    vgg = torchvision.models.vgg16(weights=None)
    with torch.no_grad():
        for key, tensor in vgg.state_dict().items():
            if key.startswith("features."):
                tensor.copy_(torch.from_numpy(parameter(key, tuple(tensor.shape))))
    kept = {k: v for k, v in vgg.state_dict().items() if k.startswith("features.")}
    torch.save(kept, folder / "vgg16.pth")
    heads = Path(str(lpips.__file__)).parent / "weights/v0.1/vgg.pth"
    shutil.copy(heads, folder / "heads.pth")
    # Its constructor would download the weights that these take the place of.
    lpips.pretrained_networks.tv.vgg16 = lambda **_: vgg
    distance = lpips.LPIPS(net="vgg", verbose=False)
    for name, shape in SHAPES.items():
        results = {}
        for precision in ("float32", "float64"):
            both = torch.from_numpy(images((2, *shape))).float() / 127.5 - 1
            x, y = both.to(getattr(torch, precision)).unbind()
            x.requires_grad_()
            a, b = x, y
            if SIDES[name]:
                given = {"size": SIDES[name], "mode": "bilinear", "align_corners": False}
                a, b = (torch.nn.functional.interpolate(v, **given) for v in (x, y))
            found = distance.to(x.dtype)(a, b).ravel()
            found.sum().backward()
            results |= {f"{precision}/distances": found.detach(), f"{precision}/gradients": x.grad}
        np.savez(folder / f"{name}.npz", **{key: v.numpy() for key, v in results.items()})
    packages = ("torch", "torchvision", "lpips", "numpy")
    (folder / "versions.json").write_text(json.dumps({name: version(name) for name in packages}))


def compare(folder: Path) -> list[dict[str, Any]]:
    """Relative errors of scmkit's distances and gradients."""
    import equinox as eqx
    import jax
    import jax.random as jr
    from scmkit_plugins.distances import lpips

    from scmkit.interfaces import DataSpec
    from scmkit.plugin import Context

    def error(ours: Any, theirs: Any) -> float:
        return float(np.linalg.norm(np.asarray(ours) - theirs) / np.linalg.norm(theirs))

    @eqx.filter_jit
    def found(distance: Any, x: Any, y: Any) -> Any:
        return jax.vmap(jax.value_and_grad(distance))(x, y)

    rows: list[dict[str, Any]] = [{"originals": json.loads((folder / "versions.json").read_text())}]
    files = {"weights": str(folder / "vgg16.pth"), "heads": str(folder / "heads.pth")}
    for name, shape in SHAPES.items():
        theirs = np.load(folder / f"{name}.npz")
        data = DataSpec("images", shape[1:], 0, (0.0,) * 3, (1.0,) * 3)
        options = lpips.Options(**files, side=SIDES[name])
        distance = lpips.build(options, Context(data), key=jr.key(0))
        for precision in ("float32", "float64"):
            with jax.enable_x64(precision == "float64"):
                pixels = images((2, *shape)).astype(np.float32) / 127.5 - 1
                arrays = [np.asarray(a).astype(precision) for a in jax.tree.leaves(distance)]
                given = jax.tree.unflatten(jax.tree.structure(distance), arrays)
                values, gradients = found(given, *pixels.astype(precision))
            errors = {
                "distances": error(values, theirs[f"{precision}/distances"]),
                "gradients": error(gradients, theirs[f"{precision}/gradients"]),
            }
            about = {"images": shape[2:], "side": SIDES[name], "precision": precision}
            rows.append(about | errors)
            shown = ", ".join(f"{key} {value:.1e}" for key, value in errors.items())
            print(f"{name}, {precision}: {shown}")
    return rows


if __name__ == "__main__":
    main(__doc__, None, reference, compare)
