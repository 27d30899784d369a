"""Where to compute, and in which number format."""

from typing import Literal

import torch

from train.errors import RunError

DeviceName = Literal["auto", "cpu", "cuda"]
PrecisionName = Literal["auto", "float32", "bfloat16"]


def choose_device(name: DeviceName) -> torch.device:
    """Returns the device of that name; `auto` takes CUDA where there is any.

    Raises:
        RunError: CUDA is asked for and absent.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise RunError(f"--device is cuda, but PyTorch {torch.__version__} finds no CUDA device; use --device cpu")
    if name == "auto":
        name = "cuda" if available else "cpu"
    # Else convolutions called float32 would be TF32, and answers those of no other machine.
    torch.backends.cudnn.allow_tf32 = False
    return torch.device(name)


def device_label(device: torch.device) -> str:
    """What results call a device: a GPU by its name, a processor `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def choose_precision(name: PrecisionName, device: torch.device) -> torch.dtype:
    """Returns the number format of convolutions and products in training.

    `auto` takes bfloat16 where the device has instructions for it, which doubles the speed of wide
    networks, and float32 elsewhere. Weights, their averages and all evaluation are float32 always.
    """
    match name:
        case "float32":
            return torch.float32
        case "bfloat16":
            return torch.bfloat16
        case "auto":
            return torch.bfloat16 if _has_bfloat16(device) else torch.float32


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
