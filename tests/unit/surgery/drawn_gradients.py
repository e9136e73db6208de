"""Gradients over three parameters, with the lengths and angles that a test asks for."""

import torch

SHAPES = [(4, 3), (7,), (2, 2, 3)]
SIZES = [12, 7, 12]
Gradient = list[torch.Tensor]


def draw(seed: int, tasks: int = 2) -> list[Gradient]:
    """Random gradients in float64: more than two nearly always have some in conflict."""
    generator = torch.Generator().manual_seed(seed)
    return [parted(torch.randn(sum(SIZES), dtype=torch.float64, generator=generator)) for _ in range(tasks)]


def pair(cosine: float, ratio: float = 1.0, seed: int = 0) -> list[Gradient]:
    """Two gradients with that cosine, the first that many times longer than the second."""
    first, other = (flat(each) for each in draw(seed))
    first = first / first.norm()
    other = other - (other @ first) * first
    other = other / other.norm()
    return [parted(first * ratio), parted(cosine * first + (1 - cosine**2) ** 0.5 * other)]


def at_odds(seed: int, tasks: int) -> list[Gradient]:
    """Gradients that all conflict with each other, of different lengths."""
    rows = rows_of(draw(seed, tasks))
    rows = rows - rows.mean(0)
    scales = torch.logspace(-0.5, 0.5, tasks, dtype=torch.float64)
    return [parted(row) for row in (rows + 0.05 * rows_of(draw(seed + 100, tasks))) * scales[:, None]]


def agreeing(seed: int, tasks: int) -> list[Gradient]:
    """Gradients none of which conflicts with another."""
    return [[part.abs() for part in each] for each in draw(seed, tasks)]


def scaled(gradients: list[Gradient], *factors: float, dtype: torch.dtype = torch.float64) -> list[Gradient]:
    """Every gradient times its factor."""
    return [[(part * factor).to(dtype) for part in each] for each, factor in zip(gradients, factors, strict=True)]


def flat(gradient: Gradient) -> torch.Tensor:
    return torch.cat([part.flatten() for part in gradient])


def parted(vector: torch.Tensor) -> Gradient:
    return [part.view(shape) for part, shape in zip(vector.split(SIZES), SHAPES, strict=True)]


def rows_of(gradients: list[Gradient]) -> torch.Tensor:
    return torch.stack([flat(each) for each in gradients])


def plain_sum(gradients: list[Gradient]) -> torch.Tensor:
    return rows_of(gradients).sum(0)
