"""Which rows of a slide take part in a step, and which of them the encoder learns from."""

from collections.abc import Mapping

from milscope.configs import EndToEndConfig
from milscope.samplers._all import AllRows
from milscope.samplers._attention import AttentionGuided
from milscope.samplers._base import Sampler
from milscope.samplers._multiscale import MultiScale
from milscope.samplers._random import RandomRows
from milscope.types import refuse

SAMPLERS: Mapping[str, type[Sampler]] = {
    "random": RandomRows,
    "multi-scale": MultiScale,
    "attention": AttentionGuided,
    "all": AllRows,
}


def make_sampler(config: EndToEndConfig, budget: int) -> Sampler:
    """The sampler that the settings name.

    Args:
        config: The settings.
        budget: Rows of a slide that get gradients in a step: that of the settings, or what the memory takes.

    Raises:
        InputError: If there is no such sampler, or it does not take the settings.
    """
    if config.sampler not in SAMPLERS:
        raise refuse("sampler", "one of " + ", ".join(SAMPLERS), f"`{config.sampler}`", "Choose one.")
    return SAMPLERS[config.sampler].of(config, budget)


__all__ = ["SAMPLERS", "AllRows", "AttentionGuided", "MultiScale", "RandomRows", "Sampler", "make_sampler"]
