"""A prior that sees the volume mirrored on every other pair of levels."""
from typing import Any

import torch


class Mirrored:
    """Asks a prior that has no left and right of its own for both, by turns.

    What it makes of an image and of the mirrored one differ by its own error, which so changes sides and is averaged
    over the levels (equivariant plug-and-play: Terris et al. 2024, CVPR, arXiv 2312.01831). It costs nothing. Pairs of
    levels, since two planes take single ones in turn.

    Args:
        prior: score(x, sigma) and ``vjp`` of x [n, 1, H, W], as `models.slice_score.SliceScore`.
        axes: those of x that are reversed.

    ``level`` is that of the last score; set it to one less than the first where a run goes on.
    """

    def __init__(self, prior: Any, axes: tuple[int, ...]):
        self.prior, self.axes, self.level = prior, axes, -1

    def _turned(self, x: torch.Tensor) -> torch.Tensor:
        return x.flip(self.axes) if self.level % 4 >= 2 else x

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """The score of the next level."""
        self.level += 1
        return self._turned(self.prior(self._turned(x), sigma))

    def vjp(self, x: torch.Tensor, sigma: float, v: torch.Tensor) -> torch.Tensor:
        """As `models.slice_score.SliceScore.vjp`, of the last score's level."""
        return self._turned(self.prior.vjp(self._turned(x), sigma, self._turned(v)))
