"""Weight files of strangers as named arrays. Nothing in a file is ever executed."""

from scmkit.weights.damage import listed as listed
from scmkit.weights.file import WeightFile as WeightFile
from scmkit.weights.file import read_weights as read_weights
from scmkit.weights.safetensors_file import write_safetensors as write_safetensors
