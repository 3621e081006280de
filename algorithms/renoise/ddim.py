"""As much new noise as the step from level to level takes away."""
import math

from algorithms.renoise import RenoisingRule


class DDIM(RenoisingRule):
    """b = min(sn, sqrt(sigma^2 - sn^2)), a = sqrt(sn^2 - b^2) (Song et al. 2021, arXiv 2010.02502, eta 1)."""

    def weights(self, sigma: float, sigma_next: float) -> tuple[float, float]:
        # Two distant levels would ask for more new noise than the next level holds.
        b = min(sigma_next, math.sqrt(sigma**2 - sigma_next**2))
        return math.sqrt(sigma_next**2 - b**2), b
