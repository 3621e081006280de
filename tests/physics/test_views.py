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
        (np.arange(0, 720, 2), 10, [*range(5), *range(180, 185)]), ([5, 65, 125, 185], 1, [0]), ([7], 90, [0])])
    def test_limited_angle_follows_the_scan(self, angles, degree, expected):
        scan = ConeGeometry(angles=angles, **SMALL)
        assert lact_views(scan, degree) == list(expected) == lact_views(by_vectors(scan), degree)

    def test_sparse_views_of_any_scan(self):
        assert svct_views(by_vectors(ConeGeometry(angles=np.arange(0, 200, 2), **SMALL)), 4) == [0, 25, 50, 75]

    @pytest.mark.parametrize("views, degree", [(lact_views, 0), (lact_views, 361), (lact_views, math.nan),
                                               (svct_views, 0), (svct_views, 361), (svct_views, 2.5),
                                               (svct_views, math.nan)])
    def test_bad_degrees(self, views, degree):
        with pytest.raises(ValueError, match="degree"):
            views(self.demo, degree)
