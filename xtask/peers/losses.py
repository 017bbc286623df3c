"""The losses of pytorch-metric-learning for `loss/NAME/…` cases, at their defaults, and the usual miner where there is one."""

import torch
from pytorch_metric_learning import losses, miners

PLAIN = {
    "contrastive": losses.ContrastiveLoss,
    "sup-con": losses.SupConLoss,
    "multi-similarity": losses.MultiSimilarityLoss,
    "circle": losses.CircleLoss,
    "fast-ap": losses.FastAPLoss,
    "nt-xent": losses.NTXentLoss,
    "nt-xent-16-a-class": losses.NTXentLoss,
    "triplet-margin-all": losses.TripletMarginLoss,
    "margin": losses.MarginLoss,
    "signal-to-noise-contrastive": losses.SignalToNoiseRatioContrastiveLoss,
    "n-pairs": losses.NPairsLoss,
    "weighted-sum": lambda: losses.MultipleLosses(
        [losses.ContrastiveLoss(), losses.MultiSimilarityLoss()], weights=[1.0, 0.5]
    ),
    "lifted-structure": losses.LiftedStructureLoss,
    "generalized-lifted-structure": losses.GeneralizedLiftedStructureLoss,
    "intra-pair-variance": losses.IntraPairVarianceLoss,
    "nca": losses.NCALoss,
    "tuplet-margin-scale-8": lambda: losses.TupletMarginLoss(scale=8),
    "angular": losses.AngularLoss,
    "smooth-ap": losses.SmoothAPLoss,
    "pnp": losses.PNPLoss,
    "histogram": lambda: losses.HistogramLoss(n_bins=100),
    "ranked-list": lambda: losses.RankedListLoss(margin=0.4, Tn=10),
    "threshold-consistent-margin": losses.ThresholdConsistentMarginLoss,
    "instance": losses.InstanceLoss,
}
MINED = {
    "triplet-margin-batch-hard": (losses.TripletMarginLoss, miners.BatchHardMiner),
    "triplet-margin-semi-hard": (
        losses.TripletMarginLoss,
        lambda: miners.TripletMarginMiner(type_of_triplets="semihard"),
    ),
    "multi-similarity-miner": (losses.MultiSimilarityLoss, miners.MultiSimilarityMiner),
}
TABLES = {
    "proxy-nca": losses.ProxyNCALoss,
    "proxy-anchor": losses.ProxyAnchorLoss,
    "normalized-softmax": losses.NormalizedSoftmaxLoss,
    "cos-face": losses.CosFaceLoss,
    "arc-face": losses.ArcFaceLoss,
    "sub-center-arc-face": losses.SubCenterArcFaceLoss,
    "sphere-face": losses.SphereFaceLoss,
    "large-margin-softmax": losses.LargeMarginSoftmaxLoss,
    "soft-triple": losses.SoftTripleLoss,
    "p2s-grad": lambda num_classes, embedding_size: losses.P2SGradLoss(embedding_size, num_classes),
}


def build(tensors, name):
    """The loss as a function without arguments, and what it is differentiated by."""
    x, labels = tensors["x"].requires_grad_(), tensors["labels"]
    parameters = {"x": x}

    def with_table(loss):
        for own, parameter in loss.named_parameters():
            with torch.no_grad():
                parameter.copy_(tensors[own])
            parameters[own] = parameter
        return loss

    if name in PLAIN:
        loss = PLAIN[name]()
        return lambda: loss(x, labels), parameters
    if name in MINED:
        loss, miner = (make() for make in MINED[name])
        return lambda: loss(x, labels, miner(x, labels)), parameters
    if name in TABLES:
        loss = with_table(TABLES[name](num_classes=int(labels.max()) + 1, embedding_size=x.shape[1]))
        return lambda: loss(x, labels), parameters
    if name == "dynamic-soft-margin":
        # A new one each pass: its histogram keeps the graph of the last, and a second backward pass fails.
        return lambda: losses.DynamicSoftMarginLoss(momentum=1.0)(x, labels), parameters
    if name == "cross-batch-memory-contrastive":
        loss = losses.CrossBatchMemory(losses.ContrastiveLoss(), x.shape[1], memory_size=1024)
        return lambda: loss(x, labels), parameters
    if name == "manifold":
        loss = with_table(losses.ManifoldLoss(l=x.shape[1], K=int(labels.max()) + 1))
        return lambda: loss(x, indices_tuple=labels), parameters
    parameters["y"] = y = tensors["y"].requires_grad_()
    if name == "vic-reg":
        loss = losses.VICRegLoss()
        return lambda: loss(x, ref_emb=y), parameters
    if name == "two-views-nt-xent":
        loss = losses.SelfSupervisedLoss(losses.NTXentLoss())
        return lambda: loss(x, y), parameters
    if name == "info-nce":
        loss = losses.SelfSupervisedLoss(losses.NTXentLoss(), symmetric=False)
        return lambda: loss(x, y), parameters
    if name == "momentum-queue-contrastive":
        loss = losses.CrossBatchMemory(losses.ContrastiveLoss(), x.shape[1], memory_size=1024)
        both, enters = torch.cat([labels, labels]), torch.arange(2 * len(x)) >= len(x)
        return lambda: loss(torch.cat([x, y]), both, enqueue_mask=enters), parameters
    raise KeyError(name)
