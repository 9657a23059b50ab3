"""The peer of `cpu_peers.py` in PyTorch: a diffusion transformer as its users write one.

Run by cpu_peers.py with any Python that has torch. One fused projection to queries, keys and values,
`scaled_dot_product_attention`, adaLN-Zero, Adam and an average of the weights over all tensors at once
(`foreach`).
"""

import argparse
import importlib
import itertools
import math
from collections.abc import Callable
from typing import Any

from turns import serve

torch = importlib.import_module("torch")
nn, F = torch.nn, torch.nn.functional

SIDE, PATCH, WIDTH, DEPTH, HEADS = 28, 2, 256, 6, 4
TOKENS, VALUES = (SIDE // PATCH) ** 2, PATCH**2


class Block(nn.Module):
    """Attention and a perceptron, both normalized, modulated and gated by the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = (
            nn.LayerNorm(WIDTH, elementwise_affine=False, eps=1e-6) for _ in range(2)
        )
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.modulation = nn.Linear(WIDTH, 6 * WIDTH)

    def forward(self, h: Any, emb: Any) -> Any:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(emb)[:, None].chunk(6, -1)
        b, n, c = h.shape
        qkv = self.qkv(self.norm1(h) * (1 + scale1) + shift1).view(b, n, 3, HEADS, c // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)
        h = h + gate1 * self.out(a)
        m = F.gelu(self.up(self.norm2(h) * (1 + scale2) + shift2), approximate="tanh")
        return h + gate2 * self.down(m)


class DiT(nn.Module):
    """Patches as tokens; time by sines and cosines through a perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(VALUES, WIDTH), nn.Linear(WIDTH, VALUES)
        self.places = nn.Parameter(torch.randn(TOKENS, WIDTH) * 0.02, requires_grad=False)
        self.time = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Linear(WIDTH, 2 * WIDTH)
        self.register_buffer("rates", torch.exp(torch.linspace(0, -math.log(1e4), WIDTH // 2)))

    def forward(self, x: Any, t: Any) -> Any:
        b, p, g = len(x), PATCH, SIDE // PATCH
        h = x.view(b, g, p, g, p).transpose(2, 3).reshape(b, TOKENS, VALUES)
        h = self.first(h) + self.places
        angles = t[:, None] * self.rates
        emb = F.silu(self.time(torch.cat([angles.sin(), angles.cos()], -1)))
        for block in self.blocks:
            h = block(h, emb)
        shift, scale = self.modulation(emb)[:, None].chunk(2, -1)
        h = self.last(self.norm(h) * (1 + scale) + shift).view(b, g, g, p, p)
        return h.transpose(2, 3).reshape(b, 1, SIDE, SIDE)


def training(batch: int) -> Callable[[], None]:
    """A TrigFlow diffusion step with Adam, clipping and an average of the weights."""
    model = DiT()
    weights = [p for p in model.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in weights]
    adam = torch.optim.Adam(weights, lr=1e-3, betas=(0.9, 0.99), foreach=True)
    x0 = torch.rand(batch, 1, SIDE, SIDE) - 0.5

    def step() -> None:
        noise, t = torch.randn_like(x0), torch.atan(torch.exp(torch.randn(batch) * 1.4 - 0.8))
        c, s = t.cos().view(-1, 1, 1, 1), t.sin().view(-1, 1, 1, 1)
        loss = F.mse_loss(model(c * x0 + s * noise, t), c * noise - s * x0)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0, foreach=True)
        adam.step()
        adam.zero_grad(set_to_none=True)
        torch._foreach_lerp_(average, [p.detach() for p in weights], 0.01)
        assert math.isfinite(loss.item())

    return step


def sampling(batch: int, steps: int) -> Callable[[], None]:
    """DDIM of TrigFlow in a Python loop."""
    model = DiT()
    times = [math.pi / 2 * (1 - i / steps) for i in range(steps + 1)]

    @torch.inference_mode()
    def sample() -> None:
        x = torch.randn(batch, 1, SIDE, SIDE)
        for t, s in itertools.pairwise(times):
            x = math.cos(t - s) * x - math.sin(t - s) * model(x, torch.full((batch,), t))

    return sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--sample", type=int, help="number of steps; without it, train")
    args = parser.parse_args()
    torch.set_num_threads(1)
    serve(sampling(args.batch, args.sample) if args.sample else training(args.batch))


if __name__ == "__main__":
    main()
