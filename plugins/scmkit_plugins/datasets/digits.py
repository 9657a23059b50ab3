"""Handwritten digits of 8x8 pixels, shipped with scmkit.

`digits.npz` has the test set of "Optical Recognition of Handwritten Digits" (E. Alpaydin and
C. Kaynak, UCI Machine Learning Repository, 1998, doi 10.24432/C50P49, CC BY 4.0), as scikit-learn
distributes it as `load_digits`: 1797 images of 0..16, here as uint8 and shuffled once
(`Philox(0)`), the last 500 as the test split.
"""

from pathlib import Path

import numpy as np

from scmkit.data import ArrayDataset
from scmkit.plugin import NoOptions, Plugin, Slot

_FILE = Path(__file__).with_name("digits.npz")


def build_dataset(config: NoOptions) -> ArrayDataset:
    """1297 train and 500 test images `1 8 8` in [-1, 1] (`x / 8 - 1`), of ten classes."""
    with np.load(_FILE, allow_pickle=False) as arrays:
        images = {
            split: arrays[f"x_{split}"][:, None].astype(np.float32) / 8 - 1
            for split in ("train", "test")
        }
        labels = {split: arrays[f"y_{split}"].astype(np.int32) for split in ("train", "test")}
    return ArrayDataset(
        images["train"],
        images["test"],
        train_labels=labels["train"],
        test_labels=labels["test"],
        num_classes=10,
        levels=17,
        licences=(
            "E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998: CC BY 4.0",
        ),
    )


# A low learning rate suits methods that take the newest weights as their target.
STUDENT = {
    "train.steps": 3500,
    "train.lr": 3.5e-4,
    "train.beta2": 0.999,
    "train.ema": "power:0.05",
    "train.warmup": 50,
    "log-normal.mean": 0.5,
    "log-normal.std": 1.6,
}
# Of sCM's own: what is wrong at small times is carried to all larger ones, so that times are drawn widely.
# The tangent warms up over three quarters of the run: small times suffer once it is whole, and the largest
# are learned only then. The second step starts where the student's own error is least.
SCM = {
    "train.steps": 2600,
    "train.lr": 1e-3,
    "log-normal.mean": -0.4,
    "log-normal.std": 2.2,
    "scd.constant": 1.0,
    "scd.warmup_steps": 2000,
    "sct.constant": 1.0,
    "sct.warmup_steps": 2000,
    "consistency.angles": (0.6,),
}
TEACHER = {
    "train.steps": 2500,
    "train.lr": 3e-3,
    "train.ema": "power:0.1",
    "train.warmup": 100,
    "log-normal.mean": -0.9,
    "log-normal.std": 1.3,
}

plugin = Plugin(
    name="digits",
    summary="scikit-learn's handwritten digits: 1797 grayscale images of 8x8, ten classes",
    provides={Slot.dataset: build_dataset},
    settings={
        "train.batch_size": 128,
        "train.schedule": "cosine",
        "mlp.width": 320,
        "mlp.depth": 4,
        "mlp.embedding_dim": 128,
        "positional.channels": 64,
    },
    settings_for={"diffusion": TEACHER, "consistency": STUDENT, "scd": SCM, "sct": SCM},
)
