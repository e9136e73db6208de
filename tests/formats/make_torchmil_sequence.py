"""Makes what independent implementations say of small inputs, for `tests/unit/aggregators`.

    pip install torchmil==1.0.2 nystrom-attention==0.0.14 mambapy==1.2.0
    python tests/formats/make_torchmil_sequence.py tests/unit/aggregators/archived

It writes transmil (torchmil's TransMIL), nystrom (the attention that TransMIL's authors use) and mamba (the block that
MambaMIL's layers are made of), each as safetensors: inputs, outputs, and the weights under the names that they have in
milscope, all in float64. Neither ABMILX nor MambaMIL as a whole is in a registry.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

import milscope.encoders._torchvision as torchvision

FEATURES, WIDTH, HEADS, LANDMARKS = 5, 8, 2, 4
LENGTHS = (9, 7, 1, 16, 3)
KERNEL = 33


def make(out: Path) -> None:
    """All three files."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    save(out / "transmil.safetensors", transmil())
    save(out / "nystrom.safetensors", nystrom())
    save(out / "mamba.safetensors", mamba())


@torch.no_grad()
def transmil() -> dict[str, torch.Tensor]:
    """torchmil's model, with the ReLU that it leaves to its user.

    It has neither a projection after the attention nor a convolution over the values.
    """
    torchvision.mend()
    from torchmil.models import TransMIL

    embed = nn.Sequential(nn.Linear(FEATURES, WIDTH), nn.ReLU())
    model = TransMIL((FEATURES,), att_dim=WIDTH, n_heads=HEADS, n_landmarks=LANDMARKS, feat_ext=embed).eval()
    found = {"options": torch.tensor([FEATURES, WIDTH, HEADS, LANDMARKS]), **weights("embed.0", embed[0])}
    found["weight.token"] = model.cls_token[0]
    for name, layer in zip(("first", "second"), model.layers, strict=True):
        found |= weights(f"{name}.norm", layer.norm1)
        for part, weight in zip(("query", "key", "value"), layer.att_module.qkv_nn.weight.chunk(3), strict=True):
            found[f"weight.{name}.{part}.weight"] = weight
        found[f"weight.{name}.out.0.weight"], found[f"weight.{name}.out.0.bias"] = torch.eye(WIDTH), torch.zeros(WIDTH)
        found[f"weight.{name}.near.weight"] = torch.zeros(HEADS, 1, KERNEL)
    for name, convolution in (("wide", "proj"), ("middle", "proj1"), ("narrow", "proj2")):
        found |= weights(f"position.{name}", getattr(model.pos_layer, convolution))
    found |= weights("classify.0", model.norm) | weights("classify.1", model.classifier)
    for cells in LENGTHS:
        found[f"cells.{cells}"] = torch.randn(cells, FEATURES)
        logit, attention = model(found[f"cells.{cells}"][None], return_att=True)
        found[f"logit.{cells}"], found[f"attention.{cells}"] = logit, attention[0]
    return found


@torch.no_grad()
def nystrom() -> dict[str, torch.Tensor]:
    """The attention alone, with the convolution over the values."""
    from nystrom_attention import NystromAttention

    model = NystromAttention(WIDTH, dim_head=WIDTH // HEADS, heads=HEADS, num_landmarks=LANDMARKS).eval()
    found = weights("out.0", model.to_out[0])
    found["weight.near.weight"] = model.res_conv.weight[..., 0]
    for part, weight in zip(("query", "key", "value"), model.to_qkv.weight.chunk(3), strict=True):
        found[f"weight.{part}.weight"] = weight
    for cells in (40, 5):
        found[f"tokens.{cells}"] = torch.randn(cells, WIDTH)
        output, attention = model(found[f"tokens.{cells}"][None], return_attn=True)
        found[f"output.{cells}"], found[f"attention.{cells}"] = output[0], attention[0, :, -cells, -cells:].mean(0)
    return found


@torch.no_grad()
def mamba() -> dict[str, torch.Tensor]:
    """One block, without the norm before it and the residual around it."""
    from mambapy.mamba import MambaBlock, MambaConfig

    model = MambaBlock(MambaConfig(d_model=WIDTH, n_layers=1, d_state=3)).eval()
    found = weights("enter", model.in_proj) | weights("leave", model.out_proj)
    found |= weights("branches.0.near", model.conv1d) | weights("branches.0.select", model.x_proj)
    found |= weights("branches.0.step", model.dt_proj)
    found |= {"weight.branches.0.decay": model.A_log.T, "weight.branches.0.skip": model.D}
    for cells in (70, 2):
        found[f"cells.{cells}"] = torch.randn(cells, WIDTH)
        found[f"output.{cells}"] = model(found[f"cells.{cells}"][None])[0]
    return found


def save(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Writes copies: safetensors wants each tensor's memory to be its own."""
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, path)


def weights(name: str, layer: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of a layer under its name in milscope."""
    return {f"weight.{name}.{part}": tensor.detach() for part, tensor in layer.named_parameters()}


if __name__ == "__main__":
    make(Path(sys.argv[1]))
