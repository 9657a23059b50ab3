"""Makes the files beside this one, with real PyTorch and NVIDIA's own classes.

    python make.py EDM2 EDM    # checkouts of github.com/NVlabs/edm2 and NVlabs/edm

Needs torch, numpy, and what those import. Modules are pickled as the training loops there do it. Where a
pickle would hold the source of their classes, for others to execute, it holds a line that ends the process.
Every number follows from the name of its parameter (`fill`), so that tests can recompute it.
"""

import json
import pickle
import subprocess
import sys
import zlib
from pathlib import Path

HERE = Path(__file__).parent
TRAP = "raise SystemExit('code in a weight file was executed')"


def fill(torch, name, tensor):
    """Multiples of 1/64 below 2 in size, which every floating type holds exactly."""
    n = torch.arange(tensor.numel()).reshape(tensor.shape)
    values = (7 * n + zlib.crc32(name.encode())) % 251 - 125
    tensor.copy_(values / 64 if tensor.is_floating_point() else values)
    return tensor


def filled(torch, net):
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            fill(torch, name, tensor)
    return net.eval().requires_grad_(False)


def described(tensors):
    return {n: [str(t.dtype).removeprefix("torch."), list(t.shape)] for n, t in tensors.items()}


def modules(checkout):
    """Imports the checkout's `training.networks`, with the trap for its source."""
    sys.path.insert(0, checkout)
    from torch_utils import persistence

    def trapped(module):
        persistence._src_to_module_dict[TRAP] = module
        return TRAP

    persistence._module_to_src = trapped


def edm2(checkout):
    """`network-snapshot-*.pkl` of edm2: an averaged network in float16, its encoder and its loss."""
    modules(checkout)
    import dnnlib
    import torch
    from training.encoders import StabilityVAEEncoder
    from training.networks_edm2 import Precond
    from training.training_loop import EDM2Loss

    net = Precond(
        img_resolution=4,
        img_channels=1,
        label_dim=2,
        use_fp16=True,
        sigma_data=0.5,
        logvar_channels=6,
        model_channels=4,
        channel_mult=[1],
        num_blocks=1,
        channels_per_head=2,
    )
    data = dnnlib.EasyDict(
        encoder=StabilityVAEEncoder(), dataset_kwargs=dnnlib.EasyDict(), loss_fn=EDM2Loss()
    )
    data.ema = filled(torch, net.to(torch.float16))
    with (HERE / "edm2.pkl").open("wb") as file:
        pickle.dump(data, file)
    return {"edm2.pkl": described(data.ema.state_dict())}


def edm(checkout):
    """`network-snapshot-*.pkl` and `training-state-*.pt` of edm."""
    modules(checkout)
    import torch
    from training.augment import AugmentPipe
    from training.loss import EDMLoss
    from training.networks import EDMPrecond

    net = EDMPrecond(
        img_resolution=4,
        img_channels=1,
        model_type="SongUNet",
        model_channels=4,
        channel_mult=[1],
        channel_mult_emb=1,
        num_blocks=0,
        attn_resolutions=[],
    )
    filled(torch, net)
    data = dict(ema=net, loss_fn=EDMLoss(), augment_pipe=AugmentPipe(p=0.1), dataset_kwargs={})
    with (HERE / "edm.pkl").open("wb") as file:
        pickle.dump(data, file)
    optimizer = torch.optim.Adam(net.parameters()).state_dict()
    torch.save(dict(net=net, optimizer_state=optimizer), HERE / "edm-state.pt")
    return {"edm.pkl": described(net.state_dict())}


def tensors(_):
    """State dicts in both formats of `torch.save`, with tensors of every type and layout."""
    import numpy as np
    import torch

    def new(name, *shape, dtype=torch.float32):
        return fill(torch, name, torch.zeros(shape, dtype=dtype))

    kinds = ["float32", "float64", "float16", "bfloat16", "int64"]
    kinds += ["int32", "int16", "int8", "uint8", "bool"]
    shared = new("shared", 24)
    arrays = {kind: new(kind, 2, 3, dtype=getattr(torch, kind)) for kind in kinds}
    arrays |= {
        "scalar": new("scalar"),
        "empty": new("empty", 0, 3),
        "parameter": torch.nn.Parameter(new("parameter", 4)),
        "transposed": fill(torch, "transposed", torch.zeros(3, 2).t()),
        "channels_last": fill(
            torch, "channels_last", torch.zeros(2, 3, 2, 2).to(memory_format=torch.channels_last)
        ),
        "shared": shared,
        "shared.part": shared[4:16].reshape(3, 4)[:, 1:3],
        "shared.tied": shared,
    }
    checkpoint = {
        "step": 3,
        "loss": np.float64(0.5),
        "ema": {f"ema.{n}": t for n, t in arrays.items() if n.startswith("float")},
        "state_dict": arrays,
    }
    for name, plain in (("tensors.pt", True), ("tensors.old.pt", False)):
        torch.save(checkpoint, HERE / name, _use_new_zipfile_serialization=plain)
    return {"tensors.pt": described(arrays)}


def main():
    if sys.argv[1] in ("edm2", "edm", "tensors"):
        sys.stdout.write(json.dumps(globals()[sys.argv[1]](sys.argv[2])))
        return
    found = {}
    # Each in a process of its own, as both checkouts call their packages the same.
    for what, checkout in (("edm2", sys.argv[1]), ("edm", sys.argv[2]), ("tensors", "")):
        command = [sys.executable, __file__, what, checkout]
        found |= json.loads(subprocess.run(command, check=True, stdout=-1).stdout.splitlines()[-1])
    rows = ",\n".join(f' "{name}": {json.dumps(held)}' for name, held in sorted(found.items()))
    (HERE / "names.json").write_text(f"{{\n{rows}\n}}\n")


if __name__ == "__main__":
    main()
