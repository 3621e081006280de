"""What an algorithm tells while it runs, and what it needs to go on after an interruption."""
from collections.abc import Callable

import torch


class Observer:
    """Looks on and keeps nothing; whoever wants to see, or to resume, overrides what it needs."""

    def begin(self, steps: int, label: str) -> None:
        """An iteration of so many steps begins; ``label`` names them in the plural."""

    def estimate(self, level: int, x0: torch.Tensor, sigma: float | None = None, residual: float | None = None) -> None:
        """Step ``level`` (0, 1, ...) has made x0 [n, 1, H, W], not to be changed.

        Args:
            level: index of the step.
            x0: the estimate.
            sigma: noise level of the step, where it has one.
            residual: |A x0 - y| / |y|, where something was measured.
        """

    def keep(self, state: Callable[[], dict]) -> None:
        """Before every level but the first: ``state()`` is all that the rest of the run depends on."""

    def kept(self) -> dict | None:
        """The state to go on from, or None to begin at the first level."""
        return None
