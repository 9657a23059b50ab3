"""The abstract interfaces, one per file. They act on one sample; the caller vmaps."""

from scmkit.interfaces.attention import AbstractAttention as AbstractAttention
from scmkit.interfaces.constraint import AbstractConstrained as AbstractConstrained
from scmkit.interfaces.constraint import constrain as constrain
from scmkit.interfaces.dataset import AbstractDataset as AbstractDataset
from scmkit.interfaces.dataset import DataSpec as DataSpec
from scmkit.interfaces.dataset import Split as Split
from scmkit.interfaces.dataset import Statistics as Statistics
from scmkit.interfaces.density import AbstractDensity as AbstractDensity
from scmkit.interfaces.embedding import AbstractTimeEmbedding as AbstractTimeEmbedding
from scmkit.interfaces.loss import AbstractLoss as AbstractLoss
from scmkit.interfaces.loss import LossOutput as LossOutput
from scmkit.interfaces.metric import AbstractMetric as AbstractMetric
from scmkit.interfaces.metric import Evaluation as Evaluation
from scmkit.interfaces.network import AbstractNetwork as AbstractNetwork
from scmkit.interfaces.network import Conditioning as Conditioning
from scmkit.interfaces.noise import AbstractNoiseProcess as AbstractNoiseProcess
from scmkit.interfaces.norm import AbstractNorm as AbstractNorm
from scmkit.interfaces.norm import NormFactory as NormFactory
from scmkit.interfaces.parameterization import AbstractParameterization as AbstractParameterization
from scmkit.interfaces.parameterization import Coefficients as Coefficients
from scmkit.interfaces.proposal import AbstractProposal as AbstractProposal
from scmkit.interfaces.sampler import AbstractSampler as AbstractSampler
from scmkit.interfaces.sampler import SamplerOutput as SamplerOutput
from scmkit.interfaces.tangent import AbstractTangentEstimator as AbstractTangentEstimator
from scmkit.interfaces.tracker import AbstractTracker as AbstractTracker
