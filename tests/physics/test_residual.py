"""Where a volume does not explain its measurement."""
import numpy as np
import pytest
import torch

from physics import residual as module
from physics.cone_beam import ConeBeam
from physics.residual import residual
from tests.physics.scans import ball, by_vectors, small


@pytest.fixture
def measured():
    """A ball, its operator of 12 views, and its projections."""
    operator = small(np.arange(0, 360, 30.0)).crop()[0]
    x = ball(operator.domain_shape[::2] + operator.domain_shape[3:])
    return x, operator, operator.A(x)


@pytest.mark.parametrize("views", [1, 5, 100])
def test_it_is_that_of_all_projections_at_once(measured, monkeypatch, views):
    """Blocks of 1, 5 or all views."""
    x, operator, y = measured
    monkeypatch.setattr(module, "BLOCK", views * y[0, 0].numel())
    noisy = y + torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    found, mean = residual(x, noisy, operator), noisy.square().mean()
    apart = (noisy - y)[0].square() / mean
    views = apart.mean((1, 2))
    typical = (apart / views[:, None, None]).mean(0) * np.median(views)
    for value, expected in ((found.by_view, views), (found.by_pixel, typical),
                            (found.signal, noisy[0].square().mean(0) / mean)):
        assert np.allclose(value, expected.sqrt(), rtol=1e-4)


def test_faults_are_where_they_were_planted(measured):
    x, operator, y = measured
    y = y.clone()
    y[0, 7] *= 3        # far off, which does not hide the detector's fault
    y[0, :, 9:12, 20:24] += 2
    found = residual(x, y, operator)
    assert found.by_view.argmax() == 7
    regions, _, size = found.by_region((8, 16))
    v, u = np.unravel_index(regions.argmax(), regions.shape)
    assert v * size[0] <= 11 and (v + 1) * size[0] > 9 and u * size[1] <= 23 and (u + 1) * size[1] > 20
    clean = residual(x, operator.A(x), operator)
    assert clean.by_view.max() < 1e-5 and clean.signal.max() > 1


def test_the_last_regions_may_be_smaller():
    image = np.arange(35.0).reshape(5, 7)
    found, _, size = module.Residual(np.zeros(1), image, image).by_region((3, 3))
    assert size == (2, 3) and found.shape == (3, 3)
    assert found[2, 2] == 34 and found[0, 1] == pytest.approx(np.sqrt((image[:2, 3:6] ** 2).mean()))


def test_views_that_miss_the_volume_are_not_explained_at_all(monkeypatch):
    """A source that climbs: the first views see nothing of the volume."""
    scan = by_vectors(small(np.arange(0, 360, 45.0)).geometry)
    vectors = scan.vectors
    vectors[:, [2, 5]] += np.linspace(-80, 0, 8)[:, None]
    operator = ConeBeam(by_vectors(scan, vectors))
    monkeypatch.setattr(module, "BLOCK", 1)
    x = ball(operator.domain_shape[::2] + operator.domain_shape[3:])
    y = operator.A(x)
    assert not y[0, 0].any()
    y[0, 0] = 1
    found = residual(x, y, operator)
    assert found.by_view[0] == pytest.approx(1 / y.square().mean().sqrt().item()) and found.by_view[1:].max() < 1e-5
