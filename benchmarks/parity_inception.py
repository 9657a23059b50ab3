"""Are `inception` and `fid` the published network and distance? Against pytorch-fid and torchvision.

Every parameter is random, batch normalisation's statistics among them. Two environments, since neither needs
the other's framework:

    pip install torch==2.14.1 torchvision==0.29.1 scipy && pip install --no-deps pytorch-fid
    python parity_inception.py torch DIR                     # with these; nothing is downloaded
    python parity_inception.py compare DIR --out FILE.json   # with scmkit

The first writes weight files in both of PyTorch's formats, features and logits of images as the originals
prepare them, and Fréchet distances by pytorch-fid; `DIR/inception.npz` is what the test suite keeps.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from parity import main

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from weights_formula import images, parameter  # pyright: ignore[reportMissingImports]

IMAGES = {"small": (2, 3, 16, 16), "exact": (2, 3, 299, 299), "large": (2, 3, 400, 512)}
"""Enlarged, as they are, and reduced."""
FILES = {"pytorch-fid": "pytorch-fid.pth", "torchvision": "torchvision.old.pth"}
CLOUDS = {"n > d": (2000, 512), "n < d": (300, 512), "FID's dimensions": (3000, 2048)}
KEPT = 26
"""Every so many pixels of a resized image are kept for the test suite."""


def clouds(n: int, d: int) -> list[np.ndarray]:
    """Two sets of vectors that are positive, as features are, and correlated."""
    rng = np.random.Generator(np.random.Philox(0))
    mixing = [rng.normal(size=(d, d)) * rng.uniform(size=d) ** 4 / np.sqrt(d) for _ in range(2)]
    return [np.maximum(rng.normal(size=(n, d)) @ m, 0).astype(np.float32) for m in mixing]


def reference(folder: Path) -> None:
    """Weight files, inputs and results, by the originals' code."""
    import pytorch_fid.inception  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]
    import torchvision  # pyright: ignore[reportMissingImports]
    from pytorch_fid.fid_score import (  # pyright: ignore[reportMissingImports]
        calculate_frechet_distance,
    )
    from torch.nn.functional import interpolate  # pyright: ignore[reportMissingImports]

    folder.mkdir(parents=True, exist_ok=True)
    torch.set_grad_enabled(False)

    def fill(net: Any) -> Any:
        for name, tensor in net.state_dict().items():
            if tensor.ndim:
                tensor.copy_(torch.from_numpy(parameter(name, tuple(tensor.shape))))
        return net.eval()

    # Its constructor would download the weights that these take the place of.
    plain = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, init_weights=False)
    state = fill(plain).state_dict()
    pytorch_fid.inception.load_state_dict_from_url = lambda *_, **__: state
    extractor = pytorch_fid.inception.InceptionV3().eval()
    whole = pytorch_fid.inception.fid_inception_v3().eval()
    torch.save(whole.state_dict(), folder / FILES["pytorch-fid"])
    # As with the published weights, which make it take ImageNet's normalisation back.
    other = fill(torchvision.models.inception_v3(transform_input=True, init_weights=False))
    torch.save(
        other.state_dict(), folder / FILES["torchvision"], _use_new_zipfile_serialization=False
    )
    seen = {}
    other.avgpool.register_forward_hook(lambda *given: seen.update(features=given[2]))
    mean, std = (
        torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    kept = {}
    for name, shape in IMAGES.items():
        x = torch.from_numpy(images(shape)).float() / 255
        resized = interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
        results = {
            "pytorch-fid/features": extractor(x)[0].flatten(1),
            "pytorch-fid/logits": whole(2 * resized - 1),
            "torchvision/logits": other((resized - mean) / std),
            "torchvision/features": seen["features"].flatten(1),
        }
        arrays = {key: value.numpy() for key, value in results.items()}
        np.savez(folder / f"{name}.npz", **arrays)
        if name != "exact":
            kept[f"{name}/resized"] = (2 * resized - 1)[0, :, ::KEPT, ::KEPT].numpy()
        if name == "small":
            kept |= arrays
    np.savez(folder / "inception.npz", **kept)
    distances = {}
    for name, (n, d) in CLOUDS.items():
        statistics = [(x.mean(0), np.cov(x, rowvar=False)) for x in map(np.float64, clouds(n, d))]
        distances[name] = calculate_frechet_distance(*statistics[0], *statistics[1])
    np.savez(folder / "distances.npz", **distances)
    packages = ("torch", "torchvision", "pytorch-fid", "scipy", "numpy")
    (folder / "versions.json").write_text(json.dumps({name: version(name) for name in packages}))


def compare(folder: Path) -> list[dict[str, Any]]:
    """Relative errors of scmkit's features, logits and distances."""
    import jax
    from scmkit_plugins.features._inception_weights import assembled, parameters

    from scmkit.composing.build import build_free
    from scmkit.data import ArrayDataset
    from scmkit.interfaces import Evaluation
    from scmkit.plugin import Slot
    from scmkit.weights import read_weights

    def error(ours: Any, theirs: Any) -> float:
        return float(np.linalg.norm(np.asarray(ours) - theirs) / np.linalg.norm(theirs))

    rows: list[dict[str, Any]] = [{"originals": json.loads((folder / "versions.json").read_text())}]
    for definition, file in FILES.items():
        network = assembled(*parameters(read_weights(folder / file)))
        for name, shape in IMAGES.items():
            theirs = np.load(folder / f"{name}.npz")
            x = images(shape).astype(np.float32) / 127.5 - 1
            given = {"weights": str(folder / file)}
            inception = build_free(Slot.features, "inception", given, ArrayDataset(x, x), folder)
            vectors = inception(x).vectors
            wanted, logits = (theirs[f"{definition}/{key}"] for key in ("features", "logits"))
            errors = {
                "features": error(vectors, wanted),
                # Random networks see all images much alike.
                "difference of two": error(vectors[0] - vectors[1], wanted[0] - wanted[1]),
                "logits": error(jax.vmap(network.logits)(vectors), logits),
            }
            rows.append({"network": definition, "images": shape[2:], **errors})
            shown = ", ".join(f"{key} {value:.1e}" for key, value in errors.items())
            print(f"{definition:<12} {shape[2:]}: {shown}")
    fid = build_free(Slot.metric, "fid", {})
    for name, distance in np.load(folder / "distances.npz").items():
        x, y = clouds(*CLOUDS[name])
        difference = abs(fid(Evaluation(x, y, y)) / float(distance) - 1)
        n, d = CLOUDS[name]
        rows.append(
            {"distance": float(distance), "n": n, "d": d, "relative difference": difference}
        )
        print(f"Fréchet distance, n = {n}, d = {d}: {distance:.6f}, differs by {difference:.1e}")
    return rows


if __name__ == "__main__":
    main(__doc__, None, reference, compare)
