"""Parts of an encoder that training leaves as they are."""

from collections.abc import Sequence

from milscope.encoders._backbone import Encoder, below
from milscope.types import refuse


def freeze(encoder: Encoder, prefixes: Sequence[str]) -> None:
    """Keeps the named parts of an encoder as they are: their parameters, and their running statistics in training too.

    Args:
        encoder: Changed in place.
        prefixes: Starts of names below `backbone.`, whole parts between dots: `blocks.1` is not `blocks.10`.

    Raises:
        InputError: If a prefix matches nothing, or nothing would be left to train.
    """
    prefixes = [prefix.strip().removeprefix("backbone.").rstrip(".") for prefix in prefixes]
    named = dict(encoder.backbone.named_parameters())
    for prefix in prefixes:
        if not any(below(name, [prefix]) for name in named):
            parts = ", ".join(dict.fromkeys(name.split(".")[0] for name in named))
            raise refuse("freeze", f"starts of names in `{encoder.name}`", f"`{prefix}`", f"There are {parts}.")
    chosen = [name for name in named if below(name, prefixes)]
    if prefixes and all(name in chosen or not each.requires_grad for name, each in named.items()):
        raise refuse("freeze", "less than the whole encoder", ", ".join(prefixes), "Leave one part out, or set `epochs` to 0.")
    for name in chosen:
        named[name].requires_grad_(False)
    encoder.frozen = (*encoder.frozen, *prefixes)
    encoder.train(encoder.training)
