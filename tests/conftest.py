"""What every test runs under: strict dtypes and ranks, and programs compiled once for all workers."""

import gc
import itertools
import os
import signal
import tempfile
from importlib.metadata import version
from pathlib import Path

# A suite of small arrays; JAX_PLATFORMS=cuda runs it on a GPU all the same.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the suite's time is XLA compiling small programs that run once: a quarter less without optimisation.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# XLA's fusion emitters run MLIR's passes for every fused loop on the CPU; the older ones compile the same
# programs in a third of the time. XLA's flags come and go, and it exits at one that it does not know.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    if version("jax").startswith(("0.9.", "0.10."))
    else "",
)

import jax
import jax.random as jr
import pytest
from hypothesis import settings

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Tracing allocates many small objects that live on: Python's collector, and JAX's that it calls, would go
# through all of the thousands of tests and programs every few seconds, for nearly a tenth of all time.
gc.set_threshold(100_000, 20, 50)

# A shell without job control starts `pytest &` with SIGINT ignored; tests that interrupt would wait in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("scmkit", derandomize=True, deadline=None)
settings.load_profile("scmkit")

# Set here, it reaches xdist's workers and the commands that tests start as processes of their own. Of small
# programs there are thousands; to read one takes a tenth of the time to compile it, and to write one no time.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="scmkit-tests-"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


# Features and classifiers that tests derive from data sets; never in the user's own cache.
os.environ.setdefault("SCMKIT_TESTS_CACHE", tempfile.mkdtemp(prefix="scmkit-tests-cache-"))
os.environ["SCMKIT_CACHE"] = os.environ["SCMKIT_TESTS_CACHE"]


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Drops compiled programs before their mappings reach Linux's limit of 65530, where XLA crashes."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 15_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def getkey():
    """Calls return one fresh PRNG key after another, the same in every run."""
    seeds = itertools.count()
    return lambda: jr.key(next(seeds))
