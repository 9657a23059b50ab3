r"""Latents and zero-shot editing on handwritten digits, with a consistency model and its teacher.

The teacher's probability-flow ODE takes every image to noise and back: its latent. The consistency model
$f$ was distilled to go back in one step, so a latent the teacher made is one it can decode, and between two
latents a great circle leads through noise that is as likely as any.

Editing needs no training (arXiv 2303.01469, Algorithm 4). What is known of an image is a projection $P$ of
it: some of its pixels, or the means of blocks. Starting from noise, at falling times $t_i$,

$$x \leftarrow f(\alpha_i x + \sigma_i \varepsilon_i,\, t_i), \qquad x \leftarrow P y + (x - P x).$$

    python examples/editing.py                   trains both models first, in a few minutes
    python examples/editing.py --run runs/NAME   uses a distilled run
    python examples/editing.py --steps 2         to see that it runs

The picture has three parts. Above, each digit, the half that is known, and five ways to complete it; in the
middle, the means over 2x2 pixels instead; below, the walk from one digit to another.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import scmkit
from scmkit.editing import (
    BlockMeans,
    Pixels,
    Projection,
    decode,
    edit_samples,
    encode,
    interpolate_samples,
)
from scmkit.interfaces import Conditioning
from scmkit.sampling import image_grid, save_png

DIGITS = (0, 1, 4, 5)  # of the test split
LEFT_HALF = jnp.arange(8) < 4
VARIATIONS = 5


def block(
    run: scmkit.Run, images: np.ndarray, labels: np.ndarray | None, known: Projection
) -> np.ndarray:
    """A row for each image: it, what is known of it, and samples that agree with that."""
    made = edit_samples(
        run.consistency_model, run.recipe.data, images, known, labels, variations=VARIATIONS
    )
    seen = np.asarray(jax.vmap(known)(jnp.asarray(images)))
    off = np.abs(np.asarray(jax.vmap(jax.vmap(known))(jnp.asarray(made))) - seen[:, None]).max()
    print(f"{type(known).__name__:<12} the known part is off by {off:.1e} at the most")
    return np.concatenate([images[:, None], seen[:, None], made], axis=1)


def round_trip(run: scmkit.Run, images: np.ndarray, labels: np.ndarray | None) -> float:
    """The RMS error of encoding and decoding, in the data's units."""
    data, model = run.recipe.data, run.diffusion_model
    cond = Conditioning(None if labels is None else jnp.asarray(labels))
    latents = jax.vmap(lambda x, c: encode(model, x, c))(jnp.asarray(data.normalize(images)), cond)
    back = jax.vmap(lambda z, c: decode(model, z, c))(latents, cond)
    return float(np.sqrt(np.mean((data.denormalize(np.asarray(back)) - images) ** 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Edit digits with a consistency model.")
    parser.add_argument("--run", type=Path, help="a distilled run; otherwise one is trained")
    parser.add_argument("--steps", type=int, help="steps of each training")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where runs go")
    parser.add_argument("--out", type=Path, default=Path("editing.png"), help="the picture")
    args = parser.parse_args()

    if args.run is None:
        shorter = {} if args.steps is None else {"train.steps": args.steps}
        run = scmkit.train(scmkit.compose(["trigflow", "scd"], shorter), out=args.runs)
    else:
        run = scmkit.Run.load(args.run)

    images, labels = scmkit.dataset_of(run.recipe).read("test", np.asarray(DIGITS))
    if run.teacher is not None:
        error = round_trip(scmkit.Run.load(run.teacher), images, labels)
        print(f"{'teacher':<12} encoding and decoding, RMS error {error:.1e}")
    ends = slice(0, 3, 2)
    walk = interpolate_samples(
        run, images[ends], None if labels is None else labels[ends], frames=VARIATIONS
    )
    rows = [
        block(run, images, labels, Pixels(LEFT_HALF)),
        block(run, images, labels, BlockMeans(2)),
        np.concatenate([images[ends][:1], walk, images[ends][1:]])[None],
    ]
    pictures = [image_grid(np.concatenate(row), columns=VARIATIONS + 2) for row in rows]
    save_png(args.out, np.concatenate(pictures))
    print(args.out)


if __name__ == "__main__":
    main()
