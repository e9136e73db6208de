"""The preselecting transformer written from its formula, one token and one head at a time."""

import math

import torch
from tests.laws.slow_mecds import affine, look, normal, two_layers

NARROW = {"hidden": 4, "attention": 3, "kept": 3, "heads": 2, "layers": 2}


def slow(model, cells):
    embedded = [affine(model.embed[0], cell) for cell in cells]
    embedded = [torch.where(cell > 0, cell, 0.0) for cell in embedded]
    scores = [affine(model.select[2], affine(model.select[0], cell).tanh())[0].item() for cell in embedded]
    chosen = sorted(range(len(cells)), key=lambda i: -scores[i])[:model.kept]
    tokens = [model.token, *(embedded[i] for i in chosen)]
    for layer in model.layers:
        seen = [normal(layer.norm, token) for token in tokens]
        looked = [look(layer, own, seen) for own in seen]
        tokens = [token + mixed for token, (mixed, _) in zip(tokens, looked, strict=True)]
        tokens = [token + two_layers(layer.wide, normal(layer.norm_wide, token)) for token in tokens]
    shares = looked[0][1].mean(0)[1:]
    attention = torch.zeros(len(cells), dtype=torch.float64)
    attention[chosen] = shares / shares.sum()
    logits = affine(model.classify[1], normal(model.classify[0], tokens[0]))
    return logits, attention[:, None].expand(-1, model.classes), 0.0


def pooled(model, cells):
    """The first stage's logits."""
    embedded = [affine(model.embed[0], cell) for cell in cells]
    embedded = [torch.where(cell > 0, cell, 0.0) for cell in embedded]
    scores = [math.exp(affine(model.select[2], affine(model.select[0], cell).tanh())[0].item()) for cell in embedded]
    return affine(model.classify_first, sum(score * cell for score, cell in zip(scores, embedded, strict=True)) / sum(scores))
