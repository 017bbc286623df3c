"""The PyTorch side of `cargo xtask bench --against pytorch`.

Answers requests on standard input, one line each, with one line on standard output:

    load ID FILE   builds the case from the tensors of FILE       ready
    check FILE     one pass; writes value and gradients to FILE   checked
    time N         N passes on the clock                          timed SECONDS (of one pass)

and with `error MESSAGE` when a request fails. Names and shapes in FILE are those that the Rust side writes.
"""

import os
import sys
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

CURVATURE = 0.1  # of the convex network: the term 0.05 ‖x‖²
MARGIN = 1.0  # of the hardest triplets under the learned divergence
EUCLIDEAN_MARGIN = 0.05  # of TripletMarginLoss
RATE, DECAY, BETAS = 1e-5, 1e-4, (0.9, 0.99)


class Icnn:
    """φ(x) = ⟨softplus(v2), h1⟩ + ε/2 ‖x‖² with two hidden layers; the affine part, which no divergence sees, is left out."""

    NAMES = ("W0", "b0", "V1", "W1", "b1", "v2")

    def __init__(self, tensors):
        self.parameters = {name: tensors[name].clone().requires_grad_() for name in self.NAMES}

    def value_and_grad(self, x):
        """φ and ∇φ, the gradient as forward operations."""
        w0, b0, v1, w1, b1, v2 = (self.parameters[name] for name in self.NAMES)
        hidden, top = F.softplus(v1), F.softplus(v2)
        z0 = F.linear(x, w0, b0)
        z1 = F.linear(x, w1, b1) + F.linear(F.softplus(z0), hidden)
        value = F.softplus(z1) @ top + 0.5 * CURVATURE * x.square().sum(1)
        upper = torch.sigmoid(z1) * top
        lower = torch.sigmoid(z0) * (upper @ hidden)
        return value, lower @ w0 + upper @ w1 + CURVATURE * x

    def all_pairs(self, x):
        """D(x_i ‖ x_j) as one matrix product."""
        value, grad = self.value_and_grad(x)
        constant = (grad * x).sum(1) - value
        return value[:, None] - x @ grad.t() + constant[None, :]

    def pair_expansion(self, x):
        """The same with every pair passing through the network."""
        n, d = x.shape
        first = x[:, None, :].expand(n, n, d).reshape(n * n, d)
        second = x[None, :, :].expand(n, n, d).reshape(n * n, d)
        value, _ = self.value_and_grad(first)
        tangent, grad = self.value_and_grad(second)
        return (value - tangent - (grad * (first - second)).sum(1)).reshape(n, n)


def hardest_triplet(distance, labels):
    """Mean of the nonzero max(0, D(a, p) − D(a, n) + m) over the farthest positive and the closest negative."""
    same = labels[:, None] == labels[None, :]
    positive = same.clone().fill_diagonal_(False)
    farthest = distance.masked_fill(~positive, -torch.inf).max(1).values
    closest = distance.masked_fill(same, torch.inf).min(1).values
    losses = F.relu(farthest - closest + MARGIN)
    return losses.sum() / (losses > 0).sum().clamp(min=1)


class Encoder(torch.nn.Module):
    def __init__(self, tensors):
        super().__init__()
        c1, c0 = tensors["conv1.weight"].shape[:2]
        c2 = tensors["conv2.weight"].shape[0]
        units, flat = tensors["hidden.weight"].shape
        self.conv1 = torch.nn.Conv2d(c0, c1, 3, padding=1)
        self.conv2 = torch.nn.Conv2d(c1, c2, 3, padding=1)
        self.hidden = torch.nn.Linear(flat, units)
        self.out = torch.nn.Linear(units, tensors["out.weight"].shape[0])
        self.load_state_dict({name: tensors[name] for name in self.state_dict()})

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.out(F.relu(self.hidden(x.flatten(1))))


class Case:
    """A loss, what it is differentiated by, and the optimizer that follows, if any."""

    def __init__(self, loss, parameters, optimizer=None):
        self.loss, self.parameters, self.optimizer = loss, parameters, optimizer

    def run(self):
        for parameter in self.parameters.values():
            parameter.grad = None
        self.loss().backward()
        if self.optimizer is not None:
            self.optimizer.step()

    def check(self):
        loss = self.loss()
        loss.backward()
        results = {f"grad.{name}": p.grad for name, p in self.parameters.items() if p.grad is not None}
        return {"value": loss.detach().reshape(1), **results}


class Product:
    def __init__(self, tensors):
        self.a, self.b = tensors["a"], tensors["b"]

    def run(self):
        with torch.no_grad():
            return self.a @ self.b

    def check(self):
        return {"value": self.run()}


def optimizer(encoder, generator=()):
    groups = [{"params": list(encoder), "weight_decay": DECAY}]
    if generator:
        groups.append({"params": list(generator), "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=RATE, betas=BETAS, eps=1e-8, fused=True)


def step_icnn(tensors):
    encoder, phi, images, labels = Encoder(tensors), Icnn(tensors), tensors["x"], tensors["labels"]
    parameters = {**dict(encoder.named_parameters()), **phi.parameters}
    update = optimizer(encoder.parameters(), phi.parameters.values())
    return Case(lambda: hardest_triplet(phi.all_pairs(encoder(images)), labels), parameters, update)


def step_euclidean(tensors):
    from pytorch_metric_learning import losses, miners

    encoder, images, labels = Encoder(tensors), tensors["x"], tensors["labels"]
    loss, miner = losses.TripletMarginLoss(margin=EUCLIDEAN_MARGIN), miners.BatchHardMiner()

    def objective():
        embeddings = encoder(images)
        return loss(embeddings, labels, miner(embeddings, labels))

    return Case(objective, dict(encoder.named_parameters()), optimizer(encoder.parameters()))


def step_resnet(tensors):
    from pytorch_metric_learning import losses
    from torchvision.models import resnet18

    encoder = resnet18(num_classes=tensors["fc.weight"].shape[0])
    encoder.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    encoder.maxpool = torch.nn.Identity()
    encoder.to(tensors["x"].dtype)
    encoder.load_state_dict({name: tensors[name] for name, _ in encoder.named_parameters()}, strict=False)
    loss, images, labels = losses.SupConLoss(), tensors["x"], tensors["labels"]
    parameters = dict(encoder.named_parameters())
    return Case(lambda: loss(encoder(images), labels), parameters, optimizer(encoder.parameters()))


def divergence(tensors, form):
    phi, labels, x = Icnn(tensors), tensors["labels"], tensors["x"].requires_grad_()
    return Case(lambda: hardest_triplet(form(phi, x), labels), {"x": x, **phi.parameters})


def load(identifier, path):
    tensors = load_file(path)
    group, name = identifier.split("/")[:2]
    if group == "loader":
        import loader

        return loader.load(name, tensors, path)
    if group == "loss":
        import losses

        return Case(*losses.build(tensors, name))
    builders = {
        ("matmul", "square"): Product,
        ("step", "conv-icnn-hardest-triplet"): step_icnn,
        ("step", "conv-euclidean-hardest-triplet"): step_euclidean,
        ("step", "resnet18-sup-con"): step_resnet,
        ("objective", "icnn-hardest-triplet"): lambda t: divergence(t, Icnn.all_pairs),
        ("objective", "icnn-hardest-triplet-pair-expansion"): lambda t: divergence(t, Icnn.pair_expansion),
    }
    return builders[group, name](tensors)


def answer(case, line):
    """The case after the request, and the reply."""
    verb, _, rest = line.strip().partition(" ")
    if verb == "load":
        return load(*rest.split(" ", 1)), "ready"
    if case is None:
        raise ValueError("no case is loaded")
    if verb == "check":
        save_file({name: t.detach().contiguous() for name, t in case.check().items()}, rest)
        return case, "checked"
    if verb == "time":
        count = int(rest)
        start = time.perf_counter()
        for _ in range(count):
            case.run()
        return case, f"timed {(time.perf_counter() - start) / count!r}"
    raise ValueError(f"unknown request {verb!r}")


def main():
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to standard error
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    case = None
    for line in sys.stdin:
        try:
            case, reply = answer(case, line)
        except Exception as error:  # told to the other side, which decides
            reply = "error " + " ".join(f"{type(error).__name__}: {error}".split())
        print(reply, file=replies, flush=True)


if __name__ == "__main__":
    main()
