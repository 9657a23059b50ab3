"""The hidden folder in which a store is written, until it takes the store's name."""

import contextlib
import glob
import shutil
import uuid
from pathlib import Path

from scmkit.data.layout import METADATA_FILE
from scmkit.errors import RunError
from scmkit.storage.locks import DirectoryLock


def hidden_folder(target: Path) -> tuple[Path, DirectoryLock]:
    """A new folder beside `target`, and a lock on it by which others see that its writer lives.

    Locked is the file of the metadata, which is there from the beginning to the end: a lock of its own
    would have to be removed before the folder takes its name, and a writer killed then looks alive.
    """
    for attempt in range(5):
        folder = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
        folder.mkdir()
        lock = DirectoryLock(folder, METADATA_FILE)
        try:
            lock.__enter__()
            # Before it was locked, another writer may have taken it for abandoned.
            if (folder / METADATA_FILE).exists():
                return folder, lock
            lock.__exit__(None, None, None)
        except RunError:
            shutil.rmtree(folder, ignore_errors=True)
            if attempt == 4:
                raise
    raise OSError("others take its folder for abandoned")


def remove_abandoned(target: Path) -> None:
    """Removes what killed writers of the same store left: folders whose lock nobody holds."""
    for folder in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        if folder.is_symlink():
            continue  # No writer makes one, and what it points to is another's.
        if not (folder / METADATA_FILE).exists():
            with contextlib.suppress(OSError):
                folder.rmdir()
            continue
        with contextlib.suppress(RunError), DirectoryLock(folder, METADATA_FILE) as lock:
            if lock.held:
                shutil.rmtree(folder, ignore_errors=True)
