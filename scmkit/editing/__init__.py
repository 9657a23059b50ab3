"""Latents and zero-shot editing: encoding along the PF-ODE, interpolation, inpainting and its kin."""

from scmkit.editing.latents import decode as decode
from scmkit.editing.latents import decode_at_once as decode_at_once
from scmkit.editing.latents import encode as encode
from scmkit.editing.latents import interpolate as interpolate
from scmkit.editing.projections import BlockMeans as BlockMeans
from scmkit.editing.projections import Luminance as Luminance
from scmkit.editing.projections import Pixels as Pixels
from scmkit.editing.projections import Projection as Projection
from scmkit.editing.projections import nothing as nothing
from scmkit.editing.samples import edit_samples as edit_samples
from scmkit.editing.samples import interpolate_samples as interpolate_samples
from scmkit.editing.zero_shot import edit as edit
from scmkit.editing.zero_shot import edit_times as edit_times
