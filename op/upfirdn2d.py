"""Up-sample, filter, down-sample: the resampling step of the score network."""
import torch
import torch.nn.functional as F

from op.build import Compiled, NotCompiled
from op.check import without_gradient

COMPILED = Compiled("upfirdn2d", (torch.float32, torch.float64, torch.float16, torch.bfloat16))


def upfirdn2d(x: torch.Tensor, kernel: torch.Tensor, up: int = 1, down: int = 1,
              pad: tuple[int, int] = (0, 0), impl: str | None = None) -> torch.Tensor:
    """Up-sample, pad, filter and down-sample every plane of a batch of images.

    In this order, on both image axes alike: `up - 1` zeros are put after every pixel; `pad` zeros are put
    before and after (a negative number crops); the plane is convolved with `kernel` (flipped, as convolution
    has it) where they overlap fully; every `down`-th pixel is kept, beginning with the first. A side of size
    H becomes (H * up + before + after - kh) // down + 1.

    Gradients of any order go to `x`; `kernel` is a constant. The operation is that of Karras et al.,
    "Analyzing and improving the image quality of StyleGAN" (2020), which NCSN++ (Song et al. 2021) uses.

    Args:
        x: images [N, C, H, W], floating point, in any memory format.
        kernel: filter [kh, kw]; brought to the type and device of `x`.
        up: integer factor, at least 1.
        down: the same.
        pad: (before, after), integers.
        impl: "reference" (PyTorch), "compiled" (CUDA; CPU: float32 and a multiple of 8 channels), or None: compiled
            where it can be had and PyTorch elsewhere.

    Returns:
        images [N, C, H', W'], in channels-last layout where `x` is.

    Raises:
        ValueError: an argument is not as described, or the result would be empty.
        NotCompiled: impl="compiled" for other tensors, or it could not be built (a warning before says why).
    """
    before, after = _check(x, kernel, up, down, pad)
    height, width = size = [(n * up + before + after - k) // down + 1 for n, k in zip(x.shape[2:], kernel.shape)]
    if min(size) < 1:
        raise ValueError(f"upfirdn2d: x {list(x.shape)}, kernel {list(kernel.shape)}, up={up}, down={down}, "
                         f"pad={(before, after)} leave an empty image {size}")
    if impl not in (None, "reference", "compiled"):
        raise ValueError(f"impl: expected 'reference', 'compiled' or None, found {impl!r}")
    fits = x.device.type == "cuda" or (x.device.type == "cpu" and x.dtype == torch.float32 and x.shape[1] % 8 == 0)
    if impl == "compiled" and not fits:
        raise NotCompiled(f"upfirdn2d: no compiled code for {x.dtype}, {x.shape[1]} channels, on {x.device}")
    if impl == "compiled" or (impl is None and fits):
        compute = _compute if without_gradient(x) and not torch.compiler.is_compiling() else _upfirdn2d
        return compute(x, kernel, up, down, before, before, height, width, impl)
    return _reference(x, kernel.to(x), up, down, (before, before), size)


def _check(x, kernel, up, down, pad):
    if x.ndim != 4 or not x.is_floating_point() or min(x.shape[1:]) < 1:
        raise ValueError("upfirdn2d: x must be floating-point images [N, C, H, W], got "
                         f"{x.dtype} {list(x.shape)}")
    if kernel.ndim != 2 or kernel.numel() == 0:
        raise ValueError(f"upfirdn2d: kernel must be [kh, kw] and not empty, got {list(kernel.shape)}")
    if kernel.requires_grad:
        raise ValueError("upfirdn2d: kernel is a constant, got one that requires a gradient")
    for name, value in (("up", up), ("down", down)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"upfirdn2d: {name} must be an integer of at least 1, got {value!r}")
    if not isinstance(pad, (tuple, list)) or len(pad) != 2 or not all(isinstance(p, int) for p in pad):
        raise ValueError(f"upfirdn2d: pad must be two integers (before, after), got {pad!r}")
    return pad


def _reference(x, kernel, up, down, before, size):
    channels, (kh, kw), (top, left) = x.shape[1], kernel.shape, before
    # What is missing after the last pixel, of the rows and columns that the result needs.
    bottom, right = ((out - 1) * down + k - b - n * up for out, k, b, n in zip(size, (kh, kw), before, x.shape[2:]))
    if up > 1:
        # A transposed convolution: it inserts the zeros without storing them, and returns all pixels that
        # the kernel touches, as if kh - 1 (kw - 1) had been the padding.
        x = F.conv_transpose2d(x, kernel.expand(channels, 1, kh, kw), stride=up, groups=channels)
        x = _pad(x, top - kh + 1, bottom - kh + up, left - kw + 1, right - kw + up)
        return x[:, :, ::down, ::down]
    inside = [max(0, min(ends)) for ends in ((top, bottom), (left, right))]     # what the convolution pads, uncopied
    x = _pad(x, top - inside[0], bottom - inside[0], left - inside[1], right - inside[1])
    weight = kernel.flip(0, 1).expand(channels, 1, kh, kw)
    return F.conv2d(x, weight, stride=down, padding=inside, groups=channels)


def _pad(x, top, bottom, left, right):
    zeros = [max(p, 0) for p in (left, right, top, bottom)]
    if any(zeros):
        x = F.pad(x, zeros)
    height, width = x.shape[2:]
    return x[:, :, max(-top, 0):height - max(-bottom, 0), max(-left, 0):width - max(-right, 0)]


def _layout(x):
    last = x.device.type == "cpu" or (x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous())
    return torch.channels_last if last else torch.contiguous_format


def _compute(x: torch.Tensor, kernel: torch.Tensor, up: int, down: int, top: int, left: int, height: int, width: int,
             impl: str | None) -> torch.Tensor:
    layout = _layout(x)
    y = torch.empty(*x.shape[:2], height, width, dtype=x.dtype, device=x.device, memory_format=layout)
    if not COMPILED.choose(impl, x):
        return y.copy_(_reference(x, kernel.to(x), up, down, (top, left), (height, width)))
    kernel = kernel.to(x.device, x.dtype if x.dtype.itemsize > 2 else torch.float32).contiguous()
    # Numbers that lie side by side, with the same taps: the channels of a pixel, or one.
    planes, inner = (len(x), x.shape[1]) if layout == torch.channels_last else (len(x) * x.shape[1], 1)
    COMPILED.call("upfirdn2d_" + str(x.dtype).removeprefix("torch."), x.contiguous(memory_format=layout), kernel, y,
                  planes, inner, *x.shape[2:], *kernel.shape, up, down, top, left, height, width)
    return y


# One node for torch.compile, and gradients; else called directly, for the first call of a custom operator imports the
# compiler (0.2 GB).
_upfirdn2d = torch.library.custom_op("iscs::upfirdn2d", _compute, mutates_args=())


@_upfirdn2d.register_fake
def _(x, kernel, up, down, top, left, height, width, impl):
    return torch.empty(*x.shape[:2], height, width, dtype=x.dtype, device=x.device, memory_format=_layout(x))


def _keep(ctx, inputs, output):
    x, kernel, *ctx.numbers, ctx.impl = inputs
    ctx.save_for_backward(kernel)
    ctx.size = x.shape[2:]


def _adjoint(ctx, grad):
    """The same operation with the kernel flipped and up and down exchanged."""
    (kernel,), (up, down, top, left, *_) = ctx.saved_tensors, ctx.numbers
    before = kernel.shape[0] - 1 - top, kernel.shape[1] - 1 - left
    return _upfirdn2d(grad, kernel.flip(0, 1), down, up, *before, *ctx.size, ctx.impl), *[None] * 8


_upfirdn2d.register_autograd(_adjoint, setup_context=_keep)
