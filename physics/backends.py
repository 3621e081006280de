"""The cone-beam operator on other libraries' projectors, for those who have them: ASTRA and torch_radon."""
import importlib

import torch
from torch.nn.functional import interpolate

from op.processes import ALONE, Processes
from physics.cone_beam import ConeBeam
from physics.geometry import ConeGeometry

PACKAGES = {"astra": "astra-toolbox 2.2 or newer (pip install astra-toolbox)",
            "torch_radon": "torch_radon 2 (github.com/carterbox/torch-radon)"}
TOLERANCE = 0.05        # largest difference from the native line integrals of a smooth volume, relative


def cone_beam_operator(geometry: ConeGeometry, projector: str = "auto", impl: str | None = None,
                       processes: Processes = ALONE) -> ConeBeam:
    """The ConeBeam of a geometry on the chosen projector.

    Args:
        geometry: with a volume.
        projector: "native": `op.cone_beam`, any device and geometry, exact adjoint; "astra", "torch_radon": these
            libraries, on CUDA, see `AstraBeam` and `TorchRadonBeam`; "auto": native.
        impl: of the native projector, as in `op.cone_beam.project`.
        processes: that share the views of the native projector; those of libraries are computed in each.

    Raises:
        ValueError: an unknown projector, a library or a CUDA device that is missing, a geometry that the library
            cannot represent, and a library whose line integrals of a smooth volume are not the native ones, which is
            checked in up to three views.
    """
    if projector in ("auto", "native"):
        return ConeBeam(geometry, impl, processes)
    if projector not in BEAMS:
        raise ValueError(f"projector: expected auto, native, {' or '.join(sorted(BEAMS))}, found {projector}")
    try:
        operator = BEAMS[projector](geometry)
        _compare(operator)
    except (TypeError, AttributeError) as error:
        raise _refusal(projector, f"another interface than that of {PACKAGES[projector]} ({error})") from error
    return operator


class LibraryBeam(ConeBeam):
    """A ConeBeam that a library computes, in float32; with gradients.

    Libraries approximate the adjoint, each with a scale of its own: here <A 1, A 1> = <1, A_T A 1> holds, and
    <A x, y> = <x, A_T y> to about a percent for others. A subclass defines `_library_forward` and
    `_library_backward`, of float32 tensors in the layouts of ConeBeam.
    """

    def __init__(self, geometry: ConeGeometry):
        super().__init__(geometry)
        self.scale: float | None = None

    def on(self, geometry: ConeGeometry) -> ConeBeam:
        """As in ConeBeam."""
        return type(self)(geometry)

    def _forward(self, x):
        return _Linear.apply(x, self._project, self._backproject)

    def _adjoint(self, y):
        return _Linear.apply(y, self._backproject, self._project)

    def _project(self, x):
        return self._library_forward(x.detach().float()).to(x)

    def _backproject(self, y):
        if self.scale is None:
            ones = y.new_ones(self.domain_shape, dtype=torch.float32)
            shade = self._library_forward(ones)
            back = self._library_backward(shade)
            self.scale = shade.square().sum(dtype=torch.float64).item() / back.sum(dtype=torch.float64).item()
        return self._library_backward(y.detach().float()).mul_(self.scale).to(y)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, there, back):
        ctx.pair = back, there
        return there(x)

    @staticmethod
    def backward(ctx, gradient):
        return _Linear.apply(gradient, *ctx.pair), None, None


class AstraBeam(LibraryBeam):
    """ASTRA's FP3D_CUDA and BP3D_CUDA; van Aarle et al. (2016), Optics Express 24(22). All geometries.

    BP3D_CUDA interpolates projections at the voxels, FP3D_CUDA voxels along the rays, so A_T is no exact adjoint of
    A: conjugate gradients stall at a percent or so. Tensors on a GPU stay there.
    """

    def __init__(self, geometry: ConeGeometry):
        super().__init__(geometry)
        self.astra = _library("astra")
        self.direct = importlib.import_module("astra.experimental")
        (rows, columns), (depth, height, width) = geometry.det_shape, geometry.volume_shape
        z, y, x = ((centre - count / 2 * size, centre + count / 2 * size) for centre, count, size in zip(
            geometry.volume_centre, geometry.volume_shape, geometry.voxel_size))
        self.projector = self.astra.create_projector(
            "cuda3d", self.astra.create_proj_geom("cone_vec", rows, columns, geometry.vectors),
            self.astra.create_vol_geom(height, width, depth, *x, *y, *z))

    # ASTRA's volumes are [z, y, x], its projections [v, view, u].

    def _library_forward(self, x):
        (rows, columns), views = self.geometry.det_shape, self.geometry.views
        y = x.new_zeros(rows, views, columns)
        self._run(self.direct.direct_FP3D, x[:, 0].contiguous(), y)
        return y.transpose(0, 1)[None]

    def _library_backward(self, y):
        x = y.new_zeros(self.geometry.volume_shape)
        self._run(self.direct.direct_BP3D, x, y[0].transpose(0, 1).contiguous())
        return x[:, None]

    def _run(self, call, volume, projections):
        if volume.is_cuda:
            self.astra.set_gpu_index(volume.device.index)
        call(self.projector, volume, projections)


class TorchRadonBeam(LibraryBeam):
    """`torch_radon.ConeBeam` of the carterbox fork: circular scans, detector and volume centred, cubic voxels.

    It knows one unit, the voxel; line integrals are converted to that of the geometry.
    """

    def __init__(self, geometry: ConeGeometry):
        super().__init__(geometry)
        for name, fits in (("view_vectors", not geometry.view_vectors), ("det_offset", not any(geometry.det_offset)),
                           ("det_spacing", min(geometry.det_spacing or [1]) > 0),
                           ("volume_centre", not any(geometry.volume_centre)),
                           ("voxel_size", len(set(geometry.voxel_size)) == 1)):
            if not fits:
                raise _refusal("torch_radon", f"{name} of this geometry is beyond it (it does circular scans with "
                                              "detector and volume centred, positive steps, and cubic voxels)")
        library, volumes = _library("torch_radon"), importlib.import_module("torch_radon.volumes")
        self.voxel = geometry.voxel_size[0]
        (rows, columns), (dv, du) = geometry.det_shape, geometry.det_spacing
        self.radon = library.ConeBeam(
            columns, torch.deg2rad(torch.tensor(geometry.angles)), src_dist=geometry.src_dist / self.voxel,
            det_dist=geometry.det_dist / self.voxel, det_count_v=rows, det_spacing_u=du / self.voxel,
            det_spacing_v=dv / self.voxel, volume=volumes.Volume3D(*geometry.volume_shape))

    @property
    def window(self) -> tuple[int, int, int, int]:
        """As in ConeBeam, but around the middle of the detector."""
        (rows, columns), (top, bottom, left, right) = self.geometry.det_shape, self.geometry.window
        row, column = min(top, rows - bottom), min(left, columns - right)
        return row, rows - row, column, columns - column

    def _library_forward(self, x):
        y = self.radon.forward(x[:, 0][None].contiguous().to(DEVICE))
        return (y * self.voxel).to(x.device)

    def _library_backward(self, y):
        return self.radon.backward(y.contiguous().to(DEVICE)).to(y.device)[0, :, None]


DEVICE = "cuda"         # where torch_radon wants its tensors
BEAMS = {"astra": AstraBeam, "torch_radon": TorchRadonBeam}


def _compare(operator):
    """Raise ValueError where a library's line integrals of a smooth volume are not those of the native projector."""
    name = next(name for name, beam in BEAMS.items() if isinstance(operator, beam))
    views = operator.geometry.views
    some = operator.geometry.select(sorted({0, views // 3, 2 * views // 3}))
    coarse = torch.rand(1, 1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    x = interpolate(coarse, operator.geometry.volume_shape, mode="trilinear", align_corners=True)[0, 0, :, None]
    for axis, count in ((0, x.shape[0]), (2, x.shape[2]), (3, x.shape[3])):         # libraries differ at the border
        fade = torch.sin(torch.pi * torch.arange(1, count + 1) / (count + 1))
        x = x * fade.view([-1 if i == axis else 1 for i in range(4)])
    few = operator.on(some)
    expected, found = ConeBeam(some).A(x), few.A(x)
    if (found.shape != expected.shape or few.A_T(found).shape != x.shape
            or (found - expected).norm() > TOLERANCE * expected.norm()):
        raise _refusal(name, "its line integrals are not those of the native projector in this geometry")


def _library(name):
    try:
        library = importlib.import_module(name)
    except ImportError as error:
        raise _refusal(name, f"needs {PACKAGES[name]}, which is not installed here ({error})") from None
    if not torch.cuda.is_available():
        raise _refusal(name, "needs a CUDA device, and there is none")
    return library


def _refusal(name, reason):
    return ValueError(f"projector: {name}: {reason}; native works")
