"""Old and new noise in a fixed proportion, of the variance of the next level."""
import math

from algorithms.renoise import RenoisingRule, check_eta


class DDSRule(RenoisingRule):
    """a = sqrt(1 - eta^2) sn, b = eta sn (Chung et al. 2024, arXiv 2303.05754)."""

    def __init__(self, eta: float = 0.85):
        self.eta = check_eta(eta)

    def weights(self, sigma: float, sigma_next: float) -> tuple[float, float]:
        return math.sqrt(1 - self.eta**2) * sigma_next, self.eta * sigma_next
