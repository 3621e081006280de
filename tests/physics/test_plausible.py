"""What is taken for line integrals, or for a geometry, and cannot be; and what can."""
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from physics.geometry import ConeGeometry
from physics.plausible import check_line_integrals, plausibility, truncated, truncation
from utils.io.geometry_file import read_geometry

SCAN = ConeGeometry(angles=range(0, 360, 3), src_dist=500, det_dist=300, det_shape=(4, 8), det_spacing=(1, 1),
                    mu_water=0.02)


def ball(radius=20.0, mu=0.05, centre=0.0, shape=(12, 30, 64)):
    """Line integrals of a ball, parallel rays, that moves sideways by ``centre`` from view to view."""
    views, rows, columns = shape
    v, u = np.mgrid[:rows, :columns] - np.reshape([(rows - 1) / 2, (columns - 1) / 2], (2, 1, 1))
    shift = centre * np.sin(np.arange(views))[:, None, None]
    return (2 * mu * np.sqrt(np.maximum(radius ** 2 - (u - shift) ** 2 - v ** 2, 0))).astype(np.float32)


def noise(p, size=0.02):
    return p + np.random.default_rng(0).normal(0, size, p.shape).astype(np.float32)


@pytest.mark.parametrize("p", [ball(), noise(ball()), noise(ball(60)), noise(ball(20, 0.005)), ball(centre=9),
                               noise(ball(60, 0.01, 30)), noise(ball(20, 0.001), 0.1), ball(shape=(1, 30, 8)),
                               noise(ball(60, 0.0085), 0.004)])
def test_line_integrals_are_accepted_without_a_word(p):
    assert check_line_integrals(p) == []


@pytest.mark.parametrize("p, reason", [
    (np.rint(5e4 * np.exp(-ball())), "whole numbers: counts or grey values"),
    (np.rint(200 * np.exp(-ball(20, 0.02))), "whole numbers: counts"),
    (noise(5e4 * np.exp(-ball())), "half of them above 15: counts"),
    (np.exp(-ball()), "transmissions, no line integrals; accepted with them: i0 = 1"),
    (noise(np.exp(-ball(20, 0.005))), "transmissions"),
    (-ball(), "not below zero"), (noise(-ball()) - 0.3, "not below zero"), (ball() - 5, "not below zero")])
def test_other_values_are_refused(p, reason):
    with pytest.raises(ValueError, match=reason) as error:
        check_line_integrals(p)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("p, reason", [
    (np.rint(3 * ball()), "whole numbers: are they"), (np.zeros((3, 4, 5)), "one value, 0, in all pixels"),
    (8 * ball(), "values above 15, up to 15.9"), (noise(ball(20, 0.05)) - 0.2, "air reads -0.19")])
def test_odd_values_are_said(p, reason):
    said = check_line_integrals(p)
    assert len(said) == 1 and reason in said[0]


def test_truncation_is_told_by_side():
    assert truncated(ball()) == truncated(noise(ball())) == truncated(ball(20, 0.0001)) == (0, 0)
    assert truncated(ball(45)) == truncated(noise(ball(45, 0.005))) == (1, 1)
    left, right = truncated(ball(25, centre=30, shape=(60, 30, 64)))
    assert 0.3 < left < 0.5 and 0.3 < right < 0.5
    assert truncated(ball(45)[:, :, 20:]) == (1, 1) and truncated(ball(28)[:, :, 20:]) == (1, 0)
    assert truncation(ball()) == truncation(ball(28)[:, :, 20:]) == []
    assert "100% of the views do not fall to air" in truncation(ball(45))[0]


@pytest.mark.parametrize("name", ["demo", "c_arm", "micro_ct"])
def test_the_example_geometries_are_plausible(pytestconfig, name):
    assert plausibility(read_geometry(pytestconfig.rootpath / f"configs/geometry/{name}.yaml")) == []


@pytest.mark.parametrize("changes, named, reason", [
    ({"angles": np.linspace(0, 2 * np.pi, 100)}, "angles", "100 views within 6.28 degrees: are they in radians"),
    ({"angles": np.linspace(-1.5, 2, 40)}, "angles", "radians"),
    ({"mu_water": 0.2}, "mu_water", "0.2 per mm.*per cm"), ({"mu_water": 0.002}, "mu_water", "0.002 per mm")])
def test_wrong_units_are_said_with_the_field(changes, named, reason):
    said, = plausibility(replace(SCAN, **changes))
    assert said.startswith(f"{named}: ")
    assert re.search(reason, said)


def test_what_is_unusual_is_not_wrong():
    assert plausibility(SCAN) == plausibility(replace(SCAN, angles=[0, 1, 2])) == []
    assert plausibility(replace(SCAN, angles=range(15), mu_water=0.08)) == []
    assert plausibility(replace(SCAN, unit="voxel", mu_water=0.002)) == []


def test_torch_is_not_needed(pytestconfig):
    code = "import sys, physics.plausible, physics.bad_pixels, physics.beer_lambert; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=pytestconfig.rootpath).returncode == 0
