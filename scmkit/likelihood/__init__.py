"""Likelihood of diffusion models: log densities along the PF-ODE, and bits per dimension."""

from scmkit.likelihood.bits import BitsPerDimension as BitsPerDimension
from scmkit.likelihood.bits import bits_of_samples as bits_of_samples
from scmkit.likelihood.bits import bits_per_dimension as bits_per_dimension
from scmkit.likelihood.density import LogLikelihood as LogLikelihood
from scmkit.likelihood.density import log_likelihood as log_likelihood
