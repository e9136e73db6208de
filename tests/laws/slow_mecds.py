"""MECDS written from its formula, one token and one cell at a time."""

import math

import torch

NARROW = {"width": 4, "heads": 2, "blocks": 1, "feedforward": 1}


def slow(model, cells):
    logits, attention, _, penalty = slow_routed(model, cells)
    return logits, attention, penalty


def slow_routed(model, cells):
    """Logits, attention, routing (None without routers) and penalty, a column for each logit."""
    logits, attention, routing = ([None] * len(model.outputs) for _ in range(3))
    for generation in set(model.generations):
        own = [task for task, born in enumerate(model.generations) if born == generation]
        acting = [task for task, born in enumerate(model.generations) if born <= generation]
        tokens = {task: model.tokens[task] for task in own}
        stream = [affine(model.embed[0], cell) for cell in cells]
        for block in model.blocks:
            tokens, stream, looked, routed = slow_block(model, block, tokens, stream, acting)
        for task in own:
            count = model.outputs[task]
            logits[task] = affine(model.heads[task], normal(model.norm, tokens[task]))
            attention[task] = torch.stack([looked[task]] * count, 1)
            routing[task] = None if model.options["routing"] is False else torch.stack([routed[task]] * count, 1)
    routing = None if routing[0] is None else torch.cat(routing, 1)
    return torch.cat(logits), torch.cat(attention, 1), routing, 0.0


def slow_block(model, block, tokens, cells, acting):
    tokens, cells, _ = attend(model, block.first, block.norms[0], tokens, cells)
    tokens, cells = through(block.feedforward, block.norms[1], tokens, cells)
    tokens, cells, looked = attend(model, block.second, block.norms[2], tokens, cells)
    if not model.options["routing"]:
        return *through(block.instead, block.norms[3], tokens, cells), looked, None
    seen = [normal(block.norms[3], cell) for cell in cells]
    weights = {task: top_share([two_layers(block.route.routers[task], cell)[0] for cell in seen], model.options["share"])
               for task in acting}
    made = {task: [two_layers(block.route.experts[task], cell) for cell in seen] for task in acting}
    cells = [cell + sum(weights[task][i] * made[task][i] for task in acting) for i, cell in enumerate(cells)]
    after = {}
    for task, token in tokens.items():
        after[task] = token + two_layers(block.route.experts[task], normal(block.norms[3], token))
        if model.options["gather"]:
            after[task] = after[task] + sum(w * part for w, part in zip(weights[task], made[task], strict=True))
    return after, cells, looked, weights


def through(layers, norm, tokens, cells):
    return ({task: token + two_layers(layers, normal(norm, token)) for task, token in tokens.items()},
            [cell + two_layers(layers, normal(norm, cell)) for cell in cells])


def attend(model, attention, norm, tokens, cells):
    reads, seen = model.options["cells"], [normal(norm, cell) for cell in cells]
    marks = {task: normal(norm, token) for task, token in tokens.items()}
    after, looked = {}, {}
    for task, token in tokens.items():
        mixed, shares = look(attention, marks[task], [marks[task], *seen])
        after[task] = token + mixed
        of_cells = shares.mean(0)[1:]
        looked[task] = of_cells / of_cells.sum()
    if reads != "nothing":
        keys = seen + (list(marks.values()) if reads == "all" else [])
        cells = [cell + look(attention, own, keys)[0] for cell, own in zip(cells, seen, strict=True)]
    return after, cells, looked


def look(attention, own, others):
    """What one vector takes from others, and its shares (head, other)."""
    heads, rows = [], []
    width = len(own) // attention.heads
    for head in range(attention.heads):
        part = slice(head * width, (head + 1) * width)
        query = (attention.query.weight @ own)[part]
        scores = [((attention.key.weight @ other)[part] @ query / math.sqrt(width)).exp() for other in others]
        shares = [score / sum(scores) for score in scores]
        heads.append(sum(share * (attention.value.weight @ other)[part] for share, other in zip(shares, others, strict=True)))
        rows.append(torch.stack(shares))
    return affine(attention.out, torch.cat(heads)), torch.stack(rows)


def top_share(scores, share):
    """The renormalised softmax of the fewest cells that exceed the share."""
    phi = [score.exp() / sum(each.exp() for each in scores) for score in scores]
    kept, held = [], 0.0
    for i in sorted(range(len(phi)), key=lambda i: -phi[i].item()):
        if held <= share:
            kept.append(i)
            held += phi[i].item()
    total = sum(phi[i] for i in kept)
    return torch.stack([phi[i] / total if i in kept else torch.zeros_like(total) for i in range(len(phi))])


def two_layers(layers, vector):
    hidden = affine(layers[0], vector)
    return affine(layers[2], hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2)


def affine(layer, vector):
    return layer.weight @ vector + (0 if layer.bias is None else layer.bias)


def normal(layer, vector):
    centred = vector - vector.mean()
    return layer.weight * centred / (centred.square().mean() + layer.eps).sqrt() + layer.bias
