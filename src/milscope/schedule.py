"""How the learning rate goes over a training."""

import math


def warm_cosine(step: int, steps: int, *, peak: float, warmup: float) -> float:
    """Linear warm-up, then half a cosine to zero.

    >>> [round(warm_cosine(step, 6, peak=1.0, warmup=1 / 3), 2) for step in range(6)]
    [0.5, 1.0, 1.0, 0.85, 0.5, 0.15]

    Args:
        step: From 0.
        steps: Of the whole training.
        peak: The highest rate.
        warmup: Share of the steps in which the rate rises.
    """
    rising = max(1, round(warmup * steps))
    if step < rising:
        return peak * (step + 1) / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
