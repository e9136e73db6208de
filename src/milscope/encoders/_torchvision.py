"""Lets timm import beside a torchvision whose compiled part does not match the installed torch.

`pip install torch timm` often ends with a CPU build of torch and a CUDA build of torchvision (timm asks for it). Its
compiled operators do not load, and importing it fails with `operator torchvision::nms does not exist`, although timm
needs none of them. Declaring the two operators first is enough. Nothing else in milscope imports torchvision.
"""

import contextlib
import importlib
import sys

import torch

_declared: list[torch.library.Library] = []


def mend() -> None:
    """Declares the missing operators, only if importing torchvision fails for want of them."""
    with contextlib.suppress(ModuleNotFoundError):
        try:
            importlib.import_module("torchvision")
        except RuntimeError as error:
            if "torchvision::" not in str(error):
                raise
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[name]
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _declared.append(library)
            importlib.import_module("torchvision")
