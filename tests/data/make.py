"""Makes the weight files beside this script, with real PyTorch and NVIDIA's own classes.

    python make.py CHECKOUT    # of NVlabs/edm2, in an environment with torch and what edm2 imports

Modules are pickled as edm2's training loop does. Where a pickle would hold edm2's source, for others to
execute, it holds a line that ends the process: whoever runs it is found out.
"""

import pickle
import sys
from pathlib import Path

HERE = Path(__file__).parent
TRAP = "raise SystemExit('code in a weight file was executed')"


def tensors(torch):
    """Tensors that are not plain: of every dtype, transposed, shared, sliced, empty, a scalar."""
    shared = torch.arange(24, dtype=torch.float32)
    return {
        "half": torch.arange(6).half().reshape(2, 3),
        "bfloat16": torch.arange(6).bfloat16() / 4,
        "double": torch.arange(3).double() / 3,
        "int64": torch.arange(4),
        "bool": torch.tensor([True, False]),
        "transposed": torch.arange(6.0).reshape(2, 3).t(),
        "shared.whole": shared,
        "shared.part": shared[4:16].reshape(3, 4)[:, 1:3],
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.arange(4.0)),
    }


def main():
    sys.path.insert(0, sys.argv[1])
    import dnnlib
    import torch
    from torch_utils import persistence

    def trapped(module):
        persistence._src_to_module_dict[TRAP] = module
        return TRAP

    persistence._module_to_src = trapped
    torch.save({"ema": tensors(torch), "step": 3}, HERE / "odd.pt")
    torch.save(tensors(torch), HERE / "odd.old.pt", _use_new_zipfile_serialization=False)
    torch.manual_seed(0)
    net = dnnlib.util.construct_class_by_name(
        class_name="training.networks_edm2.Precond",
        img_resolution=8,
        img_channels=3,
        label_dim=5,
        model_channels=4,
        channels_per_head=4,
        channel_mult=[1, 2],
        num_blocks=1,
    )
    from training.encoders import StandardRGBEncoder
    from training.training_loop import EDM2Loss

    data = dnnlib.EasyDict(
        encoder=StandardRGBEncoder(),
        dataset_kwargs=dnnlib.EasyDict(class_name="none", use_labels=True),
        loss_fn=EDM2Loss(),
    )
    data.ema = net.eval().requires_grad_(False).to(torch.float16)
    with (HERE / "edm2.pkl").open("wb") as file:
        pickle.dump(dict(data), file)


if __name__ == "__main__":
    main()
