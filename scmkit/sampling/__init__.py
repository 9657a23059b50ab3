"""Sampling: solvers for every process, the PF-ODE, time grids, and drawing many samples."""

import importlib
from typing import TYPE_CHECKING, Any

from scmkit.sampling.batches import each_batch as each_batch
from scmkit.sampling.batches import in_batches as in_batches
from scmkit.sampling.denoising import Step as Step
from scmkit.sampling.denoising import ddim_step as ddim_step
from scmkit.sampling.denoising import denoised_at as denoised_at
from scmkit.sampling.denoising import descend as descend
from scmkit.sampling.denoising import posterior_step as posterior_step
from scmkit.sampling.denoising import reverse_diffusion_step as reverse_diffusion_step
from scmkit.sampling.descent import AbstractDescent as AbstractDescent
from scmkit.sampling.descent import Denoiser as Denoiser
from scmkit.sampling.drawing import conditioning as conditioning
from scmkit.sampling.drawing import draw as draw
from scmkit.sampling.drawing import draw_batches as draw_batches
from scmkit.sampling.drawing import prior as prior
from scmkit.sampling.drawing import sample as sample
from scmkit.sampling.drawing import steps_for as steps_for
from scmkit.sampling.drawing import with_guidance as with_guidance
from scmkit.sampling.grid import DescentOptions as DescentOptions
from scmkit.sampling.grid import Grid as Grid
from scmkit.sampling.grid import GridOptions as GridOptions
from scmkit.sampling.grid import StepCounts as StepCounts
from scmkit.sampling.grid import angle_of as angle_of
from scmkit.sampling.grid import ratio_on_grid as ratio_on_grid
from scmkit.sampling.grid import time_at_angle as time_at_angle
from scmkit.sampling.grid import time_grid as time_grid
from scmkit.sampling.pairs import times_of as times_of
from scmkit.sampling.pairs import write_pairs as write_pairs
from scmkit.sampling.picture import class_captions as class_captions
from scmkit.sampling.picture import class_columns as class_columns
from scmkit.sampling.picture import image_grid as image_grid
from scmkit.sampling.picture import save_png as save_png
from scmkit.sampling.picture import side_by_side as side_by_side
from scmkit.sampling.picture import vector_picture as vector_picture

if TYPE_CHECKING:
    from scmkit.sampling.angular import end_angles as end_angles
    from scmkit.sampling.angular import integrate as integrate
    from scmkit.sampling.pf_ode import at_end as at_end
    from scmkit.sampling.pf_ode import controller_called as controller_called
    from scmkit.sampling.pf_ode import evaluations as evaluations
    from scmkit.sampling.pf_ode import solve_pf_ode as solve_pf_ode
    from scmkit.sampling.pf_ode import solver_called as solver_called

# name -> module; resolved on first use, as the library of their solvers takes a third of all start-up.
_SOLVING = {
    "at_end": "scmkit.sampling.pf_ode",
    "controller_called": "scmkit.sampling.pf_ode",
    "end_angles": "scmkit.sampling.angular",
    "evaluations": "scmkit.sampling.pf_ode",
    "integrate": "scmkit.sampling.angular",
    "solve_pf_ode": "scmkit.sampling.pf_ode",
    "solver_called": "scmkit.sampling.pf_ode",
}


def __getattr__(name: str) -> Any:
    if name in _SOLVING:
        return getattr(importlib.import_module(_SOLVING[name]), name)
    raise AttributeError(f"module 'scmkit.sampling' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_SOLVING})
