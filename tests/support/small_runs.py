"""Training runs of seconds, and what tests of them compare."""

from scmkit import compose, train
from scmkit.runs import checkpoint

SMALL = {
    "mlp.width": 16,
    "mlp.depth": 1,
    "mlp.embedding_dim": 8,
    "positional.channels": 8,
    "train.batch_size": 16,
    "train.log_every": 4,
    "train.checkpoint_every": 8,
    "train.sample_every": 12,
    "train.lr": 1e-3,
}


class Reporter:
    """Notes what training says, and can pull a trigger at some step of some run."""

    def __init__(self, at=None, do=None):
        self.messages, self.names, self.lines, self.at, self.do = [], [], [], at, do

    def message(self, text):
        self.messages.append(text)
        if self.at is None and self.do is not None:
            self.do()

    def start(self, name, step, steps):
        self.names.append((name, step, steps))

    def advance(self, step, line):
        if line is not None:
            self.lines.append(line)
        if self.at == (self.names[-1][0], step) and self.do is not None:
            self.do()

    def stop(self):
        pass


def recipe(*plugins, data="gmm", teacher=None, **settings):
    if "diffusion" in plugins:
        plugins = (*plugins, "ddim")  # Which is compiled sooner than an ODE solver.
    given = SMALL | {"train.steps": 24} | settings
    if data != "gmm":
        given = {k: v for k, v in given.items() if not k.startswith("gmm.")}
    return compose(plugins, given, data=data, teacher=teacher)


def go(recipe, path, reporter=None):
    return train(recipe, out=path.parent, name=path.name, reporter=reporter or Reporter())


def state_bytes(run):
    """Every byte of the newest checkpoint's arrays."""
    latest = checkpoint.latest(run.checkpoints)
    files = sorted(p for p in (latest / "arrays").rglob("*") if p.is_file())
    return {str(p.relative_to(latest)): p.read_bytes() for p in files}


def without_clock(run):
    return [{k: v for k, v in line.items() if k != "steps_per_second"} for line in run.metrics]
