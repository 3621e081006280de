"""Old and new noise in a fixed proportion that adds up to less than the next level's."""
from algorithms.renoise import RenoisingRule, check_eta


class DiffPIR(RenoisingRule):
    """a = (1 - eta) sn, b = eta sn (Zhu et al. 2023, arXiv 2305.08995)."""

    def __init__(self, eta: float = 0.5):
        self.eta = check_eta(eta)

    def weights(self, sigma: float, sigma_next: float) -> tuple[float, float]:
        return (1 - self.eta) * sigma_next, self.eta * sigma_next
