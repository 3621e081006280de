"""The choice of a projector, and how tensors reach other libraries: axes, units and scale, on stand-ins for them."""
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from physics import backends
from physics.backends import AstraBeam, TorchRadonBeam, cone_beam_operator
from physics.cone_beam import ConeBeam
from physics.fdk import fdk
from physics.geometry import ConeGeometry
from physics.sirt import sirt

SCAN = ConeGeometry(angles=(10, 100, 220), src_dist=70, det_dist=50, det_shape=(30, 44), det_spacing=(2, 1.5),
                    det_offset=(3, -2), volume_shape=(6, 12, 15), voxel_size=(2, 1, 0.8), volume_centre=(1, 2, -1))
CENTRED = replace(SCAN, det_offset=(0, 0), volume_centre=(0, 0, 0), voxel_size=(1.5, 1.5, 1.5))


@pytest.fixture
def astra(monkeypatch):
    """An ASTRA that computes on the native projector, with its own axes and a scale of its own."""
    library, direct = ModuleType("astra"), ModuleType("astra.experimental")
    library.create_proj_geom = lambda kind, rows, columns, vectors: (kind, rows, columns, vectors)
    library.create_vol_geom = lambda *sizes: sizes
    library.create_projector = lambda kind, projections, volume: (kind, projections, volume)

    def native(projector):
        (_, (kind, rows, columns, vectors), (height, width, depth, *ends)) = projector
        assert projector[0] == "cuda3d" and kind == "cone_vec"
        x, y, z = np.reshape(ends, (3, 2))
        return ConeBeam(ConeGeometry(
            view_vectors=vectors, det_shape=(rows, columns), volume_shape=(depth, height, width),
            voxel_size=[(end - begin) / count for (begin, end), count in zip((z, y, x), (depth, height, width))],
            volume_centre=[(begin + end) / 2 for begin, end in (z, y, x)]))

    def forward(projector, volume, projections):
        assert volume.is_contiguous() and projections.is_contiguous() and volume.dtype == torch.float32
        projections.copy_(native(projector).A(volume[:, None])[0].transpose(0, 1))

    def back(projector, volume, projections):
        assert volume.is_contiguous() and projections.is_contiguous()
        volume.copy_(7 * native(projector).A_T(projections.transpose(0, 1)[None])[:, 0])

    direct.direct_FP3D, direct.direct_BP3D = forward, back
    monkeypatch.setitem(sys.modules, "astra", library)
    monkeypatch.setitem(sys.modules, "astra.experimental", direct)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.fixture
def torch_radon(monkeypatch):
    """A torch_radon that computes on the native projector, in voxels, with a scale of its own."""
    def beam(det_count_u, angles, src_dist, det_dist, det_count_v, det_spacing_u, det_spacing_v, volume):
        native = ConeBeam(ConeGeometry(
            angles=np.rad2deg(angles.double().numpy()), src_dist=src_dist, det_dist=det_dist,
            det_shape=(det_count_v, det_count_u), det_spacing=(det_spacing_v, det_spacing_u), volume_shape=volume,
            unit="voxel"))
        return SimpleNamespace(forward=lambda x: native.A(x[0, :, None]),
                               backward=lambda y: 3 * native.A_T(y)[None, :, 0])

    library, volumes = ModuleType("torch_radon"), ModuleType("torch_radon.volumes")
    library.ConeBeam, volumes.Volume3D = beam, lambda depth, height, width: (depth, height, width)
    monkeypatch.setitem(sys.modules, "torch_radon", library)
    monkeypatch.setitem(sys.modules, "torch_radon.volumes", volumes)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(backends, "DEVICE", "cpu")
    return library


def agrees(operator):
    """The operator and the native one of its geometry give the same, with gradients, cropped, and in the solvers."""
    native = ConeBeam(operator.geometry)
    x, y = torch.rand(native.domain_shape, requires_grad=True), torch.rand(native.range_shape)
    gradient, = torch.autograd.grad((operator.A(x) * y).sum(), x)
    for found, expected in ((operator.A(x), native.A(x)), (operator.A_T(y), native.A_T(y)),
                            (gradient, native.A_T(y)), (fdk(y, operator), fdk(y, native)),
                            (sirt(y, operator, 5), sirt(y, native, 5))):
        assert found.shape == expected.shape and (found - expected).norm() < 1e-4 * expected.norm()
    part, (top, bottom, left, right) = operator.crop()
    assert type(part) is type(operator) and part.range_shape != operator.range_shape
    assert torch.allclose(part.A(x), native.A(x)[..., top:bottom, left:right], atol=1e-4)
    return True


def test_native():
    for projector in ("auto", "native"):
        operator = cone_beam_operator(SCAN, projector, impl="reference")
        assert type(operator) is ConeBeam and operator.impl == "reference" and operator.geometry == SCAN


@pytest.mark.parametrize("scan", [SCAN, replace(SCAN, angles=(), src_dist=None, det_dist=None, det_spacing=None,
                                                det_offset=(0, 0), view_vectors=SCAN.vectors)])
def test_astra_axes_window_and_scale(astra, scan):
    operator = cone_beam_operator(scan, "astra")
    assert type(operator) is AstraBeam and agrees(operator)
    assert operator.A(torch.ones(operator.domain_shape, dtype=torch.float64)).dtype == torch.float64


def test_torch_radon_axes_units_and_scale(torch_radon):
    operator = cone_beam_operator(CENTRED, "torch_radon")
    assert type(operator) is TorchRadonBeam and agrees(operator)


@pytest.mark.parametrize("change", [
    dict(det_offset=(1, 0)), dict(volume_centre=(0, 0, 1)), dict(voxel_size=(1, 1, 2)),
    dict(view_vectors=CENTRED.vectors, angles=(), src_dist=None, det_dist=None, det_spacing=None)])
def test_torch_radon_refuses_what_it_cannot_represent(torch_radon, change):
    with pytest.raises(ValueError, match=f"torch_radon: {next(iter(change))} .*native works"):
        cone_beam_operator(replace(CENTRED, **change), "torch_radon")


def test_a_library_of_another_convention_is_refused(torch_radon):
    beam = torch_radon.ConeBeam
    torch_radon.ConeBeam = lambda columns, angles, **settings: beam(columns, -angles, **settings)
    with pytest.raises(ValueError, match="torch_radon: its line integrals are not .*native works"):
        cone_beam_operator(CENTRED, "torch_radon")
    torch_radon.ConeBeam = lambda columns, angles: None
    with pytest.raises(ValueError, match="torch_radon: another interface .*native works"):
        cone_beam_operator(CENTRED, "torch_radon")


@pytest.mark.parametrize("projector", ["astra", "torch_radon"])
def test_what_is_missing_is_said_in_one_line(projector, monkeypatch):
    monkeypatch.setitem(sys.modules, projector, None)           # as if it were not installed
    with pytest.raises(ValueError, match=f"^projector: {projector}: .*not installed.*native works$"):
        cone_beam_operator(CENTRED, projector)
    monkeypatch.setitem(sys.modules, projector, ModuleType(projector))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"^projector: {projector}: needs a CUDA device.*native works$"):
        cone_beam_operator(CENTRED, projector)


def test_unknown_projectors_are_named():
    with pytest.raises(ValueError, match="projector: expected auto, native, astra or torch_radon, found rtk"):
        cone_beam_operator(SCAN, "rtk")


def test_vectors_are_those_of_the_real_astra():
    astra = pytest.importorskip("astra")
    (v, u), (dv, du) = SCAN.det_offset, SCAN.det_spacing
    cone = astra.create_proj_geom("cone", du, dv, *SCAN.det_shape, np.deg2rad(SCAN.angles), 70, 50)
    shifted = astra.geom_postalignment(cone, (u / du, v / dv))
    assert np.allclose(shifted["Vectors"], SCAN.vectors, atol=1e-12)
    volume = astra.create_vol_geom(12, 15, 6, -7, 5, -4, 8, -5, 7)
    assert astra.geom_size(volume) == SCAN.volume_shape
    vectors = astra.create_proj_geom("cone_vec", *SCAN.det_shape, SCAN.vectors)
    assert astra.geom_size(vectors) == (30, 3, 44)
