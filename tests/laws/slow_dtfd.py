"""DTFD of one slide, cell by cell, from the formulas of its docstring."""

import torch


def slow(model, cells):
    """Logits, attention and penalty, as dealt outside training."""
    order = sorted(range(len(cells)), key=lambda i: cells[i].sum().item())[::-1]
    bags = min(model.pseudo_bags, len(cells))
    logits, attention, _ = dealt(model, cells, [order[b::bags] for b in range(bags)])
    return logits, attention, 0.0


def dealt(model, cells, bags):
    """Logits, attention and the logits of each pseudo-bag, for pseudo-bags of these cells."""
    hidden = [relu(affine(model.embed[0], cell)) for cell in cells]
    within, items, of_item, of_bags = torch.zeros(len(cells), dtype=torch.float64), [], [], []
    for number, bag in enumerate(bags):
        weights = softmax([score(model.scores, hidden[i]) for i in bag])
        for i, weight in zip(bag, weights, strict=True):
            within[i] = weight
        vector = sum(weight * hidden[i] for i, weight in zip(bag, weights, strict=True))
        of_bags.append(affine(model.classify, vector))
        chosen = distilled(model, [hidden[i] for i in bag], weights, vector)
        items += chosen
        of_item += [number] * len(chosen)
    among = softmax([score(model.scores_of_bags, item) for item in items])
    slide = sum(weight * item for weight, item in zip(among, items, strict=True))
    of_cell = {i: number for number, bag in enumerate(bags) for i in bag}
    attention = torch.stack([within[i] * sum(t for t, number in zip(among, of_item, strict=True) if number == of_cell[i])
                             for i in range(len(cells))])
    return affine(model.classify_slides, slide), attention[:, None].expand(-1, model.classes), torch.stack(of_bags)


def distilled(model, hidden, weights, vector):
    if model.distill == "afs":
        return [vector]
    if model.distill == "mas":
        return [hidden[max(range(len(hidden)), key=lambda i: weights[i].item())]]
    activations = [model.classify.weight @ (weight * h) for weight, h in zip(weights, hidden, strict=True)]
    worth = [(a.exp()[-1] / a.exp().sum() if len(a) > 1 else a[0]).item() for a in activations]
    highest, lowest = (pick(range(len(worth)), key=worth.__getitem__) for pick in (max, min))
    return [hidden[highest]] if model.distill == "maxs" else [hidden[highest], hidden[lowest]]


def softmax(scores):
    weights = [score.exp() for score in scores]
    return [weight / sum(weights) for weight in weights]


def score(gated, hidden):
    inner = affine(gated.content[0], hidden).tanh() / (1 + (-affine(gated.gate[0], hidden)).exp())
    return affine(gated.weigh, inner)[0]


def affine(layer, vector):
    return layer.weight @ vector + layer.bias


def relu(vector):
    return torch.where(vector > 0, vector, 0.0)
