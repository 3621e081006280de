"""Helsinki Tomography Challenge 2022: fan-beam sinograms in MATLAB files (Zenodo 6984868, 7418878)."""
from pathlib import Path

import numpy as np

from utils.io.scanners.scan import Scan
from utils.io.views import Views

WHERE = ("distanceSourceOrigin", "distanceSourceDetector", "pixelSizePost")


def read(mark: Path) -> Scan:
    """The scan in ``CtDataFull`` or ``CtDataLimited``: line integrals of one detector row.

    A last view that repeats the first, a full turn later, is left out.

    Raises:
        ValueError: in one line that names the file.
        ModuleNotFoundError: without SciPy.
    """
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{mark}: MATLAB files need SciPy (pip install scipy)") from None
    try:
        content = loadmat(mark, squeeze_me=True, struct_as_record=False)
        data = next(content[name] for name in ("CtDataFull", "CtDataLimited") if name in content)
        sinogram, parameters = np.asarray(data.sinogram, np.float64), data.parameters
        angles = np.asarray(parameters.angles, np.float64).ravel()
        source, detector, pixel = (float(getattr(parameters, name)) for name in WHERE)
    except (MatReadError, NotImplementedError, StopIteration, AttributeError, TypeError, ValueError, OSError, EOFError,
            IndexError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120] or "no CtDataFull or CtDataLimited"
        raise ValueError(f"{mark}: no scan of the Helsinki Tomography Challenge ({reason})") from None
    if sinogram.ndim != 2 or len(sinogram) != len(angles):
        raise ValueError(f"{mark}: a sinogram of {' x '.join(map(str, sinogram.shape))} for {len(angles)} angles")
    views = len(angles) - bool(len(angles) > 1 and abs(angles[-1] - angles[0] - 360) < 1e-6)
    fields = {"angles": angles[:views].tolist(), "src_dist": source, "det_dist": detector - source,
              "det_shape": (1, sinogram.shape[1]), "det_spacing": (pixel, pixel)}
    return Scan("Helsinki Tomography Challenge 2022", fields,
                Views.of(sinogram[:views, None].astype(np.float32), str(mark)), counted=False)
