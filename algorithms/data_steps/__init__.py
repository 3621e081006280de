"""Data steps: move the clean estimate x0 of a level towards the measurement y = A x.

A data step is made for a `Problem` and used for one run; every file beside this one has one.
"""
import torch


class DataStep:
    """``step(x0, sigma)`` is x0 [n, 1, H, W] made consistent with the measurement; x0 is not changed."""

    def __call__(self, x0: torch.Tensor, sigma: float) -> torch.Tensor:
        raise NotImplementedError

    def centre(self, x: torch.Tensor) -> torch.Tensor:
        """What the noise of the next level is put on, for the x that the step has just returned."""
        return x

    def state_dict(self) -> dict:
        """What the step remembers from level to level, as tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` gave."""
