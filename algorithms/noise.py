"""Gaussian noise for a stack of slices: independent, or correlated between neighbours (ISCS), or none."""
import math

import torch

CONTROLS = ("SLERP", "None", "shared", "GP", "zero")


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


def gp_latents(n, spacing, length):
    """How independent latent images add up to a Gaussian process over n slices, image by image.

    The process is stationary, with unit variance and correlation ``exp(-d^2 / (2 l^2))`` at distance d: the
    squared exponential of Rasmussen & Williams 2006, eq. 4.9. That kernel is the autocorrelation of the Gaussian
    ``exp(-t^2 / l^2)``, so white noise convolved with it has the correlation wanted (process convolution,
    Higdon 2002). The white noise lives on a grid of its own, of pitch 2 l / 3, which reaches past both ends of
    the stack and is cut off 3 l from a slice; the weights of a slice are scaled to unit variance. The correlation
    is then right to 1e-4, at any spacing and for any part of a stack. Slices further apart than 4.3 l correlate
    by less than that, and are independent.

    Args:
        n: number of slices, >= 1.
        spacing: distance from slice to slice, > 0.
        length: l, > 0, in the unit of the spacing.

    Returns:
        A list with (first slice, float64 weights [k]) for every latent image: add it with these weights to the
        k slices from the first on. 10 + 1.5 (n - 1) spacing / length latent images, of which every slice takes
        10; n, one a slice, where they are independent.
    """
    if spacing > 4.3 * length:
        return [(k, torch.ones(1, dtype=torch.float64)) for k in range(n)]
    pitch, reach = 2 / 3, 5  # grid in units of l; points on either side of a slice
    position = torch.arange(n, dtype=torch.float64) * (spacing / length / pitch)  # in grid points
    points = position.floor().long()[:, None] + torch.arange(1 - reach, reach + 1)
    weights = torch.exp(-((position[:, None] - points) * pitch).square())
    weights /= weights.norm(dim=1, keepdim=True)
    first, last = points[:, 0].contiguous(), points[:, -1].contiguous()  # both rise with the slice
    latents = []
    for point in range(int(first[0]), int(last[-1]) + 1):
        begin, end = int(torch.searchsorted(last, point)), int(torch.searchsorted(first, point, right=True))
        slices = torch.arange(begin, end)
        latents.append((begin, weights[slices, point - first[slices]]))
    return latents


def noise_source(control, shape, generator, device, *, spacing=None, length=None):
    """Make the source of every noise image of a run.

    Args:
        control: upper or lower case,
            'SLERP'   ISCS: `slerp_slices` of two images drawn anew at every call
            'None'    independent slices
            'shared'  one image for all slices
            'GP'      a Gaussian process along the slices, independent from pixel to pixel: `gp_latents`
            'zero'    zeros, for plug-and-play denoising: the one control that is no noise
        shape: (n, C, H, W) of the noise, n slices.
        generator: torch.Generator on the CPU. All draws come from it and then move to the device, so that
            a seed means the same noise on every device.
        device: where the noise is wanted.
        spacing: distance from slice to slice in mm; needed for GP, and without a meaning for the others.
        length: correlation length l of GP in mm: exp(-1/2) at this distance. Of no other control.

    Returns:
        A function without arguments; each call draws a new float32 tensor of this shape, every voxel
        with zero mean and unit variance ('zero': all 0). It takes no more memory than the noise and a few images.

    Raises:
        ValueError: unknown control, a shape that is not four sizes of 1 or more, a generator that is
            not on the CPU, GP without a positive spacing and length, or a length for another control.
    """
    names = {name.lower(): name for name in CONTROLS}
    if str(control).lower() not in names:
        raise ValueError(f"noise control is {control!r}; choose from {', '.join(CONTROLS)}")
    control = names[str(control).lower()]
    if len(shape) != 4 or min(shape) < 1:
        raise ValueError(f"noise shape is {tuple(shape)}; it must be (n, C, H, W), each 1 or more")
    if generator.device.type != "cpu":
        raise ValueError(f"noise generator is on {generator.device}; it must be on cpu")
    n, *image = shape

    def draw(count):
        return torch.randn(count, *image, generator=generator, dtype=torch.float32).to(device)

    if control == "GP":
        for name, value in (("spacing", spacing), ("length", length)):
            if value is None or not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}; GP needs one above 0, in mm")
        latents = [(k, w.to(device, torch.float32)) for k, w in gp_latents(n, spacing, length)]
    elif length is not None:
        raise ValueError(f"length is {length}; {control} has no correlation length")

    def gaussian_process():
        noise = torch.zeros(shape, device=device)
        for first, weights in latents:
            noise[first:first + len(weights)].addcmul_(weights.view(-1, 1, 1, 1), draw(1))
        return noise

    return {
        "SLERP": lambda: slerp_slices(draw(1), draw(1), n),
        "None": lambda: draw(n),
        "shared": lambda: draw(1).repeat(n, 1, 1, 1),
        "GP": gaussian_process,
        "zero": lambda: torch.zeros(shape, device=device),
    }[control]
