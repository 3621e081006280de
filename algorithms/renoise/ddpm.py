"""All noise is new."""
from algorithms.renoise import RenoisingRule


class DDPM(RenoisingRule):
    """``x0 + sn eps``: the rule of the published scripts of ISCS."""

    def weights(self, sigma: float, sigma_next: float) -> tuple[float, float]:
        return 0.0, sigma_next
