"""Order cells by a network that has learned to draw normal cells together."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from milscope.ranking._crossfit import Lesson, Scorer, cross_fitted
from milscope.ranking._seen import Seen

WIDTHS = (64, 32)
"""Of the hidden layer and of the space in which cells are drawn together."""
EPOCHS, BATCH, RATE, DECAY = 10, 512, 1e-3, 1e-3
MEMBERS = 3
"""Networks of each part, whose distances are averaged."""
LEAST = 0.1
"""No coordinate of the centre is nearer to 0, where a network without bias could reach it by giving nothing at all."""


def svdd(seen: Seen) -> Float[np.ndarray, " cell"]:
    r"""The distance of a cell from the centre to which networks were trained to draw the cells of normal slides.

    $$ \min_W \frac{1}{n} \sum_i |\phi_W(h_i) - c|^2 + \frac{\lambda}{2} |W|^2, \qquad s = |\phi_W(h) - c| $$

    The centre is the mean of the untrained network's outputs, and fixed; the network has no bias.

    Args:
        seen: Cells and slide labels; only features and normal slides are learned from.

    Raises:
        InputError: If there are no features, or fewer than two normal slides.

    Source:
        Ruff et al., Deep one-class classification, 2018, equation 4 and propositions 1 to 3, on features in place of pixels.
    """
    return cross_fitted(seen, _learn, positives=False)


def _learn(lesson: Lesson) -> Scorer:
    normal = lesson.features[lesson.normal]
    members = [_member(torch.from_numpy(normal.astype(np.float32)), lesson.seed * 10 + each) for each in range(MEMBERS)]
    return lambda features: np.mean([member(features) for member in members], axis=0)


def _member(normal: Float[Tensor, "row feature"], seed: int) -> Scorer:
    """A trained network; its distances, in those of its normal cells."""
    model = _network(normal.shape[1], seed)
    with torch.inference_mode():
        centre = model(normal).mean(0)
    centre = torch.where(centre.abs() < LEAST, torch.where(centre < 0, -LEAST, LEAST), centre).clone()
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=DECAY)
    random = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(normal), generator=random).split(BATCH):
            optimizer.zero_grad()
            (model(normal[rows]) - centre).square().sum(1).mean().backward()
            optimizer.step()

    def distance(features: Float[np.ndarray, "row feature"]) -> Float[np.ndarray, " row"]:
        with torch.inference_mode():
            return (model(torch.from_numpy(features.astype(np.float32))) - centre).norm(dim=1).double().numpy()

    own = max(float(distance(normal.numpy()).mean()), 1e-12)
    return lambda features: distance(features) / own


def _network(features: int, seed: int) -> nn.Sequential:
    """Two layers without bias, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(features, WIDTHS[0], bias=False), nn.LeakyReLU(0.1), nn.Linear(*WIDTHS, bias=False))
