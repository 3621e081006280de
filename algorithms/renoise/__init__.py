"""Re-noising rules: from a clean estimate at one noise level to the noisy image at the next."""
import torch


class RenoisingRule:
    """``x0 + a e + b eps``: e = -sigma score is the noise that the network saw, eps is new noise.

    A subclass gives the two weights; every file beside this one has one. ``rule(x0, score, noise, sigma, sigma_next)``
    is a new tensor of the shape of x0.
    """

    def weights(self, sigma: float, sigma_next: float) -> tuple[float, float]:
        """(a, b): the weights of the old and of the new noise, for 0 <= sigma_next <= sigma."""
        raise NotImplementedError

    def __call__(self, x0: torch.Tensor, score: torch.Tensor, noise: torch.Tensor, sigma: float,
                 sigma_next: float) -> torch.Tensor:
        """Bring the clean estimate x0, made at noise level sigma, to the lower level sigma_next.

        Args:
            x0: the clean estimate.
            score: of its shape, at sigma.
            noise: of its shape, of unit variance.
            sigma: noise level of x0.
            sigma_next: the next one, 0 <= sigma_next <= sigma.

        Raises:
            ValueError: levels out of order.
        """
        if not 0 <= sigma_next <= sigma:
            raise ValueError(f"sigma is {sigma} and sigma_next is {sigma_next}; "
                             "they must satisfy 0 <= sigma_next <= sigma")
        a, b = self.weights(sigma, sigma_next)
        return torch.add(x0, score, alpha=-sigma * a).add_(noise, alpha=b)


def check_eta(eta: float) -> float:
    """The share of new noise itself, if it lies in 0..1; otherwise ValueError."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}; it must lie in 0..1")
    return eta
