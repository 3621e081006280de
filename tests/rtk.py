"""RTK's projectors and reconstructions on this program's arrays, as rivals (pip install itk-rtk)."""
import itk
import numpy as np
import torch
from itk import RTK

Image = itk.Image[itk.F, 3]


class Rtk:
    """A circular scan of a centred volume; arrays have the axes of `physics.cone_beam.ConeBeam`.

    RTK's rotation axis is y: its volumes are [y, z, x], y downwards.
    """

    def __init__(self, geometry, threads):
        itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(threads)
        self.geometry, self.scan = geometry, RTK.ThreeDCircularProjectionGeometry.New()
        for angle in geometry.angles:
            self.scan.AddProjection(geometry.src_dist, geometry.src_dist + geometry.det_dist, angle)
        depth, height, width = geometry.volume_shape
        self.empty_volume = self._volume(np.zeros((depth, height, width), np.float32))
        self.empty_stack = self._stack(np.zeros((geometry.views, *geometry.det_shape), np.float32))

    def A(self, x):
        """JosephForwardProjectionImageFilter: [D, 1, H, W] -> [1, views, v, u]."""
        kind = RTK.JosephForwardProjectionImageFilter[Image, Image]
        found = self._run(kind, self.empty_stack, self._volume(x[:, 0]))
        return torch.from_numpy(itk.array_view_from_image(found).copy())[None]

    def A_T(self, y):
        """JosephBackProjectionImageFilter, and the next two: [1, views, v, u] -> [D, 1, H, W]."""
        return self._back(RTK.JosephBackProjectionImageFilter[Image, Image], y)

    def fdk(self, y):
        return self._back(RTK.FDKConeBeamReconstructionFilter[Image], y)

    def cg(self, y, steps):
        def joseph(filter_):
            filter_.SetForwardProjectionFilter(filter_.ForwardProjectionType_FP_JOSEPH)
            filter_.SetBackProjectionFilter(filter_.BackProjectionType_BP_JOSEPH)
            filter_.SetNumberOfIterations(steps)
        return self._back(RTK.ConjugateGradientConeBeamReconstructionFilter[Image], y, joseph)

    def _back(self, kind, y, settings=None):
        found = self._run(kind, self.empty_volume, self._stack(y[0]), settings)
        array = itk.array_view_from_image(found)[::-1].transpose(1, 0, 2)
        return torch.from_numpy(array.copy())[:, None]

    def _run(self, kind, target, source, settings=None):
        filter_ = kind.New()
        filter_.SetGeometry(self.scan)
        filter_.SetInput(0, target)
        filter_.SetInput(1, source)
        if hasattr(filter_, "InPlaceOff"):
            filter_.InPlaceOff()
        if settings:
            settings(filter_)
        filter_.Update()
        return filter_.GetOutput()

    def _volume(self, array):
        z, y, x = self.geometry.voxel_size
        return _image(np.asarray(array).transpose(1, 0, 2)[::-1], (x, z, y))

    def _stack(self, array):
        dv, du = self.geometry.det_spacing
        return _image(np.asarray(array), (du, dv, 1.0))


def _image(array, spacing):
    image = itk.image_from_array(np.ascontiguousarray(array))
    image.SetSpacing(spacing)
    image.SetOrigin([-(count - 1) / 2 * step for count, step in zip(array.shape[::-1], spacing)])
    return image
