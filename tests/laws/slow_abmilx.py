"""ABMILX written from its formula, with the whole of U."""

import math

import torch

NARROW = {"hidden": 6, "heads": 3}


def slow(model, cells):
    embedded = [gelu(model.embed[1].weight @ normal(model.embed[0], cell)) for cell in cells]
    vectors, shares = [], []
    for head in range(model.heads):
        width = len(embedded[0]) // model.heads
        parts = [cell[head * width:(head + 1) * width] for cell in embedded]
        scores = [(model.weigh[2].weight @ gelu(model.weigh[0].weight @ part))[0] for part in parts]
        if model.smooths:
            scores = [score + model.alpha * same for score, same in zip(scores, smoothed(model, parts, scores), strict=True)]
        total = sum(score.exp() for score in scores)
        shares.append(torch.stack([score.exp() / total for score in scores]))
        vectors.append(sum(share * part for share, part in zip(shares[-1], parts, strict=True)))
    slide = model.merge.weight @ torch.cat(vectors)
    if model.feedforward is not None:
        norm, wide, _, narrow = model.feedforward
        hidden = gelu(wide.weight @ (normal(norm, slide) + norm.bias) + wide.bias)
        slide = slide + narrow.weight @ hidden + narrow.bias
    logits = model.classify[1].weight @ normal(model.classify[0], slide)
    return logits, (sum(shares) / len(shares))[:, None].expand(-1, model.classes), 0.0


def smoothed(model, parts, scores):
    queries = [model.query.weight @ normal(model.norm, part) for part in parts]
    keys = [model.key.weight @ normal(model.norm, part) for part in parts]
    found = []
    for query in queries:
        row = [(query @ key / math.sqrt(len(key))).exp() for key in keys]
        found.append(sum(weight * score for weight, score in zip(row, scores, strict=True)) / sum(row))
    return found


def gelu(vector):
    return vector * (1 + torch.erf(vector / math.sqrt(2))) / 2


def normal(layer, vector):
    centred = vector - vector.mean()
    return layer.weight * centred / (centred.square().mean() + layer.eps).sqrt()
