"""Files of strangers: what they say is read, and nothing else happens."""

import ast
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import fuzz_targets
import numpy as np
import pytest
import scmkit_cli
import scmkit_plugins
from effort import at_most
from fuzz_mutations import mutated
from fuzz_targets import TARGETS, TREE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scmkit_cli.options import counts

import scmkit
from scmkit import Run, compose, resume
from scmkit.composing.recipe import Recipe
from scmkit.composing.recipe_file import read_recipe, read_run_recipe
from scmkit.data import Store, StoreWriter
from scmkit.data.derived import cache_directory, directory_of
from scmkit.errors import (
    CheckpointError,
    DataError,
    OptionError,
    PluginError,
    RunError,
    ScmkitError,
    UsageError,
)
from scmkit.reporting.trials import Cell
from scmkit.runs import checkpoint
from scmkit.runs.convert import restore_exported
from scmkit.runs.manifest import MANIFEST
from scmkit.runs.metrics import read_metrics
from scmkit.runs.recovery import recover
from scmkit.storage import containment
from scmkit.storage.containment import check_depth, inside, parse_json
from scmkit.storage.files import refuse_links
from scmkit.storage.locks import LOCK, DirectoryLock
from scmkit.training import train
from scmkit.training.progress import Silent
from scmkit.weights import write_safetensors

# Names and paths

OUT = ("..", "../x", "a/../../x", "/etc/passwd", "", ".", "a//b", "./a", "a\0b", "a\\..\\b", "C:x")


@pytest.mark.parametrize("name", OUT)
def test_names_stay_in_their_folder(tmp_path, name):
    with pytest.raises(ValueError, match="the name"):
        inside(tmp_path, name)


@given(st.text(max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_name_is_inside_or_refused(tmp_path, name):
    try:
        path = inside(tmp_path, name)
    except ValueError:
        return
    assert path.resolve().is_relative_to(tmp_path.resolve())


def test_links_out_of_a_folder_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link").symlink_to(tmp_path)
    (tmp_path / "in/round").symlink_to("round")
    (tmp_path / "alias").symlink_to(tmp_path / "in")
    for name in ("link/x", "link"):
        with pytest.raises(ValueError, match="link out"):
            inside(tmp_path / "in", name)
    assert inside(tmp_path / "alias", "x") == tmp_path / "alias/x"


def test_stores_name_no_file_elsewhere(tmp_path):
    store = fuzz_targets._store(tmp_path)
    (tmp_path / "secret").write_text("12345")
    about = json.loads((store / "scmkit.json").read_text())
    for name in ("../secret", str(tmp_path / "secret")):
        files = about["files"] | {name: 5}
        (store / "scmkit.json").write_text(json.dumps(about | {"files": files}))
        with pytest.raises(DataError, match="leads out of the folder"):
            Store(store)
    (store / "scmkit.json").write_text(json.dumps(about))
    (store / "train").rename(tmp_path / "train")
    (store / "train").symlink_to(tmp_path / "train")
    with pytest.raises(DataError, match="is a link out"):
        Store(store)


def test_checkpoints_name_no_file_elsewhere(tmp_path):
    path = fuzz_targets._checkpoint(tmp_path)
    document = json.loads((path / MANIFEST).read_text())
    for name in ("../../secret", "/etc/passwd"):
        for part in ("files", "leaves"):
            record = next(iter(document[part].values()))
            forged = document | {part: document[part] | {name: record}}
            (path / MANIFEST).write_bytes(fuzz_targets._sealed(forged))
            with pytest.raises(CheckpointError, match="leads out of the folder"):
                checkpoint.restore(path, TREE)


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["checkpoints", "samples", "nonfinite", "teacher", ".lock", "new"])
def test_nothing_is_written_or_removed_through_a_link_in_a_run(tmp_path, name):
    precious, run = tmp_path / "precious", tmp_path / "run"
    for folder in ("checkpoints", "nonfinite"):
        checkpoint.save(precious / folder, 1, TREE)
        (precious / folder / ".tmp-00000002").mkdir()
    for file in (
        "samples/1.png.0.tmp",
        "recipe.json.0.tmp",
        "recipe.json",
        "nonfinite/1.json.0.tmp",
    ):
        (precious / file).parent.mkdir(exist_ok=True)
        (precious / file).write_text("mine")
    before = contents(precious)
    Run.create(run, compose(["trigflow", "scd"], data="two-moons"))
    target = {"teacher": "", ".lock": "recipe.json", "new": "samples"}.get(name, name)
    (run / name).symlink_to(precious / target)
    with pytest.raises(RunError, match="is a link out of"):
        resume(run, reporter=Silent())
    assert contents(precious) == before
    assert (precious / "nonfinite" / ".tmp-00000002").is_dir()


def test_links_that_users_make_are_followed(tmp_path):
    """To the run, above it, and within it; a teacher that is only read may be anywhere."""
    run = tmp_path / "disk" / "runs" / "r"
    (run / "a").mkdir(parents=True)
    (run / "b").symlink_to("a")
    (run / "teacher").symlink_to(tmp_path)
    (tmp_path / "runs").symlink_to("disk/runs")
    (tmp_path / "r").symlink_to("runs/r")
    for path in (tmp_path / "r", tmp_path / "runs" / "r"):
        refuse_links(path, but=("teacher",))
        with pytest.raises(RunError, match="teacher' is a link out of"):
            refuse_links(path)


def test_of_a_link_the_link_is_removed(tmp_path):
    precious, folder = checkpoint.save(tmp_path / "precious", 1, TREE), tmp_path / "checkpoints"
    before = contents(precious)
    checkpoint.save(folder, 2, TREE)
    for name in ("00000001", "00000003", ".tmp-00000009", "00000004.old"):
        (folder / name).symlink_to(precious)
    checkpoint.save(folder, 3, TREE, keep=1)
    assert recover(folder) == []
    assert contents(precious) == before
    assert {p.name for p in folder.iterdir() if not p.is_symlink()} == {"00000003"}
    checkpoint.save(folder, 5, TREE, keep=1)
    assert [p.name for p in folder.iterdir()] == ["00000005"]


def test_locks_write_to_no_other_file(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / LOCK).symlink_to("mine")
    with pytest.raises(RunError, match="is a link"), DirectoryLock(tmp_path):
        pass
    (tmp_path / LOCK).unlink()
    (tmp_path / LOCK).hardlink_to(tmp_path / "mine")
    with DirectoryLock(tmp_path) as lock:
        assert lock.held
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_store_linked_as_an_abandoned_one_is_left_alone(tmp_path):
    precious = fuzz_targets._store(tmp_path)
    before = contents(precious)
    (tmp_path / ".new.0.partial").symlink_to(precious)
    with StoreWriter(tmp_path / "new", shape=(1,), dtype="float32") as out:
        out.append("train", np.zeros((2, 1), np.float32))
    assert contents(precious) == before
    (precious / "derived").symlink_to(tmp_path)
    assert directory_of(Store(precious)).parent == cache_directory()


@pytest.mark.parametrize("name", ["../x", "/x", "..", "a/b", "", ".hidden", "-x", "a\n"])
def test_run_names_are_plain(tmp_path, name):
    recipe = compose(["diffusion"], data="two-moons")
    with pytest.raises(UsageError, match="run name"):
        train(recipe, out=tmp_path / "out", name=name)
    assert not list(tmp_path.iterdir())


@given(st.text(), st.text())
def test_cells_of_a_bench_stay_in_its_folder(data, method):
    path = Cell(data, method, 0).path
    assert not path.is_absolute()
    assert ".." not in path.parts


# Claims of size


def test_a_store_that_claims_more_than_its_files_hold(tmp_path):
    store = fuzz_targets._store(tmp_path)
    file = store / fuzz_targets.ZARR
    content = json.loads(file.read_text())
    about = json.loads((store / "scmkit.json").read_text())

    def forge(change, shape, n):
        text = json.dumps(content | change)
        file.write_text(text)
        files = about["files"] | {fuzz_targets.ZARR: len(text)}
        sizes = about["sizes"] | {"train": n}
        claimed = about | {"files": files, "sizes": sizes, "shape": shape}
        (store / "scmkit.json").write_text(json.dumps(claimed))

    forge({"shape": [1 << 40, 1, 2, 2]}, [1, 2, 2], 1 << 40)
    with pytest.raises(DataError, match="claims more bytes"):
        Store(store)
    grid = {"name": "regular", "configuration": {"chunk_shape": [1 << 40, 1, 2, 2]}}
    forge({"chunk_grid": grid}, [1, 2, 2], 3)
    with pytest.raises(DataError, match="chunks of an impossible size"):
        Store(store)
    forge({"codecs": [{"name": "bytes"}, {"name": "gzip"}]}, [1, 2, 2], 3)
    with pytest.raises(DataError, match="encoded by 'gzip'"):
        Store(store)


def test_a_checkpoint_that_claims_more_than_its_file_holds(tmp_path):
    path = fuzz_targets._checkpoint(tmp_path)
    content = json.loads((path / "arrays/a/zarr.json").read_text())
    grid = {"name": "regular", "configuration": {"chunk_shape": [1 << 20, 1 << 20]}}
    for change in (
        {"shape": [1 << 20, 1 << 20], "chunk_grid": grid},
        {"chunk_grid": grid},
        {"codecs": [*content["codecs"][:1], {"name": "gzip", "configuration": {"level": 1}}]},
    ):
        with pytest.raises(CheckpointError, match="of another size"):
            fuzz_targets.checkpoint_zarr(json.dumps(content | change).encode(), tmp_path)


def test_json_within_bounds():
    assert parse_json("[1]") == [1]
    for text in ("[" * 5000 + "]" * 5000, "[" * 200 + "]" * 200, "[NaN]", "-Infinity", "9" * 5000):
        with pytest.raises(ValueError, match=r"deeper|no number|digits"):
            parse_json(text)
    endless: list = []
    endless.append(endless)
    with pytest.raises(ValueError, match="deeper"):
        check_depth(endless)


# What the fuzzer found


def _recipe() -> dict:
    return json.loads(TARGETS["recipe-json"].seeds()[0])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trackers", [["x"]]),
        ("sampler", 3),
        ("teacher", {"path": 3}),
        ("teacher", {"path": "a\0b"}),
        ("starts_from", "other"),
        ("makes", "other"),
        ("players_train", [["x"]]),
        ("slots", {"noise": None}),
        ("data", None),
    ],
)
def test_recipes_of_other_types(key, value):
    with pytest.raises(OptionError, match="not a recipe"):
        Recipe.from_json(_recipe() | {key: value})


def test_deep_and_torn_files(tmp_path):
    (tmp_path / "r.toml").write_text("a." * 3000 + "b = 1\n")
    (tmp_path / "r.json").write_text("[" * 100_000)
    (tmp_path / "recipe.json").write_text('{"teacher":' * 100_000)
    for read, path in (
        (read_recipe, tmp_path / "r.toml"),
        (read_recipe, tmp_path / "r.json"),
        (read_run_recipe, tmp_path),
    ):
        with pytest.raises((OptionError, RunError), match="cannot be read"):
            read(path)
    lines = '{"step": 1}\n[]\n', '{"step": 1}\n{"step": "2"}\n', '{"step": 1}\n' + "[" * 100_000
    for text in lines:
        (tmp_path / "metrics.jsonl").write_text(text)
        assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1}]


def test_errors_are_one_line_without_control_codes():
    assert str(OptionError("a\nb\x1b[31m\ud800é")) == "a\\nb\\x1b[31m\\ud800é"


def test_numbers_of_thousands_of_digits():
    with pytest.raises(UsageError, match="whole numbers"):
        counts("9" * 5000)


def test_names_that_are_too_long():
    with pytest.raises(DataError, match="no such folder"):
        Store("x" * 5000)
    with pytest.raises(PluginError, match="no plugin"):
        compose(["diffusion"], data="x" * 5000)


LARGE = 48 << 20
"""Bytes of memory that no small file has reason to take."""


def taken(read, *args) -> int:
    """By how many bytes the process grows at most while a file is read, or refused in a line."""
    before = resident(reset=True)
    try:
        read(*args)
    except ScmkitError as error:
        assert "\n" not in str(error)  # noqa: PT017
    return resident() - before


def resident(*, reset: bool = False) -> int:
    """The most memory that the process has held since it was asked to forget that; Linux alone counts so."""
    if sys.platform != "linux":
        return 0
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_files_give_errors_of_one_line(tmp_path, name):
    chance, target = random.Random(name), TARGETS[name]
    seeds = target.seeds()
    usual = max(taken(target.run, data, tmp_path) for data in seeds)
    for _ in range(80):
        data = mutated(chance.choice(seeds), chance)
        with at_most(10):
            assert taken(target.run, data, tmp_path) < usual + LARGE


# Any JSON in any place


def places(value, way=()):
    """The ways to everything within lists and tables."""
    yield way
    if isinstance(value, dict | list):
        for key in range(len(value)) if isinstance(value, list) else value:
            yield from places(value[key], (*way, key))


def put(value, way, new):
    """`value` with `new` in one place."""
    if not way:
        return new
    copy = value.copy()
    copy[way[0]] = put(value[way[0]], way[1:], new)
    return copy


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=6,
)
DOCUMENTS = (
    "recipe-json",
    "store-json",
    "store-zarr",
    "manifest",
    "checkpoint-zarr",
    "metrics",
    "safetensors",
)


@pytest.mark.parametrize("name", DOCUMENTS)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_json_in_any_place_is_read_or_refused_in_a_line(tmp_path, name, data):
    seed, frame = TARGETS[name].seeds()[0], name == "safetensors"
    # Safetensors are a length, JSON of that length, and arrays; metrics are lines.
    end = 8 + int.from_bytes(seed[:8], "little") if frame else len(seed)
    value = json.loads(
        seed[8:end] if frame else seed.splitlines()[0] if name == "metrics" else seed
    )
    way = data.draw(st.sampled_from(list(places(value))))
    text = json.dumps(put(value, way, data.draw(ANY))).encode()
    content = len(text).to_bytes(8, "little") + text + seed[end:] if frame else text
    taken(TARGETS[name].run, content, tmp_path)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.text(max_size=20) | st.from_regex(r"train\.[a-z_]+=.*", fullmatch=True), max_size=4)
)
def test_any_text_for_settings_is_read_or_refused_in_a_line(lines):
    taken(TARGETS["set"].run, "\n".join(lines).encode("utf-8", "replace"), Path())


# Too large, too deep


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("recipe-json", "recipe.json"),
        ("recipe-toml", "recipe.toml"),
        ("store-json", "store/scmkit.json"),
        ("store-zarr", f"store/{fuzz_targets.ZARR}"),
        ("manifest", f"c/00000001/{MANIFEST}"),
        ("checkpoint-zarr", "c/00000001/arrays/a/zarr.json"),
    ],
)
def test_texts_are_measured_before_they_are_read(tmp_path, monkeypatch, name, file):
    target, seed = TARGETS[name], TARGETS[name].seeds()[0]
    target.run(seed, tmp_path)
    assert (tmp_path / file).is_file()
    monkeypatch.setattr(containment, "LARGEST", len(seed) - 1)
    with pytest.raises(ScmkitError, match="larger than"):
        target.run(seed, tmp_path)


def test_metrics_are_read_by_lines_of_bounded_length(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    with path.open("r+b") as file:
        file.truncate(1 << 30)
    assert taken(lambda: read_metrics(path)) < LARGE
    assert read_metrics(path) == [{"step": 1}]
    path.write_text('{"step": 1, "a": ' + "[" * 500 + "]" * 500 + "}\n")
    assert read_metrics(path) == []
    path.unlink()
    os.mkfifo(path)
    assert read_metrics(path) == []


def test_keys_of_thousands_of_parts_are_not_parsed(tmp_path):
    path, parts = tmp_path / "r.toml", 5_000
    for key in ("a." * parts, "'.' . " * parts, '"\\"". ' * parts, "[" + "a-1\t.\t" * parts):
        path.write_text("x = 1\n" + key + ("b]\n" if key.startswith("[") else "b = 1\n"))
        with pytest.raises(OptionError, match="a key of over 100 parts"):
            read_recipe(path)
    many = ", ".join(f"{i}.5" for i in range(300))
    path.write_text(f'plugins = ["x"]\nsettings.x = {{a = [{many}], b = "{"../" * 200}"}}\n')
    assert len(read_recipe(path).settings["x.a"]) == 300


@pytest.mark.parametrize("place", ["attributes", "fill_value", "codecs"])
def test_metadata_of_a_checkpoint_nested_beyond_the_stack(tmp_path, place):
    content = json.loads(TARGETS["checkpoint-zarr"].seeds()[0]) | {place: "deep"}
    text = json.dumps(content).replace('"deep"', "[" * 100_000 + "]" * 100_000)
    with pytest.raises(CheckpointError, match="nested deeper"):
        fuzz_targets.checkpoint_zarr(text.encode(), tmp_path)


# Nothing is executed

ALLOWED = {
    "scmkit/weights/pickles.py": {"pickle"},  # The numbers of its opcodes; nothing of it is called.
    "scmkit/__init__.py": {"importlib"},  # The public names, from a table in that file.
    "scmkit/sampling/__init__.py": {"importlib"},  # The same.
    "plugins/scmkit_attention/backends.py": {"importlib"},  # A kernel, by a name in that file.
    "scmkit/composing/entries.py": {"importlib.util", "importlib.machinery", "importlib.metadata"},
    "scmkit/composing/environment.py": {"importlib.metadata"},  # Versions.
    "scmkit/weights/packaged.py": {"importlib.metadata"},  # Where a package's file lies.
    "scmkit/reporting/page.py": {"importlib.resources"},  # The style sheet beside it.
    "scmkit/testing/declaration.py": {"importlib.util"},  # Whether a module is there.
    "scmkit/testing/modules.py": {
        "importlib"
    },  # Modules of a package that is checked by its author.
    "scmkit/training/freed.py": {
        "ctypes"
    },  # One function of the C library, without arguments of others.
    "scmkit/distribution/launch.py": {"subprocess"},  # `scmkit launch`: this command, again.
    "scmkit/composing/loading.py": {".load"},  # An installed plugin, by its entry point.
}
"""Where something is that could execute code, and why."""

MODULES = {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "torch"}
MODULES |= {"importlib", "runpy", "code", "subprocess", "ctypes", "yaml"}
CALLS = {"eval", "exec", "compile", "__import__"}


def dangers(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.partition(".")[0] in MODULES}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            found |= {module} if module.partition(".")[0] in MODULES else set()
        elif isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            found |= {name} & CALLS
            if isinstance(node.func, ast.Attribute):
                at, of = node.func.attr, node.func.value
                safe = any(
                    k.arg == "allow_pickle"
                    and isinstance(k.value, ast.Constant)
                    and k.value.value is False
                    for k in node.keywords
                )
                if isinstance(of, ast.Name) and of.id in ("np", "numpy") and at == "load":
                    found |= set() if safe else {"np.load"}
                elif at == "load" and "entry_point" in ast.unparse(of):
                    found.add(".load")
                elif ast.unparse(node.func) in ("os.system", "os.popen", "os.execv"):
                    found.add(ast.unparse(node.func))
    return found


def test_code_is_executed_only_where_it_says_so():
    found = {}
    for package in (scmkit, scmkit_plugins, scmkit_cli):
        root = Path(package.__path__[0])
        for file in sorted(root.rglob("*.py")):
            if there := dangers(ast.parse(file.read_text())):
                found[file.relative_to(root.parent).as_posix()] = there
    extra = {file: some - ALLOWED.get(file, set()) for file, some in found.items()}
    assert {file: some for file, some in extra.items() if some} == {}


WATCH = """
import sys, json, os
from pathlib import Path
import fuzz_targets
from fuzz_targets import TARGETS
from scmkit.errors import ScmkitError
folder, inputs = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
for name, target in TARGETS.items():  # All that is loaded late is loaded now.
    (folder / name).mkdir()
    for data in target.seeds():
        target.run(data, folder / name)
seen = []
def hook(event, args):
    if event in ('os.system', 'os.exec', 'os.posix_spawn', 'os.fork', 'subprocess.Popen'):
        seen.append(event)
    elif event.startswith(('socket.', 'urllib.', 'pickle.')):
        seen.append(event)
    elif event == 'import':
        seen.append('import ' + str(args[0]))
    elif event == 'open' and isinstance(args[0], (str, bytes)):
        path, mode = os.path.realpath(os.fsdecode(args[0])), args[1] or ''
        flags = args[2] or 0
        if flags & (os.O_WRONLY | os.O_RDWR) and not path.startswith((str(folder), '/dev/null')):
            seen.append('writes ' + path)
        if '/etc/' in path:
            seen.append('reads ' + path)
sys.addaudithook(hook)
answers = []
for name, text in inputs:
    try:
        TARGETS[name].run(text.encode('latin1'), folder / name)
        answers.append('read')
    except ScmkitError as error:
        answers.append(type(error).__name__)
print(json.dumps([seen, answers]))
"""


def test_hostile_files_import_start_and_write_nothing(tmp_path):
    recipe, inputs = _recipe(), []
    evil = "antigravity"

    def add(target, value):
        inputs.append((target, value if isinstance(value, str) else json.dumps(value)))

    for name in (evil, f"{evil}:this", "os:system", "scmkit:../../x"):
        slots = recipe["slots"] | {"noise": name}
        record = {"package": evil, "version": "1", "config": {}}
        add("recipe-json", recipe | {"slots": slots, "plugins": recipe["plugins"] | {name: record}})
    add("recipe-json", recipe | {"teacher": {"path": "/etc/passwd", "digest": None}})
    add("recipe-json", recipe | {"data": recipe["data"] | {"source": "/etc/passwd"}})
    solver = {"package": "scmkit", "version": "1", "config": {"solver": f"{evil}.run"}}
    add("recipe-json", recipe | {"plugins": recipe["plugins"] | {"pf-ode": solver}})
    about = json.loads(TARGETS["store-json"].seeds()[0])
    add("store-json", about | {"files": {"/etc/passwd": 1}})
    zarr = json.loads(TARGETS["store-zarr"].seeds()[0])
    add("store-zarr", zarr | {"codecs": [{"name": evil}]})
    manifest = json.loads(TARGETS["manifest"].seeds()[0])
    for path in ("../../../../etc/passwd", "/etc/passwd"):
        add("manifest", manifest | {"files": {path: {"size": 1, "sha256": ""}}})
    add("metrics", {"step": 1, "__class__": evil})
    add("pickle", f"\x80\x04c{evil}\nrun\n)R.")
    add("pickle", "\x80\x04cos\nsystem\n\x8c\x04true\x85R.")
    add("image", "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 6\n%%EndComments\nshowpage\n")
    (tmp_path / "inputs.json").write_text(json.dumps(inputs))
    (tmp_path / "out").mkdir()
    run = subprocess.run(
        [sys.executable, "-c", WATCH, tmp_path / "out", tmp_path / "inputs.json"],
        env=os.environ
        | {"PYTHONPATH": str(Path(__file__).parent / "support"), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    seen, answers = json.loads(run.stdout.splitlines()[-1])
    foreign = [
        s for s in seen if not s.startswith(("import scmkit", "import PIL", "import pydantic"))
    ]
    assert foreign == []
    assert len(answers) == len(inputs)


def test_an_exported_recipe_is_read_with_care(tmp_path):
    write_safetensors(tmp_path / "w", {"a": np.zeros(1)}, {"scmkit.recipe": "[" * 100_000})
    with pytest.raises(UsageError, match="not JSON"):
        restore_exported(tmp_path / "w", tmp_path / "run")
