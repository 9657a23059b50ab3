"""The two packages of the data set `emoji`, small: a colour says which concept, variant and style it is."""

import io
import json
import tarfile
from pathlib import Path

from PIL import Image

GOOGLE, FLUENT = "emoji-datasource-google", "@lobehub/fluent-emoji-3d"
GROUPS = ("Flags", "Objects", "Symbols")
CONCEPTS = 24
TONES = ("1F3FB", "1F3FF")


def picture(concept: int, variant: int, style: int, side: int, kind: str) -> bytes:
    """A square of one colour, `10 concept, 50 variant, 200 style`, within a transparent edge."""
    colour = (10 * concept, 50 * variant, 200 * style, 255)
    image = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    image.paste(colour, (side // 4, side // 4, side - side // 4, side - side // 4))
    stream = io.BytesIO()
    image.save(stream, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return stream.getvalue()


def contents() -> dict[str, dict[str, bytes]]:
    """The files of each package by their paths."""
    google: dict[str, bytes] = {"img/google/sheets/64.png": b"no picture of one emoji"}
    fluent: dict[str, bytes] = {}
    entries = []
    for i in range(CONCEPTS):
        base = f"{0x1F900 + i:X}"
        codes = [base, *(f"{base}-{tone}" for tone in TONES)]
        tones = {t: {"unified": c} for t, c in zip(TONES, codes[1:], strict=True)}
        entry = {"unified": f"{base}-FE0F", "non_qualified": base, "category": GROUPS[i % 3]}
        entries += [entry | {"skin_variations": tones}]
        # Told from the man's by gender alone.
        entries += [{"unified": f"{base}-200D-2640-FE0F", "category": GROUPS[i % 3]}]
        for variant, code in enumerate([*codes, f"{base}-200d-2640-fe0f"]):
            google[f"img/google/64/{code.lower()}.png"] = picture(i, variant, 0, 64, "PNG")
        fluent[f"assets/{base.lower()}.webp"] = picture(i, 0, 1, 256, "WEBP")
    twice = google["img/google/64/1f900.png"]
    entries += [{"unified": "0023-20E3", "non_qualified": None, "category": "Flags"}]
    entries += [{"unified": "1F3FB", "category": "Component"}]
    google |= {"img/google/64/23-20e3.png": twice, "img/google/64/1f3fb.png": twice}
    fluent["assets/1f3fb.webp"] = picture(0, 4, 1, 256, "WEBP")
    google["emoji.json"] = json.dumps(entries).encode()
    for name, version, files in ((GOOGLE, "16.0.0", google), (FLUENT, "1.1.0", fluent)):
        files["package.json"] = json.dumps({"name": name, "version": version}).encode()
    return {GOOGLE: google, FLUENT: fluent}


def write_packed(folder: Path) -> Path:
    """Writes both packages as `npm pack` does."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, files in contents().items():
        stem = name.removeprefix("@").replace("/", "-")
        version = json.loads(files["package.json"])["version"]
        with tarfile.open(folder / f"{stem}-{version}.tgz", "w:gz") as archive:
            for path, data in files.items():
                member = tarfile.TarInfo(f"package/{path}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return folder


def write_unpacked(folder: Path, *, installed: bool) -> Path:
    """Writes both packages as `npm install` does, or as the archives of `npm pack` unpack."""
    for name, files in contents().items():
        stem = name.removeprefix("@").replace("/", "-")
        place = f"node_modules/{name}" if installed else f"{stem}/package"
        for path, data in files.items():
            file = folder / place / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    return folder
