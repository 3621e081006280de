"""Gaussian noise for a stack of slices: independent, or correlated between neighbours (ISCS)."""
import math

import torch

CONTROLS = ("SLERP", "None")


def slerp_slices(z0, z1, n):
    """Spread n slices evenly over the arc from image z0 to image z1.

    Slice k is ``sin((1 - a) theta) / sin(theta) z0 + sin(a theta) / sin(theta) z1`` with
    ``a = (16 k + 1 + 8 [n odd]) / (16 n + 1)`` and theta the angle between the two images, taken as
    vectors. This is the inter-slice consistent noise of Du et al. 2026 (ISCS, arXiv 2602.04162) in closed
    form. Parallel images span no arc: they get the linear weights ``1 - a`` and ``a``.

    Args:
        z0, z1: [1, C, H, W], the same shape.
        n: number of slices, >= 1.

    Returns:
        [n, C, H, W], in the dtype and on the device of z0.

    Raises:
        ValueError: the shapes differ or do not start with 1, or n < 1.
    """
    if z0.shape != z1.shape or z0.ndim != 4 or z0.shape[0] != 1:
        raise ValueError(f"z0 is {list(z0.shape)} and z1 is {list(z1.shape)}; both must be one [1, C, H, W]")
    if n < 1:
        raise ValueError(f"n is {n}; the number of slices must be 1 or more")
    k = torch.arange(n, dtype=torch.float64)
    a = (16 * k + 1 + 8 * (n % 2)) / (16 * n + 1)
    theta = _angle(z0, z1)
    if math.sin(theta) < 1e-6:
        w0, w1 = 1 - a, a
    else:
        w0, w1 = torch.sin((1 - a) * theta) / math.sin(theta), torch.sin(a * theta) / math.sin(theta)
    w0, w1 = (w.to(z0).view(n, 1, 1, 1) for w in (w0, w1))
    return (w0 * z0).addcmul_(w1, z1)  # in place: one stack of memory, not three


def _angle(u, v):
    """Angle between two tensors, in float64, exact near 0 and pi where the arc cosine is not (Kahan)."""
    u, v = u.double(), v.double()
    u, v = u * v.norm(), v * u.norm()
    return 2 * math.atan2((u - v).norm(), (u + v).norm())


def noise_source(control, shape, generator, device):
    """Make the source of every noise image of a run.

    Args:
        control: 'SLERP' (ISCS, `slerp_slices` of two images drawn anew at every call) or 'None'
            (independent slices); upper or lower case.
        shape: (n, C, H, W) of the noise, n slices.
        generator: torch.Generator on the CPU. All draws come from it and then move to the device, so that
            a seed means the same noise on every device.
        device: where the noise is wanted.

    Returns:
        A function without arguments; each call draws a new float32 tensor of this shape, every voxel
        with zero mean and unit variance.

    Raises:
        ValueError: unknown control, a shape that is not four sizes of 1 or more, or a generator that is
            not on the CPU.
    """
    names = {name.lower(): name for name in CONTROLS}
    if str(control).lower() not in names:
        raise ValueError(f"noise control is {control!r}; choose from {', '.join(CONTROLS)}")
    if len(shape) != 4 or min(shape) < 1:
        raise ValueError(f"noise shape is {tuple(shape)}; it must be (n, C, H, W), each 1 or more")
    if generator.device.type != "cpu":
        raise ValueError(f"noise generator is on {generator.device}; it must be on cpu")
    n, *image = shape

    def draw(count):
        return torch.randn(count, *image, generator=generator, dtype=torch.float32).to(device)

    def independent():
        return draw(n)

    def slerp():
        return slerp_slices(draw(1), draw(1), n)

    return {"SLERP": slerp, "None": independent}[names[str(control).lower()]]
