"""Beam hardening of one material: the polynomial of the line integrals that makes the body flat."""
import numpy as np
import torch

from physics.backends import cone_beam_operator
from physics.fdk import fdk
from physics.geometry import ConeGeometry
from physics.unknowns import middle_rows

ORDER = 3           # of the polynomial
EDGE = 2            # voxels between body and air that are not asked


def flattening(p: np.ndarray, geometry: ConeGeometry, size: int = 128) -> tuple[float, ...]:
    """Coefficients a1, a2, a3 of p' = a1 p + a2 p^2 + a3 p^3 whose FDK is flat in the body and 0 in air.

    Kachelriess, Sourbelle & Kalender (2006), "Empirical cupping correction: a first-order raw data precorrection for
    cone-beam computed tomography", Med. Phys. 33(5): FDK is linear, so that of the polynomial is the same sum of the
    FDK of p, p^2 and p^3, and the coefficients are a linear least-squares fit to a template: the body's mean where the
    FDK of p is above half of it, else 0.

    Args:
        p: line integrals [views, v, u] of a body of one material in air, all of it in the field of view.
        geometry: of them, with a volume.
        size: voxels in-plane, at the most, of the middle slice that is looked at.

    Raises:
        ValueError: no body, or none that is thicker than its edge.
    """
    few, rows = middle_rows(geometry, size)
    y = torch.from_numpy(np.ascontiguousarray(p[:, rows[0]:rows[1]]))[None]
    operator = cone_beam_operator(few, "native")
    images = np.stack([fdk(y ** k, operator)[0, 0].double().numpy() for k in range(1, ORDER + 1)])
    level = np.quantile(images[0], 0.99)
    body = images[0] > level / 2
    radius = np.hypot(*np.meshgrid(*(np.linspace(-1, 1, n) for n in body.shape), indexing="ij"))
    inner, outer = _eroded(body, EDGE) & (radius < 0.98), _eroded(~body, EDGE) & (radius < 0.98)
    if inner.sum() < 20:
        raise ValueError("projections: no body of one material whose flatness could be fitted; accepted: coefficients")
    value = images[0][inner].mean()
    # The air counts as much as the body, however much of it there is.
    weight = np.concatenate([np.full(inner.sum(), inner.sum() ** -0.5), np.full(outer.sum(), outer.sum() ** -0.5)])
    columns = np.concatenate([images[:, inner], images[:, outer]], 1).T * weight[:, None]
    template = np.concatenate([np.full(inner.sum(), value), np.zeros(outer.sum())]) * weight
    found = np.linalg.lstsq(columns, template, rcond=None)[0]
    return tuple(map(float, found))


def _eroded(mask: np.ndarray, steps: int) -> np.ndarray:
    """A mask without what is nearer than so many pixels to its outside."""
    size = 2 * steps + 1
    padded = np.pad(mask, steps, constant_values=True)
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, (size, size)).all((2, 3)))

