"""Random networks that mix the operators whose cuts are exact, drawn as a list of steps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

STEPS = (
    "conv",
    "grouped",
    "depthwise",
    "residual",
    "concat",
    "twice",
    "chunk",
    "split",
    "shuffle",
    "gate",
    "transposed",
    "prelu",
    "pixel_shuffle",
    "scale",
    "pool",
)


class Step(nn.Module):
    """One step on ``channels`` channels (a multiple of 4); ``out`` says how many it gives."""

    def __init__(self, kind: str, channels: int, width: int) -> None:
        super().__init__()
        self.kind, self.out = kind, channels
        build = getattr(self, f"_{kind}", None)
        if build is not None:
            build(channels, width)

    def _conv(self, c: int, w: int) -> None:
        self.a, self.norm, self.out = nn.Conv2d(c, w, 3, padding=1), nn.BatchNorm2d(w), w

    def _grouped(self, c: int, w: int) -> None:
        self.a, self.out = nn.Conv2d(c, w, 3, padding=1, groups=2), w

    def _depthwise(self, c: int, w: int) -> None:
        self.a, self.out = nn.Conv2d(c, 2 * c, 3, padding=1, groups=c), 2 * c

    def _residual(self, c: int, w: int) -> None:
        self.a, self.b = nn.Conv2d(c, w, 1), nn.Conv2d(w, c, 3, padding=1)

    def _concat(self, c: int, w: int) -> None:
        self.a, self.out = nn.Conv2d(c, w, 1), c + w

    def _twice(self, c: int, w: int) -> None:
        self.out = 2 * c

    def _chunk(self, c: int, w: int) -> None:
        self.a, self.b = nn.Conv2d(c // 2, w, 1), nn.Conv2d(c // 2, w, 3, padding=1)
        self.out = w

    def _gate(self, c: int, w: int) -> None:
        self.a, self.b = nn.Linear(c, w), nn.Linear(w, c)

    def _transposed(self, c: int, w: int) -> None:
        self.a, self.out = nn.ConvTranspose2d(c, w, 2, stride=2), w

    def _prelu(self, c: int, w: int) -> None:
        self.a = nn.PReLU(c)

    def _pixel_shuffle(self, c: int, w: int) -> None:
        self.a, self.out = nn.Conv2d(c, 4 * w, 1), w

    def _scale(self, c: int, w: int) -> None:
        self.gamma = nn.Parameter(torch.randn(c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, f"run_{self.kind}", self._plain)(x)

    def _plain(self, x: Tensor) -> Tensor:
        return self.a(x)

    def run_conv(self, x: Tensor) -> Tensor:
        return F.relu_(self.norm(self.a(x)))

    def run_residual(self, x: Tensor) -> Tensor:
        return x + self.b(F.silu(self.a(x)))

    def run_concat(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.a(x)], 1)

    def run_twice(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.tanh(x)], 1)

    def run_chunk(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, 1)
        return self.a(first) * self.b(second)

    def run_split(self, x: Tensor) -> Tensor:
        first, second = x.split(x.shape[1] // 2, 1)
        return torch.cat([F.relu(second), first], 1)

    def run_shuffle(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)

    def run_gate(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.b(F.relu(self.a(x.mean((2, 3))))))
        return x * gate[:, :, None, None]

    def run_pixel_shuffle(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.a(x), 2)

    def run_scale(self, x: Tensor) -> Tensor:
        return x * self.gamma

    def run_pool(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 3, 1, 1)


class RandomNet(nn.Module):
    """stem, steps, and a linear layer on the flattened or averaged features."""

    def __init__(self, kinds: list[tuple[str, int]], flatten: bool) -> None:
        super().__init__()
        self.flatten, self.stem = flatten, nn.Conv2d(3, 8, 3, padding=1)
        channels, steps = 8, []
        for kind, width in kinds:
            if channels > 64 and kind in ("twice", "depthwise"):
                continue
            steps.append(Step(kind, channels, width))
            channels = steps[-1].out
        self.steps = nn.Sequential(*steps)
        self.head = nn.Linear(channels * (4 if flatten else 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.steps(self.stem(x)), 2)
        return self.head(x.flatten(1) if self.flatten else x.mean((2, 3)))


@st.composite
def networks(draw: st.DrawFn) -> RandomNet:
    """Draw a network of one to five steps with random weights and statistics."""
    step = st.tuples(st.sampled_from(STEPS), st.sampled_from([4, 8, 12]))
    kinds = draw(st.lists(step, min_size=1, max_size=5))
    torch.manual_seed(draw(st.integers(0, 1000)))
    model = RandomNet(kinds, draw(st.booleans())).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model
