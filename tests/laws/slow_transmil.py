"""TransMIL written from its formula, one head and one token at a time."""

import math

import torch

NARROW = {"hidden": 4, "heads": 2}


def slow(model, cells):
    embedded = [relu(affine(model.embed[0], cell)) for cell in cells]
    side = math.ceil(math.sqrt(len(cells)))
    tokens = [model.token[0], *embedded, *embedded[:side ** 2 - len(cells)]]
    tokens, _ = layer(model.first, tokens)
    tokens = [tokens[0], *pyramid(model.position, tokens[1:], side)]
    tokens, matrix = layer(model.second, tokens)
    logits = affine(model.classify[1], normal(model.classify[0], tokens[0]))
    shares = [max(share, 0.0) for share in matrix[0][1:].tolist()]
    folded = [share + (shares[len(cells) + i] if len(cells) + i < len(shares) else 0) for i, share in enumerate(shares)]
    folded = folded[:len(cells)]
    total = sum(folded)
    attention = torch.tensor([share / total if total else 1 / len(cells) for share in folded], dtype=torch.float64)
    return logits, attention[:, None].expand(-1, model.classes), 0.0


def layer(model, tokens):
    """All tokens after the layer, and the mean over heads of its token × token matrix."""
    zeros = -len(tokens) % model.landmarks
    cells = [torch.zeros_like(tokens[0])] * zeros + [normal(model.norm, token) for token in tokens]
    joined, matrices = [], []
    for head in range(model.heads):
        width = len(tokens[0]) // model.heads
        part = slice(head * width, (head + 1) * width)
        q, k, v = ([(projection.weight @ cell)[part] for cell in cells] for projection in (model.query, model.key, model.value))
        stretch = len(cells) // model.landmarks
        few_q = [sum(q[i * stretch:(i + 1) * stretch]) / stretch for i in range(model.landmarks)]
        few_k = [sum(k[i * stretch:(i + 1) * stretch]) / stretch for i in range(model.landmarks)]
        matrices.append((softmaxes(q, few_k), softmaxes(few_q, few_k), softmaxes(few_q, k)))
        kernel = model.near.weight[head, 0]
        joined.append([sum(kernel[j] * v[i + j - 16] for j in range(33) if 0 <= i + j - 16 < len(v))
                       for i in range(len(v))])
    scale = max(column for _, few, _ in matrices for column in few.sum(0).tolist())
    products = [left @ inverse(few, scale) @ right for left, few, right in matrices]
    for head, product in enumerate(products):
        width = len(tokens[0]) // model.heads
        values = torch.stack([model.value.weight @ cell for cell in cells])[:, head * width:(head + 1) * width]
        joined[head] = product @ values + torch.stack(joined[head])
    outputs = torch.cat(joined, 1)[zeros:]
    matrix = sum(products)[zeros:, zeros:] / len(products)
    return [token + affine(model.out[0], output) for token, output in zip(tokens, outputs, strict=True)], matrix


def softmaxes(queries, keys):
    scores = torch.stack([torch.stack([query @ key / math.sqrt(len(key)) for key in keys]) for query in queries])
    return scores.exp() / scores.exp().sum(1, keepdim=True)


def inverse(matrix, scale):
    one = torch.eye(len(matrix), dtype=torch.float64)
    found = matrix.T / scale
    for _ in range(6):
        product = matrix @ found
        found = 0.25 * found @ (13 * one - product @ (15 * one - product @ (7 * one - product)))
    return found


def pyramid(model, cells, side):
    out = []
    for y in range(side):
        for x in range(side):
            total = cells[y * side + x].clone()
            for scale in (model.wide, model.middle, model.narrow):
                reach = scale.weight.shape[2] // 2
                total = total + scale.bias
                for down in range(-reach, reach + 1):
                    for right in range(-reach, reach + 1):
                        if 0 <= y + down < side and 0 <= x + right < side:
                            weight = scale.weight[:, 0, reach + down, reach + right]
                            total = total + weight * cells[(y + down) * side + x + right]
            out.append(total)
    return out


def affine(layer, vector):
    return layer.weight @ vector + layer.bias


def relu(vector):
    return torch.where(vector > 0, vector, 0.0)


def normal(layer, vector):
    centred = vector - vector.mean()
    return layer.weight * centred / (centred.square().mean() + layer.eps).sqrt() + layer.bias
