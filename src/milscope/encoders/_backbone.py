"""The encoder: any timm model, from cells to features, with everything needed to load it again."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from milscope.encoders._timm import build, colours, reason
from milscope.encoders._weights import load_weights
from milscope.types import refuse


class Encoder(nn.Module):
    """A timm model without its classifier, with its own normalisation of colours.

    Args:
        name: The timm model (`resnet18`, `vit_small_patch16_224.dino`, …), or one of the hub (`hf-hub:owner/model`).
        size: Side of its input, pixels.
        options: Further options of the timm model, such as `{"channels": [32, 64, 128, 256]}` for a narrow ResNet.
        weights: Where the weights come from: "" is chance, "hub" timm's pretrained ones, anything else a file.

    Raises:
        InputError: If timm has no such model, it does not take the options or the size, or the weights are not to be
            had or not the model's.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, *, size: int = 64, options: dict[str, Any] | None = None, weights: str = "") -> None:
        super().__init__()
        built = build(name, size=size, options=dict(options or {}), pretrained=weights == "hub")
        self.name, self.size, self.architecture, self.options = name, size, built.architecture, built.options
        self.backbone, self.features = built.backbone, built.features
        self.frozen: tuple[str, ...] = ()
        mean, std = colours(self.backbone)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        if weights not in ("", "hub"):
            load_weights(self.backbone, Path(weights), name=name, size=size)

    def forward(self, cells: Float[Tensor, "cell 3 height width"]) -> Float[Tensor, "cell feature"]:
        """Features of cells whose colours lie between 0 and 1."""
        return self.backbone((cells - self.mean) / self.std)

    def train(self, mode: bool = True) -> "Encoder":
        """Training or not; the running statistics of frozen parts stay fixed."""
        super().train(mode)
        for name, module in self.backbone.named_modules():
            if hasattr(module, "running_mean") and below(name, self.frozen):
                module.eval()
        return self

    def save(self, directory: Path) -> None:
        """Writes `encoder.safetensors` and `encoder.json`."""
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, directory / "encoder.safetensors")
        description = {"name": self.name, "architecture": self.architecture, "size": self.size, "options": self.options,
                       "features": self.features}
        (directory / "encoder.json").write_text(json.dumps(description, indent=1))


def load_encoder(directory: Path | str, *, size: int | None = None) -> Encoder:
    """The encoder that was written to a directory, ready to encode; `.train()` makes it ready to be trained further.

    Args:
        directory: An `encoder` artifact.
        size: Side of its input, pixels; None for what it was trained with. Weights that depend on the size are resampled
            as timm does it.

    Raises:
        InputError: If there is no encoder, its files do not belong together, or it cannot take the size.
    """
    described, path = Path(directory) / "encoder.json", Path(directory) / "encoder.safetensors"
    if not described.exists():
        raise refuse(str(directory), "an `encoder` artifact", "no encoder.json there", "Run `milscope pretrain`.")
    try:
        description = json.loads(described.read_text())
        tensors = load_file(path)
        name, trained, options = (description[key] for key in ("name", "size", "options"))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise refuse(str(directory), "an `encoder` artifact", f"one that cannot be read ({reason(error)})",
                     "Make it again, or copy it whole.") from error
    architecture = description.get("architecture", name)
    if size in (None, trained):
        encoder = Encoder(architecture, size=trained, options={"img_size": None, **options})
    else:
        free = {key: value for key, value in options.items() if key != "img_size" or value != trained}
        encoder = Encoder(architecture, size=size, options=free, weights=str(path))
        tensors = {**encoder.state_dict(), **{key: tensors[key] for key in ("mean", "std") if key in tensors}}
    encoder.name = name
    _fill(encoder, tensors, description.get("features", encoder.features), directory)
    return encoder.eval()


def below(name: str, prefixes: Sequence[str]) -> bool:
    """Whether a name is one of the prefixes, or lies below one."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _fill(encoder: Encoder, tensors: dict[str, Tensor], features: int, directory: Path | str) -> None:
    if features != encoder.features:
        raise refuse(str(directory), "an `encoder` artifact of this timm's models",
                     f"{features} features in encoder.json, {encoder.features} from `{encoder.architecture}`",
                     "Take the version of timm that wrote it.")
    try:
        encoder.load_state_dict(tensors)
    except RuntimeError as error:
        wrong = str(error).splitlines()[1].strip().rstrip(".")
        raise refuse(str(directory), "an `encoder` artifact whose two files belong together",
                     wrong if len(wrong) < 200 else f"{wrong[:200]}…", "Copy it whole, or make it again.") from error
