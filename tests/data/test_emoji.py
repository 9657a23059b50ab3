"""Emoji from packages of npm, and data sets of plugins written into stores."""

import gzip
import json
import re
import tarfile

import numpy as np
import pytest
from emoji_packages import CONCEPTS, FLUENT, GOOGLE, GROUPS, contents, write_packed, write_unpacked
from hypothesis import given
from hypothesis import strategies as st
from scmkit_cli.data import app
from scmkit_plugins.datasets._emoji_concepts import concept, held_out, normal
from scmkit_plugins.datasets.emoji import Options, build_dataset
from typer.testing import CliRunner

from scmkit.data import ArrayDataset, Store, digest_of, import_data
from scmkit.errors import DataError, UsageError


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    return write_packed(tmp_path_factory.mktemp("packed"))


def everything(dataset, split):
    return dataset.read(split, np.arange(dataset.size(split)))


def colours(dataset, split):
    """Concept, variant, style of each image, from the colour in its middle."""
    x, _ = everything(dataset, split)
    middle = x.shape[-1] // 2
    return np.rint((x[:, :, middle, middle] + 1) * 127.5 / (10, 50, 200)).astype(int)


@pytest.mark.parametrize("side", [16, 24])
def test_concepts_lie_in_one_split_and_labels_are_groups(packages, side):
    dataset = build_dataset(Options(side=side, path=str(packages)))
    assert (dataset.shape, dataset.class_names, dataset.levels) == ((3, side, side), GROUPS, 256)
    found = {split: colours(dataset, split) for split in ("train", "test")}
    # Each concept in four variants and a second style, none twice.
    assert sum(map(len, found.values())) == 5 * CONCEPTS
    assert len(np.unique(np.concatenate(list(found.values())), axis=0)) == 5 * CONCEPTS
    train, test = ({*found[split][:, 0].tolist()} for split in ("train", "test"))
    assert not train & test
    assert len(test) == CONCEPTS // 4
    for split in ("train", "test"):
        x, labels = everything(dataset, split)
        np.testing.assert_array_equal(labels, found[split][:, 0] % 3)
        np.testing.assert_array_equal(x[:, :, 0, 0], 1)
    assert dataset.licences[0].startswith(f"{GOOGLE} 16.0.0: ")
    assert dataset.licences[1].startswith(f"{FLUENT} 1.1.0: ")


def test_packed_unpacked_and_installed_are_one(packages, tmp_path):
    one = digest_of(build_dataset(Options(side=8, path=str(packages))))
    for installed in (True, False):
        folder = write_unpacked(tmp_path / str(installed), installed=installed)
        assert digest_of(build_dataset(Options(side=8, path=str(folder)))) == one
    named = {"google": next(packages.glob("emoji*")), "fluent": next(packages.glob("lobe*"))}
    options = Options(side=8, **{style: str(path) for style, path in named.items()})
    assert digest_of(build_dataset(options)) == one


def test_what_is_missing_or_another_is_said(packages, tmp_path):
    both = f"no package {GOOGLE}@16.0.0 and no {FLUENT}@1.1.0 in '{tmp_path}'"
    command = f"`npm pack {GOOGLE}@16.0.0 {FLUENT}@1.1.0`"
    with pytest.raises(DataError, match=f"{re.escape(both)}.*{re.escape(command)}"):
        build_dataset(Options(path=str(tmp_path)))
    google = next(packages.glob("emoji*"))
    (tmp_path / google.name).write_bytes(google.read_bytes())
    with pytest.raises(DataError, match=f"no package {FLUENT}@1.1.0 in .*npm pack {FLUENT}@1.1.0`"):
        build_dataset(Options(path=str(tmp_path)))
    with pytest.raises(DataError, match=f"is the package '{GOOGLE}', not '{FLUENT}'"):
        build_dataset(Options(path=str(packages), fluent=str(google)))
    folder = write_unpacked(tmp_path / "in", installed=True)
    for text, problem in (
        ('[{"unified": 3}]', "not a list of emoji"),
        ("[}", "damaged"),
        ("[]", ""),
    ):
        (folder / "node_modules" / GOOGLE / "emoji.json").write_text(text)
        with pytest.raises(DataError, match=f"emoji.json.*{problem}" if problem else "too few"):
            build_dataset(Options(path=str(folder)))
    (folder / "node_modules" / GOOGLE / "emoji.json").write_bytes(contents()[GOOGLE]["emoji.json"])
    (folder / "node_modules" / GOOGLE / "img/google/64/1f900.png").write_bytes(b"none")
    with pytest.raises(DataError, match=r"'img/google/64/1f900.png': not an image"):
        build_dataset(Options(path=str(folder)))


def test_an_archive_that_unpacks_to_too_much_is_refused(packages, tmp_path):
    header = tarfile.TarInfo("package/x")
    header.type, header.size = tarfile.XHDTYPE, 100 << 20
    file = tmp_path / "bomb.tgz"
    with gzip.open(file, "wb", 1) as stream:
        stream.write(header.tobuf())
        for _ in range(100):
            stream.write(bytes(1 << 20))
    with pytest.raises(DataError, match="it may be malicious"):
        build_dataset(Options(path=str(packages), fluent=str(file)))


POINTS = st.lists(
    st.sampled_from(
        ["1f468", "1f469", "1f9d1", "2640", "27a1", "200d", "1f3fb", "fe0f", "23", "a9"]
    ),
    min_size=1,
    max_size=8,
)


@given(POINTS)
def test_concepts_know_no_variants(points):
    code = normal("-".join(points))
    assert code == normal(code.upper().replace("-", "_"))
    one = concept(code)
    assert concept(one) == one
    assert concept("-".join(p for p in code.split("-") if p != "1f3fb")) == one
    assert concept(code.replace("1f469", "1f468")) == one
    assert not {"1f3fb", "2640", "1f468"} & set(one.split("-"))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(0, 99))
def test_a_split_is_by_whole_concepts(concepts, seed):
    groups = [f"g{c % 3}" for c in concepts]
    test = held_out([str(c) for c in concepts], groups, np.random.default_rng(seed))
    assert not {c for c, t in zip(concepts, test, strict=True) if t} & {
        c for c, t in zip(concepts, test, strict=True) if not t
    }
    for group in set(groups):
        own = [c for c, g in zip(concepts, groups, strict=True) if g == group]
        largest = max(own.count(c) for c in own)
        assert (
            sum(test[i] for i, g in enumerate(groups) if g == group) <= len(own) / 4 + largest / 2
        )


def test_a_plugin_is_imported_by_its_name(packages, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = ["--set", f"emoji.path={packages}", "--set", "emoji.side=8"]
    run = CliRunner().invoke(app, ["import", "emoji", "s", *settings], catch_exceptions=False)
    assert run.exit_code == 0
    assert "classes  3: 'Flags', 'Objects', 'Symbols'" in run.stderr
    store, dataset = Store("s"), build_dataset(Options(side=8, path=str(packages)))
    assert digest_of(store) == digest_of(dataset)
    assert store.licences == dataset.licences
    np.testing.assert_allclose(store.statistics().mean, dataset.statistics().mean, rtol=1e-12)
    told = CliRunner().invoke(app, ["info", "s"]).stdout
    assert f"  licence  {GOOGLE} 16.0.0: pictures of Google's Noto Emoji, Apache-2.0" in told
    assert "of shape 3x8x8" in CliRunner().invoke(app, ["info", "emoji", *settings]).stdout
    facts = json.loads(CliRunner().invoke(app, ["info", "s", "--json"]).stdout)
    assert facts["licences"] == list(dataset.licences)
    with pytest.raises(UsageError, match=r"--set a\.b: no plugin 'r', and files have no"):
        CliRunner().invoke(app, ["import", "r", "t", "--set", "a.b=1"], catch_exceptions=False)
    with pytest.raises(UsageError, match=r"--set a\.b: 's' is read as the file or folder"):
        CliRunner().invoke(app, ["import", "s", "t", "--set", "a.b=1"], catch_exceptions=False)
    with pytest.raises(
        UsageError, match="emojii: no such file, folder or plugin; did you mean 'emoji'"
    ):
        CliRunner().invoke(app, ["import", "emojii", "t"], catch_exceptions=False)
    given = [*settings, "--set", "a.b=1"]
    with pytest.raises(UsageError, match=r"--set a\.b: is no option of 'emoji'"):
        CliRunner().invoke(app, ["import", "emoji", "t", *given], catch_exceptions=False)


def test_data_sets_become_stores(tmp_path):
    x = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    labels = np.arange(30) % 3
    plain = ArrayDataset(
        x[:20], x[20:], train_labels=labels[:20], test_labels=labels[20:], num_classes=3
    )
    lines: list[str] = []
    store = import_data(plain, tmp_path / "a", told=lines.append)
    assert digest_of(store) == digest_of(plain)
    assert "licences" not in (tmp_path / "a" / "scmkit.json").read_text()
    assert import_data(plain, tmp_path / "b", labels=False).num_classes == 0
    grey = ArrayDataset(np.zeros((9, 1, 4, 4), np.uint8), np.zeros((0, 1, 4, 4), np.uint8))
    drawn = import_data(grey, tmp_path / "c", size=2, test_fraction=0.3, told=lines.append)
    assert (drawn.shape, drawn.size("train"), drawn.size("test")) == ((1, 2, 2), 6, 3)
    with pytest.raises(DataError, match="the data set has no labels"):
        import_data(grey, tmp_path / "d", labels=True)
    few = ArrayDataset(x[:, None, None], x[:9, None, None], levels=5)
    import_data(few, tmp_path / "e", told=lines.append)
    assert "unused   that samples have 5 levels: a store does not hold it" in lines


def test_images_of_8_bits_are_kept_so():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3, 2, 2)).astype(np.uint8)
    kept = ArrayDataset(pixels, pixels[:2])
    read = pixels / np.float32(127.5) - np.float32(1)
    plain = ArrayDataset(read, read[:2], levels=256)
    assert digest_of(kept) == digest_of(plain)
    assert kept.levels == 256
    np.testing.assert_allclose(kept.statistics().std, plain.statistics().std, rtol=1e-6)
    for arguments in ((pixels, read), (read, pixels)):
        with pytest.raises(ValueError, match="both splits are, or neither"):
            ArrayDataset(*arguments)
    with pytest.raises(ValueError, match="256 levels"):
        ArrayDataset(pixels, pixels, levels=17)
