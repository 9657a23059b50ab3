"""Files that users name: a pipe, a device or a folder in their place is named, and nothing waits for it."""

import os
from pathlib import Path

import pytest
from scmkit_cli.edit_images import _read

from scmkit.composing.recipe_file import read_recipe
from scmkit.data import import_data
from scmkit.errors import ScmkitError
from scmkit.runs.convert import convert, restore_exported
from scmkit.storage.inputs import IrregularError, open_input
from scmkit.weights import read_weights

READERS = {
    "weights": read_weights,
    "convert": lambda path: convert("edm2", path, path.with_name("run")),
    "convert scmkit": lambda path: restore_exported(path, path.with_name("run")),
    "import": lambda path: import_data(path, path.with_name("store")),
    "recipe": read_recipe,
    "image": lambda path: _read(path, (1, 4, 4)),
}


@pytest.mark.parametrize("ending", ["npz", "npy", "pkl", "json", "toml", "png"])
@pytest.mark.parametrize("reader", READERS)
def test_no_reader_waits_for_a_pipe(reader, ending, tmp_path):
    pipe, link = tmp_path / f"f.{ending}", tmp_path / f"l.{ending}"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        with pytest.raises(ScmkitError, match="it is a named pipe, and a regular file is needed"):
            READERS[reader](path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [pipe.name, link.name]


@pytest.mark.parametrize("reader", READERS)
def test_devices_are_not_read(reader):
    with pytest.raises(ScmkitError, match="it is a device, and a regular file is needed"):
        READERS[reader](Path("/dev/zero"))


@pytest.mark.parametrize("reader", sorted(READERS.keys() - {"import"}))
def test_folders_are_named(reader, tmp_path):
    with pytest.raises(ScmkitError, match="it is a folder, and a regular file is needed"):
        READERS[reader](tmp_path)


def test_a_file_is_opened_through_links_and_a_missing_one_is_missing(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    (tmp_path / "l").symlink_to("f")
    with open_input(tmp_path / "l") as file:
        assert file.read() == b"abc"
    with pytest.raises(FileNotFoundError):
        open_input(tmp_path / "none")
    with pytest.raises(IrregularError, match=r"^it is a folder"):
        open_input(tmp_path)
