"""In which type of number the layers of a network compute, when it is used and when it is trained."""
import torch

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# What a processor calls its instructions for them.
INSTRUCTIONS = {"bf16": ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"),
                "fp16": ("avx512_fp16", "amx_fp16", "fp16_arith")}


def choose_precision(name: str, device: torch.device, training: bool = False) -> str:
    """A key of `PRECISIONS`; auto is half precision on CUDA and float32 on the CPU.

    The half that auto takes is fp16: bf16 has three bits less, which cost 4 % more inter-slice error in CT. In training
    it is bf16, for its range, where the GPU has it.

    Raises:
        ValueError: half precision on a processor without the instructions, which would take several times as long as
            float32.
    """
    if name == "auto":
        if device.type != "cuda":
            return "float32"
        return "bf16" if training and torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    if device.type == "cpu" and name != "float32" and not cpu_computes_in(name):
        raise ValueError(f"precision {name}: this processor has no instructions for it and would take about seven "
                         "times as long; accepted: auto, float32")
    return name


def cpu_computes_in(name: str) -> bool:
    """Whether the processor has instructions for "bf16" or "fp16", as far as this version of PyTorch can tell."""
    found: dict = getattr(torch.cpu, "get_capabilities", dict)()
    return any(found.get(instructions) for instructions in INSTRUCTIONS[name])


def describe(precision: str, device: torch.device) -> str:
    """A precision in words, with what float32 means on CUDA."""
    rounded = precision == "float32" and device.type == "cuda" and torch.backends.cudnn.allow_tf32
    return precision + " (convolutions in TF32)" * rounded


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """A context in which layers compute in this precision; weights and what is sensitive stay in float32."""
    return torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "float32")
