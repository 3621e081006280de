"""Data consistency: move the clean estimate x0 towards the measurement y = A x."""
import torch

from algorithms.cg import cg

TV_THRESHOLD = 0.01   # w_dz / penalty: the step between slices that one ADMM iteration can flatten, in intensity


def dds(operator, y, num_cg, w_tik, weights=None, w_dz=0.0):
    """Decomposed diffusion sampling: a few CG steps on the proximal problem, started at x0.

    They go towards the minimum of ``1/2 |A x - y|^2_W + rho/2 |x - x0|^2``, that is the solution of
    ``(A^T W A + rho I) x = A^T W y + rho x0``, with rho = w_tik / sigma^2 (Chung et al. 2024, ICLR,
    arXiv 2303.05754) and ``|r|^2_W = <r, W r>``; W = 1 / variance of y makes the data term its log-likelihood.

    ``w_dz`` adds ``w_dz |D x|_1``, where D takes the differences of neighbouring slices (no wrap-around): the
    total variation along the axis that the prior does not see, as in DiffusionMBIR (Chung et al. 2023, CVPR,
    arXiv 2211.10655). Every level takes one iteration of ADMM on the split z = D x with scaled dual u,

        x <- (A^T W A + rho I + p D^T D)^-1 (A^T W y + rho x0 + p D^T (z - u))      by CG, started at x0
        z <- shrink(D x + u, w_dz / p)
        u <- u + D x - z

    and z and u go on from level to level. Both follow from v = D x + u, u being v clamped to +-w_dz / p, so v
    is all that is kept. The penalty p = w_dz / TV_THRESHOLD sets the speed, not the solution, and vanishes with
    w_dz: what is left is plain DDS.

    Args:
        operator: linear operator with A and A_T, between tensors [n, 1, H, W] and its range.
        y: measurement, in the range of A.
        num_cg: CG steps a level, >= 1.
        w_tik: Tikhonov weight, >= 0: how hard x0 holds on, more so at low noise.
        weights: diagonal of W, >= 0, broadcastable to y; None is 1 everywhere. y is to be finite even where
            the weight is 0.
        w_dz: weight of the total variation along the slices, >= 0, in units of |A x|^2 per unit of intensity.

    Returns:
        Function (x0, sigma) -> x0, both [n, 1, H, W]. With w_dz it has a memory, to be used for one run: its
        attribute ``split`` is v [n - 1, 1, H, W], None before the first level.

    Raises:
        ValueError: num_cg < 1, w_tik or w_dz < 0, weights that are negative, not finite or do not fit y.
    """
    if num_cg < 1:
        raise ValueError(f"num_cg is {num_cg}; DDS needs 1 or more CG steps")
    for name, weight in (("w_tik", w_tik), ("w_dz", w_dz)):
        if not weight >= 0:
            raise ValueError(f"{name} is {weight}; it must be 0 or more")
    if weights is not None:
        check_weights(weights, y)
    penalty = w_dz / TV_THRESHOLD

    def AT_W(r):
        return operator.A_T(r if weights is None else weights * r)

    ATWy = AT_W(y)

    def consistency(x0, sigma):
        rho = w_tik / sigma**2

        def normal_operator(x):
            Nx = torch.add(AT_W(operator.A(x)), x, alpha=rho)
            return Nx.add_(slice_differences_T(slice_differences(x)), alpha=penalty) if w_dz else Nx

        b = torch.add(ATWy, x0, alpha=rho)
        if w_dz:
            v = slice_differences(x0) if consistency.split is None else consistency.split
            u = v.clamp(-TV_THRESHOLD, TV_THRESHOLD)
            b.add_(slice_differences_T(v - 2 * u), alpha=penalty)  # z - u = v - 2 u
        x, _ = cg(normal_operator, b, x0, num_cg)
        if w_dz:
            consistency.split = u.add_(slice_differences(x))
        return x

    consistency.split = None
    return consistency


def ddnm(operator, y):
    """Denoising diffusion null-space model: replace the part of x0 that the measurement determines.

    ``x0 + A_dagger (y - A x0)`` (Wang et al. 2023, ICLR, arXiv 2212.00490). There is no objective here that
    weights or a total variation could be added to.

    Args:
        operator: linear operator with A and A_dagger, between tensors [n, 1, H, W] and its range.
        y: measurement, in the range of A.

    Returns:
        Function (x0, sigma) -> x0, both [n, 1, H, W]; sigma plays no part in DDNM.
    """
    def consistency(x0, sigma):
        return x0 + operator.A_dagger(y - operator.A(x0))

    return consistency


def check_weights(weights, y):
    """Raise ValueError for weights of the data term that are negative, not finite or do not broadcast to y."""
    try:
        weights.expand(y.shape)
    except RuntimeError:
        raise ValueError(f"weights are {list(weights.shape)}; they must broadcast to y, {list(y.shape)}") from None
    if not ((weights >= 0) & weights.isfinite()).all():
        raise ValueError("weights must be finite and 0 or more")


def slice_differences(x):
    """Differences of neighbouring slices: [n, 1, H, W] -> [n - 1, 1, H, W]."""
    return x[1:] - x[:-1]


def slice_differences_T(g):
    """Adjoint of `slice_differences`: [n - 1, 1, H, W] -> [n, 1, H, W]."""
    x = g.new_zeros(len(g) + 1, *g.shape[1:])
    x[1:] += g
    x[:-1] -= g
    return x
