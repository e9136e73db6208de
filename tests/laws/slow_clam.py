"""CLAM of one slide, cell by cell, from the formulas of its docstring."""

import math

import torch


def slow(model, cells, targets=None):
    """Logits, attention and penalty; `targets` holds 1, 0 or NaN per class."""
    hidden = [relu(affine(model.embed[0], cell)) for cell in cells]
    branches = len(model.scores.weigh.weight)
    logits, attention, costs = [], [], []
    for c in range(model.classes):
        scores = [score(model.scores, h, c if branches > 1 else 0) for h in hidden]
        weights = [score.exp() for score in scores]
        weights = [weight / sum(weights) for weight in weights]
        slide = sum(weight * h for weight, h in zip(weights, hidden, strict=True))
        logits.append(model.classify.weight[c] @ slide + model.classify.bias[c])
        attention.append(torch.stack(weights))
        labels = pseudo_labels([s.item() for s in scores], math.nan if targets is None else targets[c], model)
        if labels:
            costs.append(sum(cost(model, hidden[i], c, z) for i, z in labels) / len(labels))
    penalty = model.share / (1 - model.share) * sum(costs) / len(costs) if costs else 0.0
    return torch.stack(logits), torch.stack(attention, 1), penalty


def pseudo_labels(scores, target, model):
    """Pairs of a cell and its label, 1 or -1."""
    n, best = len(scores), sorted(range(len(scores)), key=lambda i: -scores[i])
    if target == 1:
        return ([(i, 1) for i in best[:min(model.cells, math.ceil(n / 2))]]
                + [(i, -1) for i in best[n - min(model.cells, math.floor(n / 2)):]])
    if target == 0 and model.exclusive:
        return [(i, -1) for i in best[:min(model.cells, n)]]
    return []


def cost(model, hidden, c, label):
    margin = model.judge.weight[c] @ hidden + model.judge.bias[c]
    return model.temperature * (1 + ((model.margin - label * margin) / model.temperature).exp()).log()


def score(gated, hidden, branch):
    inner = affine(gated.content[0], hidden).tanh() / (1 + (-affine(gated.gate[0], hidden)).exp())
    return gated.weigh.weight[branch] @ inner + gated.weigh.bias[branch]


def affine(layer, vector):
    return layer.weight @ vector + layer.bias


def relu(vector):
    return torch.where(vector > 0, vector, 0.0)
