"""Data consistency: move the clean estimate x0 towards the measurement y = A x."""
import torch

from algorithms.cg import cg


def dds(operator, y, num_cg, w_tik):
    """Decomposed diffusion sampling: a few CG steps on the proximal problem, started at x0.

    They go towards the minimum of ``1/2 |A x - y|^2 + rho/2 |x - x0|^2``, that is the solution of
    ``(A^T A + rho I) x = A^T y + rho x0``, with rho = w_tik / sigma^2 (Chung et al. 2024, ICLR,
    arXiv 2303.05754).

    Args:
        operator: linear operator with A and A_T, between tensors [n, 1, H, W] and its range.
        y: measurement, in the range of A.
        num_cg: CG steps a level, >= 1.
        w_tik: Tikhonov weight, >= 0: how hard x0 holds on, more so at low noise.

    Returns:
        Function (x0, sigma) -> x0, both [n, 1, H, W].

    Raises:
        ValueError: num_cg < 1 or w_tik < 0.
    """
    if num_cg < 1:
        raise ValueError(f"num_cg is {num_cg}; DDS needs 1 or more CG steps")
    if not w_tik >= 0:
        raise ValueError(f"w_tik is {w_tik}; it must be 0 or more")
    ATy = operator.A_T(y)

    def consistency(x0, sigma):
        rho = w_tik / sigma**2

        def normal_operator(x):
            return torch.add(operator.A_T(operator.A(x)), x, alpha=rho)

        x, _ = cg(normal_operator, torch.add(ATy, x0, alpha=rho), x0, num_cg)
        return x

    return consistency


def ddnm(operator, y):
    """Denoising diffusion null-space model: replace the part of x0 that the measurement determines.

    ``x0 + A_dagger (y - A x0)`` (Wang et al. 2023, ICLR, arXiv 2212.00490).

    Args:
        operator: linear operator with A and A_dagger, between tensors [n, 1, H, W] and its range.
        y: measurement, in the range of A.

    Returns:
        Function (x0, sigma) -> x0, both [n, 1, H, W]; sigma plays no part in DDNM.
    """
    def consistency(x0, sigma):
        return x0 + operator.A_dagger(y - operator.A(x0))

    return consistency
