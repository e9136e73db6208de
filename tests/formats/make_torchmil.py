"""Makes the archives in `tests/unit/aggregators/archived` from torchmil: `python tests/formats/make_torchmil.py OUT`.

Each holds slides, the weights of one of our aggregators and what torchmil's model of the same weights says of the slides,
one at a time and in double precision. Tests read them without torchmil. Run once, with torchmil 1.0.2.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

import milscope.encoders._torchvision  # noqa: F401  (before torchmil: it imports torchvision)

LENGTHS = (7, 4, 9, 12)
FEATURES, HIDDEN, ATTENTION = 5, 6, 3
LABELS = torch.tensor([1.0, 0.0, 0.0, 1.0])
OFFSETS = torch.tensor([0, *LENGTHS]).cumsum(0)


def clam_sb(slides: list[Tensor]) -> tuple[dict, dict, dict]:
    """The penalty is summed from torchmil's choice of cells and its classifiers; its loss of cells is defective."""
    from torchmil.models import CLAM_SB

    k = 2
    model = CLAM_SB((FEATURES,), ATTENTION, k_sample=k, gated=True,
                    feat_ext=nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU())).double()
    losses = {"svm": _svm, "cross_entropy": lambda logits, labels: functional.cross_entropy(logits, labels[:, 0].long())}
    logits, attention, penalties = [], [], {}
    for slide in slides:
        logit, scores = model(slide[None], return_att=True)
        logits.append(torch.cat([torch.zeros_like(logit), logit]))
        attention.append(scores[0].softmax(0)[:, None].expand(-1, 2))
    del model.inst_loss_fn
    for name, model.inst_loss_fn in losses.items():
        each = [model.compute_inst_loss(*model(slide[None], return_att=True, return_emb=True)[1:], label[None])
                for slide, label in zip(slides, LABELS, strict=True)]
        penalties["penalty_" + name] = 0.3 / 0.7 * torch.stack(each).mean() / 2  # the mean of two classes, not their sum
    classify = nn.Linear(HIDDEN, 2).double()
    classify.weight.copy_(torch.cat([torch.zeros_like(model.classifier.module.weight), model.classifier.module.weight]))
    classify.bias.copy_(torch.cat([torch.zeros_like(model.classifier.module.bias), model.classifier.module.bias]))
    ours = {**_linear("embed.0", model.feat_ext[0]), **_gated("scores", model.pool), **_linear("classify", classify),
            "judge.weight": torch.stack([cells.module.weight[1] - cells.module.weight[0] for cells in model.inst_classifiers]),
            "judge.bias": torch.stack([cells.module.bias[1] - cells.module.bias[0] for cells in model.inst_classifiers])}
    return {"hidden": HIDDEN, "attention": ATTENTION, "cells": k}, ours, {
        "logits": torch.stack(logits), "attention": torch.cat(attention), **penalties}


def dsmil(slides: list[Tensor]) -> tuple[dict, dict, dict]:
    """A single class; torchmil's values are the features themselves."""
    from torchmil.models import DSMIL

    model = DSMIL((FEATURES,), ATTENTION).double()
    attention = [model(slide[None], return_att=True)[1][0] for slide in slides]
    cells = [model(slide[None], return_inst_pred=True) for slide in slides]
    streams = torch.stack([torch.stack([of_cells.amax(1) for _, of_cells in cells]),
                           torch.stack([of_slide for of_slide, _ in cells])])
    value = nn.Linear(FEATURES, FEATURES).double()
    value.weight.copy_(torch.eye(FEATURES))
    value.bias.zero_()
    ours = {**_linear("score", model.inst_classifier), **_linear("query", model.q_nn), **_linear("value", value),
            **_linear("classify", model.bag_classifier)}
    return {"classes": 1, "dropout": 0.0, "query": ATTENTION}, ours, {
        "logits": torch.stack([model.predict(slide[None]) for slide in slides]), "attention": torch.cat(attention),
        "streams": streams}


def dtfd(slides: list[Tensor]) -> tuple[dict, dict, dict]:
    """A single class, `afs`, no gate; torchmil's shuffle is off, and the cells come in the order in which we deal them."""
    from torchmil.models import DTFDMIL

    model = DTFDMIL((FEATURES,), ATTENTION, n_groups=3, distill_mode="afs",
                    feat_ext=nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU())).double()
    seen = {"within": [], "among": []}
    for name, pool in (("within", model.attention_pool), ("among", model.u_attention_pool)):
        pool.fc2.register_forward_hook(lambda *call, name=name: seen[name].append(call[2].flatten().softmax(0)))
    logits, attention = [], []
    for slide in slides:
        order = slide.sum(1).argsort(descending=True)
        order = torch.cat([order[start::3] for start in range(3)])
        with patch.object(np.random, "shuffle", lambda _: None):
            logits.append(model(slide[None, order]))
        weights = torch.cat([within * t for within, t in zip(seen["within"], seen["among"][0], strict=True)])
        attention.append(torch.empty_like(weights).scatter(0, order, weights)[:, None])
        seen["within"].clear()
        seen["among"].clear()
    ours = {**_linear("embed.0", model.feat_ext[0]), **_gated("scores", model.attention_pool),
            **_linear("classify", model.classifier.module), **_gated("scores_of_bags", model.u_attention_pool),
            **_linear("classify_slides", model.u_classifier.module)}
    return {"classes": 1, "hidden": HIDDEN, "attention": ATTENTION, "pseudo_bags": 3}, ours, {
        "logits": torch.stack(logits), "attention": torch.cat(attention)}


def _svm(logits: Tensor, labels: Tensor) -> Tensor:
    """The smooth top-1 support vector machine of temperature and margin 1, by its formula."""
    margin = 1 - functional.one_hot(labels[:, 0].long(), 2)
    return ((logits + margin).logsumexp(1) - logits.gather(1, labels.long())[:, 0]).mean()


def _linear(name: str, layer: nn.Module) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for key, value in layer.state_dict().items()}


def _gated(name: str, pool: nn.Module) -> dict[str, Tensor]:
    """torchmil's attention as ours; where it has no gate, half open everywhere and twice the weight."""
    hidden, width = pool.fc1.module.weight.shape
    gate = pool.fc_gated.module if pool.gated else nn.Linear(width, hidden)
    if not pool.gated:
        gate.weight.zero_()
        gate.bias.zero_()
    return {**_linear(f"{name}.content.0", pool.fc1.module), **_linear(f"{name}.gate.0", gate),
            f"{name}.weigh.weight": pool.fc2.weight * (1 if pool.gated else 2), f"{name}.weigh.bias": torch.zeros(1)}


@torch.no_grad()
def make(out: Path) -> None:
    """One file per model."""
    for name, of_model in {"clam-sb": clam_sb, "dsmil": dsmil, "dtfd": dtfd}.items():
        torch.manual_seed(0)
        slides = [torch.randn(n, FEATURES, dtype=torch.float64) for n in LENGTHS]
        options, weights, expected = of_model(slides)
        tensors = {"features": torch.cat(slides), "offsets": OFFSETS, "labels": LABELS,
                   **{f"model.{key}": value for key, value in weights.items()},
                   **{f"expected.{key}": value for key, value in expected.items()}}
        tensors = {key: value.double().contiguous().clone() if value.is_floating_point() else value
                   for key, value in tensors.items()}
        metadata = {"name": name, "options": json.dumps({"features": FEATURES, **options}), "torchmil": version("torchmil")}
        save_file(tensors, out / f"{name}.safetensors", metadata)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
