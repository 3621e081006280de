"""From a clean estimate at one noise level to the noisy image at the next."""
import math

import torch

METHODS = ("DDPM", "DDIM", "DDS", "DiffPIR")
DEFAULT_ETA = {"DDS": 0.85, "DiffPIR": 0.5}


def renoise(method, x0, score, noise, sigma, sigma_next, eta=None):
    """Bring the clean estimate x0, made at noise level sigma, to the lower level sigma_next.

    Every rule is ``x0 + a e + b eps``: e = -sigma score is the noise that the network saw, eps is new
    noise. With sn = sigma_next:

    ========  ==========================  ==========================  ===================================
    method    a                           b                           source
    ========  ==========================  ==========================  ===================================
    DDPM      0                           sn                          all noise is new
    DDIM      sqrt(sn^2 - b^2)            min(sn, sqrt(sigma^2-sn^2)) Song et al. 2021, arXiv 2010.02502
    DDS       sqrt(1 - eta^2) sn          eta sn, eta 0.85            Chung et al. 2024, arXiv 2303.05754
    DiffPIR   (1 - eta) sn                eta sn, eta 0.5             Zhu et al. 2023, arXiv 2305.08995
    ========  ==========================  ==========================  ===================================

    Args:
        method: one of METHODS.
        x0, score, noise: tensors of one shape; the score at sigma, and noise of unit variance.
        sigma, sigma_next: numbers, 0 <= sigma_next <= sigma.
        eta: share of new noise in DDS and DiffPIR, 0..1; None is the method's default.

    Returns:
        A new tensor of the shape of x0.

    Raises:
        ValueError: unknown method, eta out of range or given to a method without it, levels out of order.
    """
    if not 0 <= sigma_next <= sigma:
        raise ValueError(f"sigma is {sigma} and sigma_next is {sigma_next}; "
                         "they must satisfy 0 <= sigma_next <= sigma")
    a, b = _weights(method, sigma, sigma_next, eta)
    return torch.add(x0, score, alpha=-sigma * a).add_(noise, alpha=b)


def _weights(method, sigma, sn, eta):
    """(a, b): the weights of the old and of the new noise."""
    if method not in METHODS:
        raise ValueError(f"re-noising method is {method!r}; choose from {', '.join(METHODS)}")
    if eta is not None and method not in DEFAULT_ETA:
        raise ValueError(f"eta is {eta}; {method} has no eta")
    if method == "DDPM":
        return 0.0, sn
    if method == "DDIM":
        # Two distant levels would ask for more new noise than the next level holds.
        b = min(sn, math.sqrt(sigma**2 - sn**2))
        return math.sqrt(sn**2 - b**2), b
    eta = DEFAULT_ETA[method] if eta is None else eta
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}; it must lie in 0..1")
    a = math.sqrt(1 - eta**2) if method == "DDS" else 1 - eta
    return a * sn, eta * sn
