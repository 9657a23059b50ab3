"""Likelihood of diffusion models: log densities along the PF-ODE, and bits per dimension."""

from scmkit.evaluation.likelihood.bits import BitsPerDimension as BitsPerDimension
from scmkit.evaluation.likelihood.bits import bits_of_samples as bits_of_samples
from scmkit.evaluation.likelihood.bits import bits_per_dimension as bits_per_dimension
from scmkit.evaluation.likelihood.density import LogLikelihood as LogLikelihood
from scmkit.evaluation.likelihood.density import log_likelihood as log_likelihood
