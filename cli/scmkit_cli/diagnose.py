"""`scmkit diagnose`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from scmkit.bounds import LAST_SEED
from scmkit.errors import ScmkitError, UsageError
from scmkit_cli.terminal import say


def diagnose(
    runs: Annotated[list[Path], typer.Argument(help="Runs to compare.", metavar="RUN...")],
    out: Annotated[Path, typer.Option(help="A .png; the numbers go beside it, as .json.")] = Path(
        "stability.png"
    ),
    points: Annotated[int, typer.Option(min=2, help="Noise levels.")] = 64,
    samples: Annotated[int, typer.Option(min=1, help="Training samples to average over.")] = 256,
    seed: Annotated[int, typer.Option(min=0, max=LAST_SEED, help="Seed of samples and noise.")] = 0,
) -> None:
    """Draw how large the two parts of df/dt are along the noise levels.

    Consistency training is stable where both stay small up to the last noise level (sCM paper, Figure
    4): large Fourier scales and logarithmic noise labels make them grow. Of a run with a teacher, also
    how far its map is from where the teacher's PF-ODE leads: RMS, from pure noise and from two angles.
    """
    if out.suffix != ".png":
        raise UsageError(f"--out {out}: use a name that ends in .png")
    try:
        import matplotlib as mpl
    except ImportError:
        raise UsageError("diagnose draws with matplotlib: pip install 'scmkit[plots]'") from None

    from dataclasses import asdict

    from scmkit import Run
    from scmkit.evaluation import map_error
    from scmkit.evaluation.diagnosis import tangent_norms
    from scmkit.storage.containment import to_json
    from scmkit.storage.files import write_text

    mpl.use("agg")
    results: dict[str, Any] = {}
    for path in runs:
        say(f"{path} ...", err=True)
        run = Run.load(path)
        norms = tangent_norms(run, points=points, samples=samples, seed=seed)
        results[str(path)] = {k: v.astype(float).tolist() for k, v in asdict(norms).items()}
        for part in ("space", "time", "total"):
            values = results[str(path)][part]
            say(f"  {part:<6} largest {max(values):.3g}, last {values[-1]:.3g}", err=True)
        if run.teacher is not None and run.recipe.makes in ("consistency", "flow-map"):
            try:
                errors = map_error(run, samples=samples, seed=seed)
            except ScmkitError as error:  # Of the teacher, as where it was moved.
                say(f"  error to the teacher's map: not measured: {error}", err=True)
                continue
            results[str(path)]["map_error"] = {f"{a:.3g}": e for a, e in errors.items()}
            listed = ", ".join(f"{error:.3g} from {angle:.3g}" for angle, error in errors.items())
            say(f"  error to the teacher's map: {listed}", err=True)
    _draw(out, results)
    write_text(out.with_suffix(".json"), to_json(results, indent=1) + "\n")
    say(str(out))


def _draw(out: Path, results: dict[str, Any]) -> None:
    import io

    from matplotlib import pyplot as plt

    from scmkit.storage.files import write_bytes

    figure, axes = plt.subplots(
        1, 2, figsize=(10, 4), sharex=True, sharey=True, layout="constrained"
    )
    parts = {"space": r"$\|\nabla_x f \cdot dx/dt\|$", "time": r"$\|\partial_t f\|$"}
    for axis, (part, title) in zip(axes, parts.items(), strict=True):
        for name, curves in results.items():
            axis.plot(curves["angle"], curves[part], label=Path(name).name, linewidth=1.5)
        axis.set(title=title, xlabel="t, TrigFlow's angle in radians", yscale="log")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("RMS over the sample")
    axes[0].legend(fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    plt.close(figure)
    write_bytes(out, buffer.getvalue())
