"""Data: the store on disk, data sets in memory, the loader, and densities known in closed form."""

from scmkit.data.arrays import ArrayDataset as ArrayDataset
from scmkit.data.digest import digest_of as digest_of
from scmkit.data.load import spec_of as spec_of
from scmkit.data.loader import Loader as Loader
from scmkit.data.mixture import Mixture as Mixture
from scmkit.data.readers import import_data as import_data
from scmkit.data.store import Store as Store
from scmkit.data.writer import StoreWriter as StoreWriter
