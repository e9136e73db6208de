"""The encoder: any timm model, from cells to features, with everything needed to load it again."""

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from milscope.encoders import _torchvision
from milscope.types import refuse

_torchvision.mend()
import timm  # noqa: E402 - needs the line above


class Encoder(nn.Module):
    """A timm model without its classifier, with its own normalisation of colours.

    Args:
        name: The timm model (`resnet18`, `levit_128s`, …).
        size: Side of its input, pixels.
        options: Further options of the timm model, such as `{"channels": [32, 64, 128, 256]}` for a narrow ResNet.

    Raises:
        InputError: If timm has no such model, or it does not take the options or the size.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, *, size: int = 64, options: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.name, self.size, self.options = name, size, dict(options or {})
        try:
            self.backbone = timm.create_model(name, pretrained=False, num_classes=0, **self.options)
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise refuse("encoder", "a timm model that takes the given options", f"`{name}` {self.options} ({reason})",
                         "`timm.list_models()` lists the names.") from error
        self.features: int = self.backbone.num_features  # ty: ignore[invalid-assignment] - timm's models are plain modules
        config: dict[str, Any] = self.backbone.default_cfg  # ty: ignore[invalid-assignment]
        self.register_buffer("mean", torch.tensor(config.get("mean", (0.5,) * 3)).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(config.get("std", (0.25,) * 3)).view(1, 3, 1, 1))

    def forward(self, cells: Float[Tensor, "cell 3 height width"]) -> Float[Tensor, "cell feature"]:
        """Features of cells whose colours lie between 0 and 1."""
        return self.backbone((cells - self.mean) / self.std)

    def save(self, directory: Path) -> None:
        """Writes `encoder.safetensors` and `encoder.json`."""
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, directory / "encoder.safetensors")
        description = {"name": self.name, "size": self.size, "options": self.options, "features": self.features}
        (directory / "encoder.json").write_text(json.dumps(description, indent=1))


def load_encoder(directory: Path | str) -> Encoder:
    """The encoder that was written to a directory, ready to encode.

    Raises:
        InputError: If there is no encoder.
    """
    path = Path(directory) / "encoder.json"
    if not path.exists():
        raise refuse(str(directory), "an `encoder` artifact", "no encoder.json there", "Run `milscope pretrain`.")
    description = json.loads(path.read_text())
    encoder = Encoder(description["name"], size=description["size"], options=description["options"])
    encoder.load_state_dict(load_file(Path(directory) / "encoder.safetensors"))
    return encoder.eval()
