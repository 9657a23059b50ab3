"""LPIPS: how unlike two images look, by the features of a network that was trained to name things."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge
from jaxtyping import Array, Float

from scmkit.errors import OptionError
from scmkit.interfaces import AbstractDistance, DataSpec
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key, Scalar, sum_dtype
from scmkit.weights import matching, packaged, read_weights
from scmkit_plugins.distances._vgg import SMALLEST, STAGES, VGG16, Map, assembled, parameters

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""What brings images in [-1, 1] to the mean and deviation that VGG16 was trained on."""

HEADS = "lpips/weights/v0.1/vgg.pth"
NEEDED = (
    "lpips.{option}: LPIPS needs {what}, and nothing is downloaded: {source}, "
    "then --set lpips.{option}=FILE"
)


@dataclass(frozen=True)
class Options:
    """Options of LPIPS."""

    weights: str = ""
    """File with torchvision's state dict of VGG16."""
    heads: str = ""
    """File with the weights of channels, `weights/v0.1/vgg.pth` of the package lpips; empty for that of the
    package where it is installed."""
    side: Annotated[int, Ge(0)] = 224
    """Side to which images are resized bilinearly, as consistency models do; 0 leaves them as they are."""

    def __post_init__(self) -> None:
        for name in ("weights", "heads"):  # The run is resumed from wherever.
            if value := getattr(self, name):
                object.__setattr__(self, name, str(Path(value).expanduser().resolve()))


class LPIPS(AbstractDistance):
    r"""$\sum_l \mathrm{mean}_{hw} \sum_c w_{lc} \left(\hat f^l_{hwc}(x) - \hat f^l_{hwc}(y)\right)^2$.

    $\hat f^l$ are the five stages' maps of VGG16, each position's channels brought to unit length
    (arXiv 1801.03924, Eq. 1). Grey images are repeated to three channels.
    """

    network: VGG16
    heads: tuple[Float[Array, " _"], ...]
    data: DataSpec = eqx.field(static=True)
    side: int = eqx.field(static=True)

    def __call__(self, x: Float[Array, "*shape"], y: Float[Array, "*shape"]) -> Scalar:
        stages = zip(self.maps(x), self.maps(y), self.heads, strict=True)
        return jnp.sum(jnp.stack([jnp.mean((a - b) ** 2 @ head) for a, b, head in stages]))

    def maps(self, x: Float[Array, "c h w"]) -> tuple[Map, ...]:
        """The unit features of an image as the model sees it, by stage."""
        image = self.data.unscaled(x.astype(sum_dtype(x.dtype))).transpose(1, 2, 0)
        image = jnp.broadcast_to(image, (*image.shape[:2], 3))
        if self.side:
            shape = (self.side, self.side, 3)
            image = jax.image.resize(image, shape, "bilinear", antialias=False)
        shift, scale = (np.asarray(v, image.dtype)[None, None] for v in (SHIFT, SCALE))
        return tuple(map(unit, self.network((image - shift) / scale)))


def unit(x: Map) -> Map:
    """Each position's channels over their length, and zeros where all are zero."""
    square = jnp.sum(x**2, axis=-1, keepdims=True)
    # The root has no derivative at 0.
    length = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    return x / (length + 1e-10)


def build(config: Options, context: Context, *, key: Key) -> LPIPS:
    if not config.weights:
        source = "torchvision's vgg16-397923af.pth (download.pytorch.org/models)"
        raise OptionError(NEEDED.format(option="weights", what="VGG16's weights", source=source))
    heads = Path(config.heads).expanduser() if config.heads else packaged("lpips", HEADS)
    if heads is None:
        source = "`pip install --no-deps lpips` brings them, or take its weights/v0.1/vgg.pth"
        raise OptionError(NEEDED.format(option="heads", what="weights of channels", source=source))
    shape = context.data.shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(f"it sees images of 1 or 3 channels, not samples of shape {shape}")
    if (config.side or min(shape[1:])) < SMALLEST:
        raise ValueError(
            f"VGG16 needs sides of at least {SMALLEST}; set lpips.side to that or more (224 as published)"
        )
    arrays = parameters(read_weights(Path(config.weights).expanduser()))
    wanted = {f"lin{i}.model.1.weight": (1, s[-1], 1, 1) for i, s in enumerate(STAGES)}
    weights = matching(read_weights(heads), "set of LPIPS's weights of channels", wanted)
    with jax.ensure_compile_time_eval():  # Constants, also where training is only traced.
        return LPIPS(
            network=assembled(arrays),
            heads=tuple(jnp.asarray(w.ravel(), jnp.float32) for w in weights.values()),
            data=context.data,
            side=config.side,
        )


plugin = Plugin(
    name="lpips",
    summary="how unlike two images look, by VGG16's features; weights from your files (arXiv 1801.03924)",
    provides={Slot.distance: build},
    config=Options,
)
