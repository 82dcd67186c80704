"""Shared by all tests: one thread, and a torchvision that imports beside a CPU build of torch."""

from __future__ import annotations

import torch
from hypothesis import settings

torch.set_num_threads(1)

# Time limits per example say more about the machine's load than about the code.
settings.register_profile("lissom", deadline=None)
settings.load_profile("lissom")

# torchvision's compiled operators are missing beside a CPU build of torch, and importing it looks
# these two up. The library object must stay alive as long as the definitions are used.
_TORCHVISION = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _name):
        _TORCHVISION.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
