"""The parts that losses are made of: paths, kernels, weights and generators, each on one sample."""

from scmkit.losses.derivatives import Derivative as Derivative
from scmkit.losses.derivatives import derivative_along as derivative_along
from scmkit.losses.eulerian import EulerianTerms as EulerianTerms
from scmkit.losses.eulerian import eulerian as eulerian
from scmkit.losses.eulerian import network_gain as network_gain
from scmkit.losses.eulerian import velocity_gain as velocity_gain
from scmkit.losses.generators import frozen as frozen
from scmkit.losses.generators import generated as generated
from scmkit.losses.generators import rollout as rollout
from scmkit.losses.generators import surrogate as surrogate
from scmkit.losses.lagrangian import lagrangian as lagrangian
from scmkit.losses.paths import arrived as arrived
from scmkit.losses.paths import ddim as ddim
from scmkit.losses.paths import heun as heun
from scmkit.losses.paths import inv_ddim as inv_ddim
from scmkit.losses.paths import noised as noised
from scmkit.losses.weights import LogWeight as LogWeight
from scmkit.losses.weights import Normalization as Normalization
from scmkit.losses.weights import adaptive as adaptive
from scmkit.losses.weights import bound as bound
