"""Writes resnet.json: outputs and gradients of torchvision's residual networks for weights that a rule gives.

    python resnet.py > resnet.json        (torch 2.15.0, torchvision 0.29.2, numpy 2.4.6)

Entry i of the tensor whose name is the k-th of all in alphabetical order is made of u = hash(i, k), uniform in
[-1/2, 1/2), so no weights need to be kept. All is computed in float64. The loss of the gradients is the sum of
the outputs times cos of their index.
"""

import json
import sys

import numpy as np
import torch
import torchvision

CLASSES = 10
CASES = [
    ("r18", "imagenet", "eval", (2, 3, 64, 48)),
    ("r18", "cifar", "eval", (2, 3, 16, 12)),
    ("r34", "imagenet", "eval", (1, 3, 33, 47)),
    ("r50", "imagenet", "eval", (1, 3, 64, 64)),
    ("r18", "cifar", "train", (4, 3, 16, 12)),
    ("r50", "imagenet", "train", (3, 3, 65, 64)),
]
MASK = np.uint64(0xFFFFFFFF)


def uniform(count, k):
    h = (np.arange(count, dtype=np.uint64) + np.uint64(k * 2654435769 + 1)) & MASK
    h = (h * np.uint64(2654435761)) & MASK
    h ^= h >> np.uint64(15)
    h = (h * np.uint64(2246822519)) & MASK
    h ^= h >> np.uint64(13)
    return h.astype(np.float64) / 2.0**32 - 0.5


def value(name, shape, k):
    u = uniform(int(np.prod(shape)), k).reshape(shape)
    if name.endswith("running_var"):
        return 1 + 0.5 * u
    if name.endswith("running_mean") or name.endswith("bias"):
        return 0.2 * u
    if len(shape) == 4:
        return u * np.sqrt(24 / (shape[0] * shape[2] * shape[3]))
    if len(shape) == 2:
        return u * np.sqrt(12 / shape[1])
    return 1 + 0.5 * u


def run(depth, stem, mode, shape):
    model = getattr(torchvision.models, depth.replace("r", "resnet"))(num_classes=CLASSES)
    if stem == "cifar":
        model.conv1 = torch.nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
        model.maxpool = torch.nn.Identity()
    model = model.double()
    state = model.state_dict()
    names = sorted(name for name in state if not name.endswith("num_batches_tracked"))
    with torch.no_grad():
        for k, name in enumerate(names):
            state[name].copy_(torch.from_numpy(value(name, tuple(state[name].shape), k)))
    model.train(mode == "train")
    images = torch.from_numpy(2 * uniform(int(np.prod(shape)), 999).reshape(shape))
    out = model(images)
    flat = out.flatten()
    (flat * torch.cos(torch.arange(flat.numel(), dtype=torch.float64))).sum().backward()
    case = {"depth": depth, "stem": stem, "mode": mode, "shape": shape, "output": flat.tolist()}
    if mode == "train":
        case["gradient_norms"] = {n: p.grad.norm().item() for n, p in model.named_parameters()}
        case["buffer_norms"] = {n: b.norm().item() for n, b in model.named_buffers() if b.dim() == 1}
    return case


versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "numpy": np.__version__}
json.dump({"script": "resnet.py", "versions": versions, "cases": [run(*case) for case in CASES]}, sys.stdout, indent=1)
print()
