"""The error to the teacher's map, against models whose maps are known."""

import sys
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from exact import exact_model
from scmkit_plugins.processes.edm import VarianceExploding
from scmkit_plugins.processes.flow_matching import RectifiedFlow
from scmkit_plugins.processes.trigflow import TrigFlowProcess

from scmkit import Run, compose
from scmkit.data import ArrayDataset
from scmkit.errors import UsageError
from scmkit.evaluation import map_error

TRIGFLOW = TrigFlowProcess(0.5)


def run_of(model, makes="consistency", data="digits"):
    """A run, without a directory, of a model that was not trained."""
    run = Run(Path("run"), replace(compose(["trigflow", "diffusion"], data=data), makes=makes))
    run.__dict__["model"] = model
    return run


def teacher_of(data="digits"):
    return run_of(exact_model(TRIGFLOW), "diffusion", data)


@pytest.mark.parametrize("process", [TRIGFLOW, RectifiedFlow(), VarianceExploding()])
def test_an_exact_student_is_on_its_teachers_map_whatever_the_processes(process):
    student = run_of(exact_model(process, consistency=True))
    found = map_error(student, teacher_of(), samples=32)
    assert list(found)[1:] == [1.1, 0.4]
    # The solver's tolerance, and the paths' last bit, which the denoiser leaps over.
    assert max(found.values()) < 2e-5


def test_a_student_off_by_a_factor_is_off_by_its_share_of_the_samples():
    """`f = s' / s` times the map: of pure noise it is off by the standard deviation `s' - s`."""
    student = run_of(exact_model(TRIGFLOW, s=0.25, consistency=True))
    found = map_error(student, teacher_of(), samples=400, angles=())
    [(angle, error)] = found.items()
    assert angle == pytest.approx(np.arctan(80 / 0.5))
    assert error == pytest.approx(0.05, rel=0.02)  # 25600 normal numbers


def test_what_it_cannot_compare_is_said():
    student = run_of(exact_model(TRIGFLOW, consistency=True))
    with pytest.raises(UsageError, match="'run' has no teacher"):
        map_error(student)
    with pytest.raises(UsageError, match="take a teacher of the same data"):
        map_error(student, teacher_of("gmm"))
    x = np.zeros((9, 1, 8, 8), np.float32)
    with pytest.MonkeyPatch.context() as patch:
        module = sys.modules[map_error.__module__]  # By its name the function would be found.
        patch.setattr(module, "dataset_of", lambda recipe: ArrayDataset(x, x[:0]))
        with pytest.raises(UsageError, match="data 'digits' has no test split"):
            map_error(student, teacher_of())
    for angle in (0.0, 1.6, jnp.nan):
        with pytest.raises(UsageError, match="give radians between"):
            map_error(student, teacher_of(), angles=(angle,))
