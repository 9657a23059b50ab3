"""Weight files of other people, read without running anything in them."""

from scmkit.weights.file import WeightFile as WeightFile
from scmkit.weights.file import read_weights as read_weights
from scmkit.weights.safetensors_file import write_safetensors as write_safetensors
