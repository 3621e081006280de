"""In which number type the layers of a network compute while it is trained."""
import torch

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(name: str, device: torch.device) -> str:
    """A key of `PRECISIONS`; auto is bf16 on CUDA, float32 on the CPU."""
    return {"cuda": "bf16"}.get(device.type, "float32") if name == "auto" else name


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """A context in which layers compute in this precision; weights and what is sensitive stay in float32."""
    return torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "float32")
