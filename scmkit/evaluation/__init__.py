"""Evaluation: a run's samples against real data, beside what other real data scores."""

from scmkit.evaluation.evaluating import RESAMPLES as RESAMPLES
from scmkit.evaluation.evaluating import SEEDS as SEEDS
from scmkit.evaluation.evaluating import evaluate as evaluate
from scmkit.evaluation.map_error import map_error as map_error
from scmkit.evaluation.rows import GAUSSIAN as GAUSSIAN
from scmkit.evaluation.rows import LEAVE_ONE_OUT as LEAVE_ONE_OUT
from scmkit.evaluation.rows import REAL as REAL
from scmkit.evaluation.rows import Row as Row
from scmkit.evaluation.rows import remarks as remarks
from scmkit.evaluation.spaces import DATA as DATA
from scmkit.evaluation.usual import CLASSIFIER as CLASSIFIER
from scmkit.evaluation.usual import reason as reason
from scmkit.evaluation.usual import usual_features as usual_features
