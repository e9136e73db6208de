"""MambaMIL written from its formula, one cell after the other."""

import torch

NARROW = {"hidden": 4, "attention": 3, "layers": 2, "state": 2, "stride": 2}


def slow(model, cells):
    cells = [relu(affine(model.embed[0], cell)) for cell in cells]
    for layer in model.layers:
        normed = [normal(layer.norm, cell) for cell in cells]
        orders = [list(range(len(cells))),
                  [i for start in range(model.stride) for i in range(start, len(cells), model.stride)]]
        found = [0.0] * len(cells)
        for branch, order in zip(layer.branches, orders, strict=False):
            entered = [layer.enter.weight @ normed[i] for i in order]
            for i, output in zip(order, mamba(branch, entered), strict=True):
                found[i] = found[i] + output
        cells = [cell + layer.leave.weight @ output for cell, output in zip(cells, found, strict=True)]
    cells = [normal(model.norm, cell) for cell in cells]
    weights = [affine(model.weigh[2], affine(model.weigh[0], cell).tanh())[0].exp() for cell in cells]
    shares = [weight / sum(weights) for weight in weights]
    slide = sum(share * cell for share, cell in zip(shares, cells, strict=True))
    return affine(model.classify, slide), torch.stack(shares)[:, None].expand(-1, model.classes), 0.0


def mamba(branch, entered):
    inner = len(entered[0]) // 2
    before = [torch.zeros(inner, dtype=torch.float64)] * 3 + [cell[:inner] for cell in entered]
    rank, size, _ = branch.sizes
    state = torch.zeros(size, inner, dtype=torch.float64)
    outputs = []
    for number, cell in enumerate(entered):
        window = before[number:number + 4]
        x = silu(sum(branch.near.weight[:, 0, j] * window[j] for j in range(4)) + branch.near.bias)
        chosen = branch.select.weight @ x
        step = (1 + affine(branch.step, chosen[:rank]).exp()).log()
        state = (-branch.decay.exp() * step).exp() * state + torch.outer(chosen[rank:rank + size], step * x)
        outputs.append((chosen[rank + size:] @ state + branch.skip * x) * silu(cell[inner:]))
    return outputs


def affine(layer, vector):
    return layer.weight @ vector + layer.bias


def relu(vector):
    return torch.where(vector > 0, vector, 0.0)


def silu(vector):
    return vector / (1 + (-vector).exp())


def normal(layer, vector):
    centred = vector - vector.mean()
    return layer.weight * centred / (centred.square().mean() + layer.eps).sqrt() + layer.bias
