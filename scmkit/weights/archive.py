"""Zip archives whose directory can be believed."""

import os
import zipfile
from pathlib import Path

from scmkit.storage.containment import RATIO, unpacked
from scmkit.weights.damage import Unreadable, require, shown


def entries(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """The files in an archive by name, after a look at the sizes that its directory states.

    No weights are compressed to a fiftieth: an archive that claims so would fill the memory (a zip bomb).
    """
    size, total, found = path.stat().st_size, 0, {}
    with path.open("rb") as file:
        file.seek(-22, os.SEEK_END)
        end = file.read()
    # zipfile believes a directory that was cut by a flipped bit.
    count = min(len(archive.infolist()), 0xFFFF)
    whole = end.startswith(b"PK\5\6") and int.from_bytes(end[10:12], "little") == count
    require(whole, "its directory is garbled")
    for entry in archive.infolist():
        name = shown(entry.filename)
        require(entry.filename not in found, f"it has two files {name}")
        inside = entry.header_offset + entry.compress_size <= size
        require(inside, f"its file {name} reaches beyond its end")
        method = entry.compress_type
        known = method == zipfile.ZIP_DEFLATED or entry.compress_size == entry.file_size
        require(known and method in (0, 8), f"its file {name} is compressed in an unknown way")
        require(not entry.flag_bits & 1, f"its file {name} is encrypted")
        found[entry.filename] = entry
        total += entry.file_size
        if unpacked(path, total):
            raise Unreadable(
                f"unpacked it is over {RATIO} times its size, which no weights are; it may be "
                "malicious, or save it uncompressed"
            )
    return found
