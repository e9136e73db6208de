"""Where an encoder runs, and in which arithmetic."""

import resource
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from milscope.types import refuse


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` takes CUDA, else the processor.

    Apple's devices (`mps`) are taken only if asked for: they have no float64, in which gradients are compared, so that an
    encoder runs on them and cannot be pretrained.

    Raises:
        InputError: If there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise refuse("device", "cpu, cuda, cuda:N, mps or auto", f"`{name}`, which is not to be had here",
                     "Use `--device auto`.") from error
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The arithmetic of that name; `auto` takes bfloat16 where the processor computes it, else float32."""
    if name != "auto":
        return torch.float32 if name == "float32" else torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    has_bf16 = device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return torch.bfloat16 if has_bf16 else torch.float32


def mixed_precision(device: torch.device, precision: torch.dtype) -> AbstractContextManager:
    """The context in which an encoder runs in that arithmetic; losses stay outside, in float32."""
    return torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32)


def peak_memory(device: torch.device) -> float:
    """The most memory that was taken so far, in bytes: of a CUDA device by tensors, else by the process, mapped files left out.

    What files are mapped at the peak nobody keeps; it is taken for what is mapped now.
    """
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    lines = _status()
    if lines:  # `ru_maxrss` of a child begins with its parent's
        return lines["VmHWM"] - lines["RssFile"] - lines["RssShmem"]
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024


def taken_memory(device: torch.device) -> float:
    """The memory that is taken now, counted likewise; where the system does not tell it, the most so far."""
    if device.type == "cuda":
        return float(torch.cuda.memory_allocated(device))
    lines = _status()
    return lines["RssAnon"] if lines else peak_memory(device)


def _status() -> dict[str, float]:
    """What Linux tells of the process's memory, in bytes; nothing elsewhere."""
    file = Path("/proc/self/status")
    lines = (line.split() for line in file.read_text().splitlines()) if file.exists() else ()
    return {words[0].rstrip(":"): float(words[1]) * 1024 for words in lines if words[-1] == "kB"}
