"""Beam hardening of one material: the polynomial of the line integrals that makes the body flat."""
import numpy as np
import torch

from physics.backends import cone_beam_operator
from physics.cone_beam import ConeBeam
from physics.fdk import fdk
from physics.geometry import ConeGeometry
from physics.unknowns import middle_rows, tall

ORDER = 3           # of the polynomial
EDGE = 2            # voxels between body and air that are not asked


def flattening(p: np.ndarray, geometry: ConeGeometry, size: int = 256) -> tuple[float, ...]:
    """Coefficients a1, a2, ... of p' = a1 p + a2 p^2 + ... that make the body flat.

    Of a body of one material p is a function of the length in it alone (Herman 1979, "Correction for beam hardening in
    computed tomography", Phys. Med. Biol. 24(1)). The body is where the FDK of p is above half of its highest values;
    the lengths are the projections of that; and p' is the least-squares fit to them, times the body's mean.

    Args:
        p: line integrals [views, v, u] of a body of one material in air, all of it in the field of view.
        geometry: of them, with a volume.
        size: voxels in-plane, at the most, of the middle slice that is looked at.

    Raises:
        ValueError: no body, or none that is thicker than its edge.
    """
    flat, (top, bottom) = middle_rows(geometry, size)
    y = torch.from_numpy(np.ascontiguousarray(p[:, top:bottom]))[None]
    image = fdk(y, cone_beam_operator(flat, "native"))
    level = float(np.quantile(image.numpy(), 0.99))
    body = image > level / 2
    inner = _eroded(body[0, 0].numpy(), EDGE)
    if level <= 0 or inner.sum() < 20:
        raise ValueError("projections: no body of one material whose flatness could be fitted; accepted: coefficients")
    lengths = ConeBeam(tall(flat)).A(body.float())
    rays = (lengths > 2 * flat.voxel_size[2]).numpy()
    target = lengths.numpy()[rays].astype(np.float64) * float(image[0, 0].numpy()[inner].mean())
    powers = y.numpy()[rays].astype(np.float64)[:, None] ** np.arange(1, ORDER + 1)
    return tuple(map(float, np.linalg.lstsq(powers, target, rcond=None)[0]))


def _eroded(mask: np.ndarray, steps: int) -> np.ndarray:
    """A mask without what is nearer than so many pixels to its outside."""
    size = 2 * steps + 1
    padded = np.pad(mask, steps, constant_values=True)
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, (size, size)).all((2, 3)))

