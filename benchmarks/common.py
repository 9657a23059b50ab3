"""What every benchmark writes beside its figures."""

import json
import sys
from pathlib import Path
from typing import Any

from scmkit.composing.environment import environment


def write(out: Path | None, results: Any) -> None:
    """Write `results` with the environment as JSON, if a file was asked for."""
    if out is not None:
        command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(
            json.dumps({"environment": environment(command), "results": results}, indent=2) + "\n"
        )
        print(f"wrote {out}")
