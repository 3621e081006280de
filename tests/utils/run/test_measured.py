"""What is kept of a measured scan: the rows that the volume shades, and the columns where there is air beside it."""
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from physics.geometry import ConeGeometry
from tests.physics.scans import WIDE, blob_projections
from utils.io.geometry_file import geometry_text
from utils.run.measured import MARGIN, read_measurement

SCAN = ConeGeometry(angles=np.arange(0, 360, 15.0), mu_water=0.02, **WIDE | {"det_shape": (60, 180)})
BLOBS = blob_projections(SCAN)[0].numpy() / 20


def read(folder, counts, **changes):
    """(geometry, p, notes) of an array of counts of an open beam of 60000."""
    np.save(folder / "scan.npy", counts.astype(np.uint16))
    (folder / "scan.yaml").write_text(geometry_text(SCAN))
    options = dict(projections=folder / "scan.npy", geometry=folder / "scan.yaml", every=1, bin=1, flat=None, i0=6e4,
                   dark=None, bad_pixels=None, scatter=0, air=False, rings=0, fix_offset=False, beam_hardening=None,
                   mirror=False, reverse=False, turn=0)
    return read_measurement(SimpleNamespace(**options | changes))


@pytest.mark.parametrize("size", [1, 2])
def test_air_beside_the_volume_is_not_kept(tmp_path, size):
    geometry, p, notes = read(tmp_path, np.round(6e4 * np.exp(-BLOBS)), bin=size)
    top, bottom, left, right = SCAN.binned(size).window
    left, right = left - MARGIN, right + MARGIN
    assert p.shape == (24, bottom - top, right - left) and right - left < 0.8 * 180 / size
    assert geometry == SCAN.binned(size).crop(top, bottom, left, right)
    assert notes.first == (top * size, left * size)
    if size == 1:
        assert np.allclose(p, BLOBS[:, top:bottom, left:right], atol=1e-4)


def test_what_lies_beside_the_volume_is_kept(tmp_path):
    beside = BLOBS.copy()
    beside[5:8, 28:32, 4:9] += 0.5                  # in few views
    geometry, p, _ = read(tmp_path, np.round(6e4 * np.exp(-beside)))
    assert p.shape[2] == 180 and geometry.det_shape[1] == 180 and p.shape[1] < 60
    dark = np.round(6e4 * np.exp(-BLOBS))
    dark[:, :, 3] = 0                               # a dead column: in doubt, all are kept
    assert read(tmp_path, dark)[1].shape[2] == 180


def test_nothing_is_dropped_where_the_volume_shades_nearly_all(tmp_path):
    (tmp_path / "wide.yaml").write_text(geometry_text(replace(SCAN, volume_shape=(12, 76, 76))))
    p = read(tmp_path, np.round(6e4 * np.exp(-BLOBS)), geometry=tmp_path / "wide.yaml")[1]
    assert p.shape[2] == 180
