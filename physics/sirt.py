"""SIRT: the simultaneous iterative reconstruction technique."""
from op.check import check


def sirt(y, operator, iterations=100, nonnegative=True, progress=None):
    """SIRT from zero: x += C A_T R (y - A x), R and C inverse row and column sums; Gregor & Benson (2008).

    y            [1, views, det_v, det_u]; returns x [D, 1, H, W]
    operator     a ConeBeam
    nonnegative  project onto x >= 0 after every iteration
    progress     wraps the range of iterations, as tqdm does; None: nothing does
    """
    check("y", y, operator.range_shape)
    operator, (top, bottom, left, right) = operator.crop()
    y = y[..., top:bottom, left:right]
    rows, columns = operator.inverse_sums(y)
    x = y.new_zeros(operator.domain_shape)
    steps = range(iterations)
    for _ in progress(steps) if progress else steps:
        x += columns * operator.A_T(rows * (y - operator.A(x)))
        if nonnegative:
            x.clamp_(min=0)
    return x
