"""The names that a pickle may use. Nothing is imported by them: they only tell what a value is."""

STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
    "ComplexFloatStorage": "<c8",
    "ComplexDoubleStorage": "<c16",
}
"""PyTorch's storages, and numpy's names for their elements."""

DICTS = frozenset({"collections.OrderedDict", "dnnlib.util.EasyDict", "dnnlib.EasyDict"})
"""Classes that are read as plain dicts."""

SETS = frozenset(
    f"{module}.{kind}" for module in ("builtins", "__builtin__") for kind in ("set", "frozenset")
)
"""Classes that are read as lists: nothing in a set is hashed."""

RECONSTRUCTOR = "copyreg._reconstructor"
PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
TENSORS = frozenset(
    {
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._tensor._rebuild_tensor",
    }
)
PARAMETERS = frozenset(
    {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}
)
FROM_BYTES = "torch.storage._load_from_bytes"
ENCODE = "_codecs.encode"
NO_BYTES = frozenset({"builtins.bytes", "__builtin__.bytes"})
"""The calls by which old protocols, which have no opcode for bytes, write some bytes and an empty string."""

CONTAINERS = frozenset(
    f"torch.nn.modules.container.{kind}"
    for kind in ("ModuleDict", "ModuleList", "Sequential", "ParameterDict", "ParameterList")
)
_CORES = ("numpy.core", "numpy._core")
NUMPY_ARRAYS = frozenset(f"{core}.multiarray._reconstruct" for core in _CORES)
NUMPY_SCALARS = frozenset(f"{core}.multiarray.scalar" for core in _CORES)
NUMPY_BUFFERS = frozenset(f"{core}.numeric._frombuffer" for core in _CORES)
NUMPY_DTYPE = "numpy.dtype"

_NUMBERS = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8")
ADMITTED = (
    DICTS
    | SETS
    | NO_BYTES
    | TENSORS
    | PARAMETERS
    | CONTAINERS
    | NUMPY_ARRAYS
    | NUMPY_SCALARS
    | NUMPY_BUFFERS
    | {f"torch.{storage}" for storage in STORAGES}
    | {f"torch.{number}" for number in (*_NUMBERS, "bfloat16", "bool")}
    | {f"numpy.{number}" for number in (*_NUMBERS, "bool_", "ndarray")}
    | {RECONSTRUCTOR, PERSISTENT, FROM_BYTES, ENCODE, NUMPY_DTYPE, "builtins.object"}
    | {"__builtin__.object", "torch.Size", "torch.device", "argparse.Namespace"}
)
"""All names that a weight file has reason to use."""

CLASSES = frozenset(
    # EDM2 (arXiv 2312.02696)
    {"Precond", "UNet", "Block", "MPConv", "MPFourier", "EDM2Loss"}
    | {"Encoder", "StandardRGBEncoder", "StabilityVAEEncoder"}
    # EDM (arXiv 2206.00364)
    | {"EDMPrecond", "VPPrecond", "VEPrecond", "iDDPMPrecond", "SongUNet", "DhariwalUNet"}
    | {"UNetBlock", "Conv2d", "Linear", "GroupNorm", "PositionalEmbedding", "FourierEmbedding"}
    | {"EDMLoss", "VPLoss", "VELoss", "AugmentPipe"}
)
"""The classes of NVIDIA's persistent objects. Their pickled source is never looked at."""
