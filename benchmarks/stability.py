"""Does the sCM paper's Figure 4 reproduce: which formulations and embeddings keep df/dt small?

Trains a diffusion model for each of TrigFlow and EDM with positional, Fourier 0.02 and Fourier 16
embeddings on handwritten digits, then runs `scmkit diagnose` over all six:

    python benchmarks/stability.py --out docs/images/stability.png
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from common import write

EMBEDDINGS = {
    "positional": ["positional"],
    "fourier-0.02": ["fourier", "--set", "fourier.scale=0.02"],
    "fourier-16": ["fourier", "--set", "fourier.scale=16"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("stability.png"))
    parser.add_argument("--results", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/stability"))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--norm", default="adaptive-double-norm")
    given = parser.parse_args()
    scmkit = [str(Path(sys.executable).with_name("scmkit"))]
    runs = []
    for process in ("trigflow", "edm"):
        for name, embedding in EMBEDDINGS.items():
            path = given.runs / f"{process}, {name}".replace(", ", "_")
            runs.append(path)
            if (path / "recipe.json").exists():
                continue
            command = [*scmkit, "train", "-p", process, "-p", "diffusion", "-p", given.norm]
            command += ["-p", *embedding, "--steps", str(given.steps)]
            command += ["--out", str(given.runs), "--name", path.name]
            subprocess.run(command, check=True)
    subprocess.run([*scmkit, "diagnose", *map(str, runs), "--out", str(given.out)], check=True)
    curves = json.loads(given.out.with_suffix(".json").read_text())
    rows = [
        {
            "run": Path(run).name,
            "space_largest": max(c["space"]),
            "time_largest": max(c["time"]),
            "time_last": c["time"][-1],
        }
        for run, c in curves.items()
    ]
    for row in rows:
        print("  ".join(f"{v:.3g}" if isinstance(v, float) else f"{v:<24}" for v in row.values()))
    write(given.results, rows)


if __name__ == "__main__":
    main()
