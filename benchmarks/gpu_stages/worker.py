"""The process of a stage: requests on stdin, answers on stdout, a line of JSON each; stderr is the log."""

import gc
import importlib
import json
import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]

LONGEST = 4000
"""Characters of a reason: a compiler's message is kept, its dump of a program is in the log."""


@dataclass(frozen=True)
class Context:
    """What a part is told besides what it is given."""

    rehearse: bool
    """Tiny sizes, on whatever there is."""
    out: Path
    limit: float
    """Seconds until it is killed."""
    data: str | None
    """Images to train on."""
    earlier: list[str]
    """Folders of earlier visits' results, the newest last."""
    ceilings: dict[str, float]
    """What the card attains: TFLOP/s by dtype, and `copy` in TB/s; as far as it was measured."""


def rows(request: dict[str, Any]) -> Iterator[Row]:
    """The rows of one part; raises where it needs a GPU and there is none."""
    context = Context(**request["context"] | {"out": Path(request["context"]["out"])})
    if not context.rehearse:
        import jax

        if jax.default_backend() != "gpu":
            raise RuntimeError(
                f"no GPU: jax found {jax.devices()}; install jax[cuda13], or see what it says in the log"
            )
    module, _, function = request["rows"].partition(":")
    made = getattr(importlib.import_module(module), function)
    yield from made(context, **request["given"])


def reason(error: BaseException) -> str:
    """What went wrong, with the compiler's message in full."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text}"[:LONGEST] if text else type(error).__name__


def usable() -> bool:
    """Whether the device still works: after a fault in a kernel nothing in the same process does."""
    if "jax" not in sys.modules:
        return True
    import jax

    try:
        jax.clear_caches()
        gc.collect()  # what one part leaves behind, the next one would have to do without
        jax.block_until_ready(jax.numpy.zeros(1) + 1)
    except Exception:
        return False
    return True


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever anyone prints belongs to the log
    for line in sys.stdin:
        try:
            for row in rows(json.loads(line)):
                answers.write(json.dumps({"row": row}) + "\n")
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            sys.stderr.flush()
            failure = reason(error)
        else:
            failure = None
        if not (works := usable()):
            failure = f"{failure or 'done, but'}: the device cannot be used any more"
        answers.write(json.dumps({"done": True} if failure is None else {"failed": failure}) + "\n")
        if not works:
            sys.exit("the next part has a process of its own")


if __name__ == "__main__":
    main()
