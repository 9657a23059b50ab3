"""Weight files of strangers as named arrays. Nothing in a file is ever executed."""

from scmkit.weights.damage import listed as listed
from scmkit.weights.file import WeightFile as WeightFile
from scmkit.weights.file import read_weights as read_weights
from scmkit.weights.matching import matching as matching
from scmkit.weights.matching import no_network as no_network
from scmkit.weights.packaged import named_digest as named_digest
from scmkit.weights.packaged import packaged as packaged
from scmkit.weights.safetensors_file import write_safetensors as write_safetensors
