"""The kinds of model that methods make, and what they start from."""

from typing import Literal

StartsFrom = Literal["teacher", "weights", "scratch"]
"""Whether training needs a pretrained diffusion model, takes no more than its weights, or neither."""

Makes = Literal["diffusion", "consistency", "flow-map", "generator"]
"""What kind of model a loss leaves behind: one with a velocity; a map to the end of the PF-ODE's path; a map
to every time of the path; or one that makes samples of noise, of which no more is known."""

WITH_VELOCITY: tuple[Makes, ...] = ("diffusion", "flow-map")
"""The kinds of model that have a velocity, which others can be taught."""
