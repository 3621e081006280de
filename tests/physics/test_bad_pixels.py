"""Bad pixels: each kind is found, what is signal is not, and neighbours stand in."""
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from physics.bad_pixels import find_bad_pixels, repair
from physics.geometry import ConeGeometry

SCAN = ConeGeometry(angles=np.arange(0, 360, 6), src_dist=300, det_dist=100, det_shape=(40, 64), det_spacing=(1, 1))
BALLS = [((0, 0, 0), 18, 0.02), ((6, 4, 5), 4, 0.3), ((-9, 2, -4), 2, 0.5), ((0, 0, 6), 1, 1.0)]
BOXES = [((-4, -3, -9), (3, 5, -6), 0.4), ((-0.4, -0.4, -2), (0.4, 0.4, 9), 1.5), ((-12, -12, 15), (12, 12, 16), 0.1)]


def project(scan, balls=(), boxes=()):
    """Exact line integrals of balls (centre, radius, value) and boxes (corners, value), which have sharp edges."""
    vectors = scan.vectors[:, None, None]
    rows, columns = scan.det_shape
    v = (np.arange(rows) - (rows - 1) / 2)[:, None, None]
    u = (np.arange(columns) - (columns - 1) / 2)[:, None]
    source = vectors[..., :3]
    way = vectors[..., 3:6] + u * vectors[..., 6:9] + v * vectors[..., 9:] - source
    way /= np.linalg.norm(way, axis=-1, keepdims=True)
    p = np.zeros(way.shape[:-1])
    for centre, radius, value in balls:
        along = ((np.array(centre) - source) * way).sum(-1)
        p += value * 2 * np.sqrt(np.maximum(radius ** 2 - ((centre - source) ** 2).sum(-1) + along ** 2, 0))
    for low, high, value in boxes:
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = np.sort([(low - source) / way, (high - source) / way], axis=0)
        p += value * np.maximum(np.nanmin(ends[1], -1) - np.nanmax(ends[0], -1), 0)
    return p.astype(np.float32)


@pytest.fixture(scope="module")
def clean():
    return project(SCAN, BALLS, BOXES)


def counts_of(p, photons=20000.0):
    """Counts, flat and dark frames of a detector whose pixels differ by 10 %."""
    rng = np.random.default_rng(1)
    gain, dark = rng.normal(1, 0.1, p.shape[1:]), rng.normal(100, 3, p.shape[1:])
    counts = rng.poisson(photons * gain * np.exp(-p)) + np.rint(dark)
    flat = rng.poisson(photons * gain, (5, *p.shape[1:])) + np.rint(dark)
    return counts.astype(np.float32), flat, np.rint(dark)


@pytest.mark.parametrize("noise", [0, 0.01, 0.3])
@pytest.mark.parametrize("views", [8, 60])
def test_signal_with_sharp_metal_edges_is_no_bad_pixel(clean, noise, views):
    p = clean[:: max(60 // views, 1)][:views]
    p = p + np.random.default_rng(0).normal(0, noise, p.shape).astype(np.float32)
    assert not find_bad_pixels(p).any()
    assert not find_bad_pixels(p + np.random.default_rng(2).normal(0, 0.02, p.shape[1:])).any()    # of a noisy flat


@pytest.mark.parametrize("photons", [30, 500, 1e5])
def test_counted_photons_are_no_bad_pixels(clean, photons):
    counts, flat, dark = counts_of(clean, photons)
    assert not find_bad_pixels(counts, flat, dark).any()
    assert not find_bad_pixels(np.rint(1e4 * np.exp(-clean)), i0=1e4).any()    # metal stops all: whole areas of 0


def test_what_stays_in_place_is_no_bad_pixel():
    # A wire on the axis, its tip, a wall around a centred ball, and one row of air between two plates.
    wire = [((-0.3, -0.3, -3), (0.3, 0.3, 8), 2.0)]
    plates = [((-9, -12, -12), (13, 12, -0.6), 0.1), ((-9, -12, 0.6), (13, 12, 12), 0.1)]
    for rows, balls, boxes in ((40, (), wire), (40, [((0, 0, 0), 16, 0.1), ((0, 0, 0), 15, -0.1)], wire),
                               (41, (), plates)):
        assert not find_bad_pixels(project(replace(SCAN, det_shape=(rows, 64)), balls, boxes)).any()


@pytest.mark.parametrize("rows", [1, 2])
def test_detector_of_one_row(rows):
    p = project(SCAN, BALLS, BOXES)[:, 19:19 + rows]
    p += np.random.default_rng(0).normal(0, 0.01, p.shape).astype(np.float32)
    assert not find_bad_pixels(p).any()
    p[:, 0, 20], p[:, 0, 50] = 1.234, 9
    assert np.argwhere(find_bad_pixels(p)).tolist() == [[0, 20], [0, 50]]
    assert not find_bad_pixels(p[:, :1, :1]).any()


def test_each_kind_is_found(clean):
    rng = np.random.default_rng(3)
    p = clean + rng.normal(0, 0.01, clean.shape).astype(np.float32)
    counts, flat, dark = counts_of(clean)
    for views, zero, stuck, high in ((p, 0, 0.37, 12), (counts, 0, 7000, 65000)):
        p[:, 0, 0], counts[:, 0, 0] = -2 - rng.random((2, len(p)))    # counts below dark, which differ
        views[:, 5, 50], views[:, 39, 63], views[:, 20, 45], views[:, 20, 30] = zero, stuck, zero, stuck
        views[:, 12, 2] = high * (1 - 0.01 * rng.random(len(p)))
    places = [[0, 0], [5, 50], [12, 2], [20, 30], [20, 45], [39, 63]]
    assert np.argwhere(find_bad_pixels(p)).tolist() == places
    assert np.argwhere(find_bad_pixels(counts, flat, dark)).tolist() == places


def test_dead_pixels_of_the_flat_field(clean):
    counts, flat, dark = counts_of(clean)
    flat[:, 7, 9], flat[:, 20, 20:22] = dark[7, 9], 0
    places = [[7, 9], [20, 20], [20, 21]]
    assert np.argwhere(find_bad_pixels(counts, flat, dark)).tolist() == places
    assert np.argwhere(find_bad_pixels(counts[:2], flat, dark)).tolist() == places    # no matter how few views
    assert find_bad_pixels(counts, dark, flat.mean(0)).mean() > 0.9    # swapped


def test_pairs_and_a_dead_column(clean):
    counts, flat, dark = counts_of(clean)
    expected = np.zeros(clean.shape[1:], bool)
    expected[:, 33] = expected[10, 10:12] = expected[30, 4] = expected[31, 5] = True
    counts[:, :, 33], counts[:, 10, 10:12] = dark[:, 33], 65535
    counts[:, 30, 4] = counts[:, 31, 5] = 40000 + 100 * np.random.default_rng(0).random(len(counts))
    assert np.array_equal(find_bad_pixels(counts, flat, dark), expected)
    p = clean.copy()
    p[:, 30, 4] = p[:, 30, 5] = 9 + np.random.default_rng(0).random(len(p))
    assert np.argwhere(find_bad_pixels(p)).tolist() == [[30, 4], [30, 5]]


def test_neighbours_stand_in():
    v, u = np.mgrid[:9, :11]
    plane = (2 * v - u + np.arange(4)[:, None, None]).astype(np.float32)
    bad = np.zeros((9, 11), bool)
    bad[4, 5] = bad[:, 8] = bad[0, 0] = bad[2, 2:4] = True
    p = np.where(bad, 99, plane).astype(np.float32)
    repair(p, bad)
    assert np.abs(p - plane)[:, 1:8, 5:].max() < 1e-5 and np.abs(p - plane).max() < 1.6
    assert np.array_equal(p[:, ~bad], plane[:, ~bad])
    with pytest.raises(ValueError, match="bad: all of 99 pixels"):
        repair(p, np.ones_like(bad))


def test_repaired_views_are_near_the_true_ones(clean):
    smooth = project(SCAN, BALLS[:1])
    bad = np.random.default_rng(5).random(smooth.shape[1:]) < 0.04
    p = np.where(bad, 9, smooth).astype(np.float32)
    repair(p, bad)
    inside = np.abs(smooth - p)[:, 5:-5, 10:-10]
    assert inside.max() < 0.1 and np.sqrt((inside ** 2).mean()) < 0.004    # of 0.72


def test_memory_beside_the_views(clean):
    p = np.tile(clean, (6, 4, 1)).astype(np.float32)
    tracemalloc.start()
    repair(p, find_bad_pixels(p))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.1 * p.nbytes
