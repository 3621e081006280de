"""Up-sample, filter, down-sample: the resampling step of the score network."""
import torch
import torch.nn.functional as F

from op.build import Compiled

COMPILED = Compiled("upfirdn2d", (torch.float32, torch.float64))


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
        impl: "reference" (PyTorch), "compiled" (CUDA; float32 and float64) or None, which takes the compiled one
            where it can be had and PyTorch elsewhere.

    Returns:
        images [N, C, H', W'].

    Raises:
        ValueError: an argument is not as described, or the result would be empty.
        NotCompiled: impl="compiled" for other tensors, or it could not be built (a warning before says why).
    """
    before, after = _check(x, kernel, up, down, pad)
    size = [(n * up + before + after - k) // down + 1 for n, k in zip(x.shape[2:], kernel.shape)]
    if min(size) < 1:
        raise ValueError(f"upfirdn2d: x {list(x.shape)}, kernel {list(kernel.shape)}, up={up}, down={down}, "
                         f"pad={(before, after)} leave an empty image {size}")
    kernel = kernel.to(x)
    if COMPILED.choose(impl, x):
        return _Compiled.apply(x, kernel, up, down, (before, before), tuple(size))
    return _reference(x, kernel, up, down, before, after)


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


def _reference(x, kernel, up, down, before, after):
    channels, (kh, kw) = x.shape[1], kernel.shape
    if up > 1:
        # A transposed convolution: it inserts the zeros without storing them, and returns all pixels that
        # the kernel touches, as if kh - 1 (kw - 1) had been the padding.
        x = F.conv_transpose2d(x, kernel.expand(channels, 1, kh, kw), stride=up, groups=channels)
        x = _pad(x, before - kh + 1, after - kh + up, before - kw + 1, after - kw + up)
        return x[:, :, ::down, ::down]
    inside = max(0, min(before, after))  # padding that the convolution does itself, without a copy
    x = _pad(x, before - inside, after - inside, before - inside, after - inside)
    weight = kernel.flip(0, 1).expand(channels, 1, kh, kw)
    return F.conv2d(x, weight, stride=down, padding=inside, groups=channels)


def _pad(x, top, bottom, left, right):
    zeros = [max(p, 0) for p in (left, right, top, bottom)]
    if any(zeros):
        x = F.pad(x, zeros)
    height, width = x.shape[2:]
    return x[:, :, max(-top, 0):height - max(-bottom, 0), max(-left, 0):width - max(-right, 0)]


class _Compiled(torch.autograd.Function):
    """The compiled version, with the padding before and the output size given for each axis, (y, x)."""

    @staticmethod
    def forward(ctx, x, kernel, up, down, before, size):
        ctx.save_for_backward(kernel)
        ctx.arguments = up, down, before, tuple(x.shape[2:])
        x, kernel = x.contiguous(), kernel.contiguous()
        y = x.new_empty(*x.shape[:2], *size)
        numbers = (x.shape[0] * x.shape[1], *x.shape[2:], *kernel.shape, up, down, *before, *size)
        COMPILED.call("upfirdn2d_" + str(x.dtype).removeprefix("torch."), x, kernel, y, *numbers)
        return y

    @staticmethod
    def backward(ctx, grad):
        # The adjoint is the same operation with the kernel flipped and up and down exchanged.
        (kernel,) = ctx.saved_tensors
        up, down, before, size = ctx.arguments
        before = tuple(k - 1 - b for k, b in zip(kernel.shape, before))
        return _Compiled.apply(grad, kernel.flip(0, 1), down, up, before, size), None, None, None, None, None
