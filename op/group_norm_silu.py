"""Group normalisation and SiLU in one go."""
import torch
import torch.nn.functional as F

from op.build import Compiled, NotCompiled
from op.check import without_gradient

COMPILED = Compiled("group_norm_silu")


def group_norm_silu(x: torch.Tensor, groups: int, weight: torch.Tensor, bias: torch.Tensor, eps: float,
                    shift: torch.Tensor | None = None, impl: str | None = None) -> torch.Tensor:
    """``silu(group_norm(x + shift))``, computed in float32 at least.

    Args:
        x: [N, C, H, W], floating point.
        groups: of channels that are normalised together (Wu & He 2018).
        weight: [C], after the normalisation.
        bias: [C].
        eps: added to the variance.
        shift: [N, C], added to the channels of x before; or None.
        impl: "reference" (PyTorch, with gradients), "compiled" (C++; float32 on CPU, C a multiple of 8, without
            gradients), or None: compiled where it is possible.

    Returns:
        [N, C, H, W], float32 where x is in half precision; compiled in channels-last layout.

    Raises:
        ValueError: an unknown `impl`.
        NotCompiled: "compiled" where it is not possible.
    """
    fits = x.shape[1] % 8 == 0
    if impl == "compiled" and not fits:
        raise NotCompiled(f"group_norm_silu: no compiled code for {x.shape[1]} channels")
    if impl == "compiled" or (impl is None and fits and without_gradient(x, weight, bias, shift)
                              and x.device.type == "cpu" and x.dtype == torch.float32):
        compute = _group_norm_silu if torch.compiler.is_compiling() else _compute
        return compute(x, groups, weight, bias, eps, shift, impl)
    if impl not in (None, "reference"):
        raise ValueError(f"impl: expected 'reference', 'compiled' or None, found {impl!r}")
    return _reference(x, groups, weight, bias, eps, shift)


def _reference(x, groups, weight, bias, eps, shift):
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    if shift is not None:
        x = x + shift[:, :, None, None]
    return F.silu(F.group_norm(x, groups, weight, bias, eps))


def _compute(x: torch.Tensor, groups: int, weight: torch.Tensor, bias: torch.Tensor, eps: float,
             shift: torch.Tensor | None, impl: str | None) -> torch.Tensor:
    if not COMPILED.choose(impl, x, weight, bias, *([] if shift is None else [shift])):
        return _reference(x, groups, weight, bias, eps, shift).contiguous(memory_format=torch.channels_last)
    images, channels, height, width = x.shape
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.empty_like(x)
    COMPILED.call("group_norm_silu", x, None if shift is None else shift.contiguous(), weight, bias, y, images,
                  height * width, channels, groups, float(eps))
    return y


# One node for torch.compile; else called directly, for the first call of a custom operator imports the compiler (0.2
# GB).
_group_norm_silu = torch.library.custom_op("iscs::group_norm_silu", _compute, mutates_args=())


@_group_norm_silu.register_fake
def _(x, groups, weight, bias, eps, shift, impl):
    return torch.empty_like(x, memory_format=torch.channels_last)
