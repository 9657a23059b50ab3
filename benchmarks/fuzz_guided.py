"""Inputs that grow from those which reached new code, by atheris."""

import importlib
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

atheris: Any = importlib.import_module("atheris")

INSTRUMENTED = ["scmkit", "scmkit_plugins", "scmkit_cli", "zipfile", "gzip", "tomllib", "PIL"]
"""Packages whose branches are counted: the readers, and what they read by that is written in Python."""

LARGEST = 1 << 19
"""Bytes of an input."""


def guided(make: Callable[[], Any], inputs: int, seed: int) -> None:
    """Try `inputs` on the record that `make` makes; ends the process."""
    # Also around the run: modules are imported where they are first used.
    with atheris.instrument_imports(include=INSTRUMENTED):
        record = make()
        from fuzz_mutations import changed, mutated  # pyright: ignore[reportMissingImports]

        def mutate(data: bytes, size: int, seed: int) -> bytes:
            """libFuzzer's changes or our own, within JSON and archives as well."""
            chance = random.Random(seed)

            def change(data: bytes, chance: random.Random) -> bytes:
                ours = chance.random() < 0.3
                return changed(data, chance) if ours else bytes(atheris.Mutate(data, size))

            # Deep in the corpus little is right any more, and what is next to right goes furthest.
            base = chance.choice(record.seeds) if chance.random() < 0.3 else data
            return mutated(base, chance, change)[:size]

        corpus = Path(tempfile.mkdtemp(dir=record.folder))
        for i, data in enumerate(record.seeds):
            (corpus / str(i)).write_bytes(data)
        options = [f"-runs={inputs}", f"-seed={seed + 1}", f"-max_len={LARGEST}", "-len_control=0"]
        # Hangs and memory are the record's to see, whichever the engine.
        options += ["-timeout=0", "-rss_limit_mb=0", f"-artifact_prefix={corpus}/"]
        atheris.Setup([sys.argv[0], *options, str(corpus)], record.attempt, custom_mutator=mutate)
        atheris.Fuzz()
