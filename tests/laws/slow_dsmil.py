"""DSMIL of one slide, cell by cell, from the formulas of its docstring."""

import math

import torch


def slow(model, cells):
    """Logits, attention and penalty."""
    first, second, attention = two_streams(model, cells)
    return (first + second) / 2, attention, 0.0


def two_streams(model, cells):
    """The logits of the highest cells, those of the slide's vectors, and the attention."""
    scores = [affine(model.score, cell) for cell in cells]
    queries = [affine(model.query, cell) for cell in cells]
    values = [affine(model.value, cell) for cell in cells]
    highest, vectors, attention = [], [], []
    for c in range(model.classes):
        m = max(range(len(cells)), key=lambda i, c=c: scores[i][c].item())
        weights = [(query @ queries[m] / math.sqrt(len(query))).exp() for query in queries]
        weights = [weight / sum(weights) for weight in weights]
        highest.append(scores[m][c])
        vectors.append(sum(weight * value for weight, value in zip(weights, values, strict=True)))
        attention.append(torch.stack(weights))
    return torch.stack(highest), affine(model.classify, torch.cat(vectors)), torch.stack(attention, 1)


def affine(layer, vector):
    return layer.weight @ vector + layer.bias
