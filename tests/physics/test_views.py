"""Choice of views."""
import math

import numpy as np
import pytest

from physics.geometry import ConeGeometry
from physics.views import lact_views, svct_views
from tests.physics.scans import SMALL, by_vectors


class TestViews:
    demo = ConeGeometry(angles=range(360), **SMALL)

    def test_of_the_demo(self):
        for degree in (1, 45, 45.5, 90, 359, 360):
            assert lact_views(self.demo, degree) == list(range(int(degree)))
        assert svct_views(self.demo, 20) == list(range(0, 360, 18))
        assert svct_views(self.demo, 7) == [0, 51, 102, 154, 205, 257, 308]

    @pytest.mark.parametrize("angles, degree, expected", [
        (np.arange(30, -170, -0.5), 90, range(180)), (np.arange(0, 200, 0.5), 90, range(180)),
        (np.arange(350, 550, 2), 20, range(10)), (np.arange(0, 360, 18), 90, range(5)),
        (np.arange(0, 720, 2), 10, range(5)), ([5, 65, 125, 185], 1, [0]), ([7], 90, [0])])
    def test_limited_angle_follows_the_scan(self, angles, degree, expected):
        scan = ConeGeometry(angles=angles, **SMALL)
        assert lact_views(scan, degree) == list(expected) == lact_views(by_vectors(scan), degree)

    def test_sparse_views_of_any_scan(self):
        assert svct_views(by_vectors(ConeGeometry(angles=np.arange(0, 200, 2), **SMALL)), 4) == [0, 25, 50, 75]

    @pytest.mark.parametrize("count", [1, 7, 20, 119, 360, 401])
    def test_an_even_turn_in_order_is_chosen_by_index(self, count):
        for way in (1, -1):
            scan = ConeGeometry(angles=25 + way * np.arange(count) * 360 / count, **SMALL)
            for degree in {1, 2, 3, 7, count // 3, count // 2 + 1, count - 1, count} & set(range(1, count + 1)):
                assert svct_views(scan, degree) == np.linspace(0, count, degree, endpoint=False).astype(int).tolist()

    def gaps(self, angles, chosen):
        taken = np.sort(np.asarray(angles)[chosen] % 360)
        return np.diff(taken, append=taken[0] + 360)

    def test_shuffled_views(self):
        angles = np.random.default_rng(0).permutation(np.arange(0, 360, 3))
        chosen = svct_views(ConeGeometry(angles=angles, **SMALL), 12)
        assert np.allclose(self.gaps(angles, chosen), 30) and chosen == sorted(chosen) and 0 in chosen
        part = np.random.default_rng(1).permutation(np.arange(50, 250))
        assert set(part[svct_views(ConeGeometry(angles=part, **SMALL), 4)]) == {50, 100, 150, 200}
        assert set(part[lact_views(ConeGeometry(angles=part, **SMALL), 40)]) == set(range(50, 90))

    def test_a_direction_that_was_measured_twice_is_taken_once(self):
        angles = np.arange(0, 720, 2)
        scan = ConeGeometry(angles=angles, **SMALL)
        assert svct_views(scan, 12) == list(range(0, 180, 15)) and svct_views(scan, 180) == list(range(180))
        with pytest.raises(ValueError, match="degree: expected 1 to 180 whole views"):
            svct_views(scan, 181)
        assert lact_views(scan, 90) == list(range(45))
        golden = np.arange(500) * 222.49223594996
        assert self.gaps(golden, svct_views(ConeGeometry(angles=golden, **SMALL), 20)).max() < 20

    def test_uneven_views_are_spread_by_angle(self):
        angles = np.concatenate([np.arange(0, 90, 0.5), np.arange(90, 360, 2)])
        chosen = svct_views(ConeGeometry(angles=angles, **SMALL), 12)
        assert abs(self.gaps(angles, chosen) - 30).max() <= 2
        for degree in (100, 250, 315):
            assert len(set(svct_views(ConeGeometry(angles=angles, **SMALL), degree))) == degree

    @pytest.mark.parametrize("views, degree", [(lact_views, 0), (lact_views, 361), (lact_views, math.nan),
                                               (svct_views, 0), (svct_views, 361), (svct_views, 2.5),
                                               (svct_views, math.nan)])
    def test_bad_degrees(self, views, degree):
        with pytest.raises(ValueError, match="degree"):
            views(self.demo, degree)
