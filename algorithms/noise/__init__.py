"""Noise controls: Gaussian noise for a stack of slices, and what neighbouring slices have in common in it.

A control is called as ``control(shape, generator, device, spacing)`` and returns new noise; every file beside this one
has one. Together with PyTorch they stand alone: nothing else of this program is needed to use them in another sampler.
"""
from collections.abc import Callable

import torch

NoiseControl = Callable[..., torch.Tensor]


def noise_source(control: NoiseControl, shape: tuple[int, ...], generator: torch.Generator,
                 device: torch.device | str = "cpu", spacing: float | None = None) -> Callable[[], torch.Tensor]:
    """The source of every noise image of a run.

    Args:
        control: one of the classes of this package, such as ``Slerp()``.
        shape: (n, C, H, W) of the noise, n slices.
        generator: of the random numbers, on the CPU: they are drawn there and then moved, so that a seed means the
            same noise on every device.
        device: where the noise is wanted.
        spacing: distance from slice to slice in mm, for controls that ask for it.

    Returns:
        A function without arguments; each call draws a new float32 tensor of this shape.

    Raises:
        ValueError: a shape that is not four sizes of 1 or more, a generator that is not on the CPU, or a spacing that
            the control needs and does not have.
    """
    if len(shape) != 4 or min(shape) < 1:
        raise ValueError(f"noise shape is {tuple(shape)}; it must be (n, C, H, W), each 1 or more")
    if generator.device.type != "cpu":
        raise ValueError(f"noise generator is on {generator.device}; it must be on cpu")
    if hasattr(control, "check"):
        control.check(spacing)
    return lambda: control(tuple(shape), generator, device, spacing)


def draw(count: int, shape: tuple[int, ...], generator: torch.Generator, device: torch.device | str) -> torch.Tensor:
    """``count`` independent images [count, C, H, W] of the shape (n, C, H, W), drawn on the CPU."""
    return torch.randn(count, *shape[1:], generator=generator, dtype=torch.float32).to(device)
