"""3 x 3 convolution of stride 1 with what stands around it in a residual block."""
import torch
import torch.nn.functional as F

from op.build import Compiled, NotCompiled
from op.check import without_gradient

COMPILED = Compiled("conv3x3")


def conv3x3(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, residual: torch.Tensor | None = None,
            scale: float = 1.0, impl: str | None = None) -> torch.Tensor:
    """``scale (conv(x) + bias + residual)``, x with a frame of zeros.

    On a CPU it is computed by minimal filtering (Winograd 1980; Lavin & Gray 2016, "Fast algorithms for convolutional
    neural networks", F(4 x 4, 3 x 3)): a quarter of the multiplications, a rounding error of 1e-6 to 4e-6 (relative,
    root mean square) where PyTorch's is 3e-7 to 1e-6.

    Args:
        x: [N, in, H, W], floating point.
        weight: [out, in, 3, 3].
        bias: [out].
        residual: [N, out, H, W] or None; the sum is in float32 at least.
        scale: of the sum.
        impl: "reference" (PyTorch, with gradients), "compiled" (C++; float32 on CPU, ``in`` a multiple of 8, ``out`` of
            16, without gradients), or None: compiled where it is possible.

    Returns:
        [N, out, H, W]; compiled in channels-last layout.

    Raises:
        ValueError: an unknown `impl`.
        NotCompiled: "compiled" where it is not possible.
    """
    fits = weight.shape[1] % 8 == 0 and weight.shape[0] % 16 == 0
    if impl == "compiled" and not fits:
        raise NotCompiled(f"conv3x3: no compiled code for {weight.shape[1]} to {weight.shape[0]} channels")
    if impl == "compiled" or (impl is None and fits and without_gradient(x, weight, bias, residual)
                              and x.device.type == "cpu" and x.dtype == torch.float32):
        compute = _conv3x3 if torch.compiler.is_compiling() else _compute
        return compute(x, weight, bias, residual, scale, impl)
    if impl not in (None, "reference"):
        raise ValueError(f"impl: expected 'reference', 'compiled' or None, found {impl!r}")
    return _reference(x, weight, bias, residual, scale)


def _reference(x, weight, bias, residual, scale):
    y = F.conv2d(x, weight, bias, padding=1)
    if residual is not None:
        y = (y.float() if y.dtype in (torch.float16, torch.bfloat16) else y) + residual
    return y if scale == 1 else y * scale


def _compute(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, residual: torch.Tensor | None,
             scale: float, impl: str | None) -> torch.Tensor:
    tensors = [x, weight, bias] + ([] if residual is None else [residual])
    if not COMPILED.choose(impl, *tensors):
        return _reference(x, weight, bias, residual, scale).contiguous(memory_format=torch.channels_last)
    images, channels, height, width = x.shape
    x = x.contiguous(memory_format=torch.channels_last)
    residual = None if residual is None else residual.contiguous(memory_format=torch.channels_last)
    y = torch.empty(images, len(weight), height, width, memory_format=torch.channels_last)
    COMPILED.call("conv3x3", x, weight.contiguous(), bias, residual, y, images, height, width, channels, len(weight),
                  float(scale))
    return y


# One node for torch.compile; else called directly, for the first call of a custom operator imports the compiler (0.2
# GB).
_conv3x3 = torch.library.custom_op("iscs::conv3x3", _compute, mutates_args=())


@_conv3x3.register_fake
def _(x, weight, bias, residual, scale, impl):
    return torch.empty(len(x), len(weight), *x.shape[2:], dtype=x.dtype, device=x.device,
                       memory_format=torch.channels_last)
