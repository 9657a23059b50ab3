"""What does the pulse take of a process, and of its coordinator?

Processes join each other and then do nothing. Their CPU time is taken with the pulse at its pace, and with
one so slow that it does not beat: the difference is the pulse's.
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

from common import write

PROGRAM = """
import sys, time
from scmkit.distribution import pulse
from scmkit.distribution.joining import join
from scmkit.distribution.peers import Patience
from scmkit.distribution.processes import index
from scmkit.distribution.surroundings import place
join(place(), Patience(silence=float(sys.argv[1])))
time.sleep(2)
began, then = time.monotonic(), time.process_time()
time.sleep(float(sys.argv[2]))
share = (time.process_time() - then) / (time.monotonic() - began)
print(f"share {index()} {share}", file=sys.__stderr__, flush=True)
pulse.finish()
"""


def shares(processes: int, silence: float, seconds: float) -> list[float]:
    """The CPU seconds that each process takes a second."""
    command = [sys.executable, "-c", PROGRAM, str(silence), str(seconds)]
    code = (
        "import sys; from scmkit.distribution.launch import launch; "
        "sys.exit(launch(sys.argv[2:], int(sys.argv[1])))"
    )
    launched = [sys.executable, "-c", code, str(processes), *command]
    done = subprocess.run(launched, capture_output=True, text=True, check=True)
    told = [
        line.split("share ")[1].split() for line in done.stderr.splitlines() if "share " in line
    ]
    return [float(share) for _, share in sorted(told)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--silence", type=float, default=30)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    for processes in args.processes:
        gained = []
        for _ in range(args.rounds):
            still = shares(processes, 1e5, args.seconds)
            beating = shares(processes, args.silence, args.seconds)
            gained.append([b - s for b, s in zip(beating, still, strict=True)])
        first, others = (
            statistics.median(one[0] for one in gained),
            statistics.median(max(one[1:]) for one in gained),
        )
        rows.append({"processes": processes, "first": first, "others": others})
        print(f"{processes} processes: the first {first:.2%} of a core, the others {others:.2%}")
    write(args.out, {"silence": args.silence, "rows": rows})


if __name__ == "__main__":
    main()
