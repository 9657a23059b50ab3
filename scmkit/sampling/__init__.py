"""Sampling: the PF-ODE, time grids, and drawing many samples."""

from scmkit.sampling.drawing import conditioning as conditioning
from scmkit.sampling.drawing import draw as draw
from scmkit.sampling.drawing import draw_batches as draw_batches
from scmkit.sampling.drawing import prior as prior
from scmkit.sampling.drawing import sample as sample
from scmkit.sampling.drawing import with_guidance as with_guidance
from scmkit.sampling.grid import angle_grid as angle_grid
from scmkit.sampling.grid import angle_of as angle_of
from scmkit.sampling.grid import time_at_angle as time_at_angle
from scmkit.sampling.pf_ode import at_end as at_end
from scmkit.sampling.pf_ode import controller_called as controller_called
from scmkit.sampling.pf_ode import evaluations as evaluations
from scmkit.sampling.pf_ode import solve_pf_ode as solve_pf_ode
from scmkit.sampling.pf_ode import solver_called as solver_called
from scmkit.sampling.picture import image_grid as image_grid
from scmkit.sampling.picture import save_png as save_png
from scmkit.sampling.picture import side_by_side as side_by_side
from scmkit.sampling.picture import vector_picture as vector_picture
