"""Training: state, step, loop, optimizer, EMA, checkpoints and runs."""

from scmkit.runs.run import Run as Run
from scmkit.training.pipeline import resume as resume
from scmkit.training.pipeline import train as train
from scmkit.training.preview import picture as picture
from scmkit.training.preview import preview_path as preview_path
