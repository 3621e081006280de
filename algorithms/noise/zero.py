"""No noise at all, for plug-and-play denoising."""
import torch


class Zero:
    """Zeros: the one control that is no noise."""

    def __call__(self, shape: tuple[int, ...], generator: torch.Generator, device: torch.device | str = "cpu",
                 spacing: float | None = None) -> torch.Tensor:
        return torch.zeros(shape, device=device)
