"""What would sCD of EDM2's sizes and of DiT-XL/2 take on H100s? The figures of docs/plans.md.

    python benchmarks/plans.py --out benchmarks/results/plans.json [--only edm2-xxl]

Each plan is a command of its own. With `--only` those whose names begin so are planned anew, the others kept.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import write

EDM2 = ("examples/edm2_scd.toml", "--shape", "4,64,64", "--classes", "1000")
DIT = ("examples/dit_scd.toml", "--shape", "4,32,32", "--classes", "1000")


def commands() -> dict[str, tuple[str, ...]]:
    """The arguments of `scmkit plan` by the name of the plan."""
    found = {}
    for preset in ("xxl", "s", "xl", "m", "l"):
        size = (*EDM2, "--set", f"edm2.preset={preset}", "--devices", "256")
        found[f"edm2-{preset} data=32,fsdp=8"] = (*size, "--mesh", "data=32,fsdp=8")
    found["dit-xl data=32,fsdp=8"] = (*DIT, "--devices", "256", "--mesh", "data=32,fsdp=8")
    found["dit-xl data=256"] = (*DIT, "--devices", "256")
    found["edm2-xxl data=256"] = (*EDM2, "--set", "edm2.preset=xxl", "--devices", "256")
    found["edm2-s data=256"] = (*EDM2, "--devices", "256")
    found["edm2-s on 8"] = (*EDM2, "--devices", "8")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    results: dict[str, Any] = {}
    if args.out is not None and args.out.exists():
        results = json.loads(args.out.read_text())["results"]
    for name, given in commands().items():
        if not name.startswith(args.only):
            continue
        print(name, flush=True)
        start = time.perf_counter()
        command = [sys.executable, "-c", "from scmkit_cli.main import main; main()", "plan", *given]
        done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
        plan = json.loads(done.stdout)
        seconds = time.perf_counter() - start
        results[name] = {"command": " ".join(["scmkit", "plan", *given]), "seconds": seconds} | plan
        write(args.out, results)
        low, high = plan["step_seconds"]
        print(f"  {seconds:.0f} s; a step {1000 * low:.1f} to {1000 * high:.1f} ms", flush=True)


if __name__ == "__main__":
    main()
