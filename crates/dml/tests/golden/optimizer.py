"""Writes optimizer.json: parameters after a few steps of PyTorch's optimizers, in f64.

Two parameters in groups of their own; the gradients are given numbers, rates follow the linear rise and the cosine of
`OptimizerConfig::share`. Run once: `python optimizer.py > optimizer.json`.
"""

import json
import math

import torch

STEPS, WARMUP = 7, 3
RATES = {"encoder": 0.05, "generator": 0.2}
DECAY = 0.1


def uniform(count, k):
    """Entry i of tensor k in [-1/2, 1/2), the hash of resnet.py."""
    out, mask = [], 0xFFFFFFFF
    for i in range(count):
        h = (i + k * 2654435769 + 1) & mask
        h = (h * 2654435761) & mask
        h ^= h >> 15
        h = (h * 2246822519) & mask
        h ^= h >> 13
        out.append(h / 2**32 - 0.5)
    return torch.tensor(out, dtype=torch.float64)


def share(step):
    if step < WARMUP:
        return (step + 1) / (WARMUP + 1)
    return 0.5 * (1 + math.cos(math.pi * min((step - WARMUP) / max(STEPS - WARMUP, 1), 1.0)))


def run(rule, clipping):
    encoder = torch.nn.Parameter(uniform(6, 1).reshape(2, 3) * 2)
    generator = torch.nn.Parameter(uniform(5, 2) * 2)
    groups = [
        {"params": [encoder], "lr": 1.0, "weight_decay": DECAY},
        {"params": [generator], "lr": 1.0, "weight_decay": 0.0},
    ]
    if rule["name"] == "adamw":
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), eps=1e-8)
    else:
        optimizer = torch.optim.SGD(
            groups, lr=1.0, momentum=rule["momentum"], dampening=rule["dampening"], nesterov=rule["nesterov"]
        )
    for step in range(STEPS):
        encoder.grad = (uniform(6, 10 + 2 * step) * 4).reshape(2, 3)
        generator.grad = uniform(5, 11 + 2 * step) * 4
        if "norm" in clipping:
            torch.nn.utils.clip_grad_norm_([encoder, generator], clipping["norm"])
        if "value" in clipping:
            torch.nn.utils.clip_grad_value_([encoder, generator], clipping["value"])
        for group, rate in zip(optimizer.param_groups, RATES.values()):
            group["lr"] = rate * share(step)
        optimizer.step()
    results = {"encoder": encoder.detach().flatten().tolist(), "generator": generator.detach().tolist()}
    return {"rule": rule, "clipping": clipping, **results}


def sgd(momentum, dampening=0.0, nesterov=False):
    return {"name": "sgd", "momentum": momentum, "dampening": dampening, "nesterov": nesterov}


RULES = [{"name": "adamw"}, sgd(0.0), sgd(0.9), sgd(0.9, dampening=0.3), sgd(0.9, nesterov=True)]
cases = [run(rule, clipping) for rule in RULES for clipping in ({}, {"norm": 1.5}, {"norm": 100.0}, {"value": 0.7})]
print(json.dumps({"torch": torch.__version__, "steps": STEPS, "warmup": WARMUP, "cases": cases}, indent=1))
