"""Image quality against the ground truth: PSNR and SSIM by view, inter-slice error, sharpness."""
from collections.abc import Sequence

import torch
from torch.nn.functional import conv2d, pad

from utils.run.views import VIEWS, patient_axes

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5                    # pixels: of the published Gaussian window
UPRIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def evaluate(volume: torch.Tensor, truth: torch.Tensor, slice_axis: int = 0,
             direction: Sequence[float] = UPRIGHT) -> dict:
    """Compare ``volume`` with ``truth``, both [D, H, W] in the prior's unit range.

    PSNR and SSIM use the `data_range` of the whole truth. ``psnr`` at the top is that of the volume; a view's figures
    are means over its slices, those left out where the truth is constant, and ``ssim`` at the top is the mean over the
    three views. SSIM is None for slices thinner than its window, PSNR where there is no error, both where the truth is
    constant in every slice.

    Args:
        volume: what is judged.
        truth: what it is compared with.
        slice_axis: the axis that the prior's slices are stacked along, of ``inter_slice_error``.
        direction: that of a `utils.io.volume.Volume`; it says which axes of the array the patient's views lie across.

    Returns:
        ``psnr`` (dB), ``ssim``, ``inter_slice_error``, ``sharpness``, and ``psnr`` and ``ssim`` of "axial", "coronal"
        and "sagittal".

    Raises:
        ValueError: volumes of different shapes.
    """
    if volume.shape != truth.shape:
        raise ValueError(f"volume of {list(volume.shape)} against a truth of {list(truth.shape)}")
    span = data_range(truth)
    result = {"psnr": _finite(_psnr(volume, truth, span))}
    axes = dict(zip(VIEWS, patient_axes(direction)[0]))
    views = {name: _view(volume.movedim(axis, 0), truth.movedim(axis, 0), span) for name, axis in axes.items()}
    ssims = [view["ssim"] for view in views.values() if view["ssim"] is not None]
    result["ssim"] = sum(ssims) / len(ssims) if ssims else None
    result["inter_slice_error"] = inter_slice_error(volume, truth, slice_axis)
    result["sharpness"] = sharpness(volume, truth)
    return result | views


def data_range(truth: torch.Tensor) -> float:
    """Max - min of the truth clipped to the window, which is [0, 1]: what lies beyond, a hot voxel, moves nothing."""
    return float(truth.max().clamp(0, 1) - truth.min().clamp(0, 1))


def by_slice(volume: torch.Tensor, truth: torch.Tensor, axis: int) -> dict[str, list]:
    """PSNR (dB) of each slice along ``axis``, and the inter-slice error of each pair; None where it is not finite."""
    span, before = data_range(truth), None
    found: dict[str, list] = {"psnr": [], "inter_slice_error": []}
    for ours, theirs in zip(volume.movedim(axis, 0), truth.movedim(axis, 0)):
        error = ours - theirs
        found["psnr"].append(_finite(_psnr(ours, theirs, span)))
        if before is not None:
            found["inter_slice_error"].append((error - before).abs_().mean().item())
        before = error
    return found


def inter_slice_error(volume: torch.Tensor, truth: torch.Tensor, axis: int = 0) -> float | None:
    """Mean absolute error of the differences of neighbouring slices along ``axis``; None for one slice."""
    if volume.shape[axis] < 2:
        return None
    return (volume - truth).diff(dim=axis).abs_().mean().item()


def sharpness(volume: torch.Tensor, truth: torch.Tensor) -> float | None:
    """Slope of the regression of the volume's gradient on the truth's, <grad x, grad g> / <grad g, grad g>.

    1 for the truth, less where edges are blurred, 0 where they are absent; noise, which has no relation to the
    truth's edges, does not change it. The gradient is that of neighbouring voxels along all three axes; None where
    the truth is constant.
    """
    product = energy = 0.0
    for axis in range(3):    # a few slices at a time: in float64 they take twice the memory
        for ours, theirs in zip(*(x.movedim(axis, -1).split(16) for x in (volume, truth))):
            ours, theirs = ours.diff().double(), theirs.diff().double()
            product, energy = product + (ours * theirs).sum().item(), energy + theirs.square().sum().item()
    return product / energy if energy else None


def _view(slices: torch.Tensor, truth: torch.Tensor, span: float) -> dict:
    if not (varying := truth.flatten(1).amax(1) > truth.flatten(1).amin(1)).any():
        return {"psnr": None, "ssim": None}
    psnrs, ssims = [], []
    # A few slices at a time: the windowed moments take many times a slice's memory.
    for ours, theirs, chosen in zip(slices.split(16), truth.split(16), varying.split(16)):
        if not chosen.any():
            continue
        ours, theirs = ours[chosen], theirs[chosen]
        psnrs.append(_psnr(ours, theirs, span, dim=(1, 2)))
        if min(ours.shape[-2:]) >= SSIM_WINDOW:
            ssims.append(ssim(ours, theirs, span))
    return {"psnr": _finite(torch.cat(psnrs).mean()), "ssim": _finite(torch.cat(ssims).mean()) if ssims else None}


def _psnr(volume: torch.Tensor, truth: torch.Tensor, span: float, dim: tuple | None = None) -> torch.Tensor:
    return 10 * (span**2 / (volume - truth).square().mean(dim)).log10()


def ssim(slices: torch.Tensor, truth: torch.Tensor, span: float) -> torch.Tensor:
    """Structural similarity of each slice [n, H, W], the mean over its pixels: [n].

    Wang et al. (2004), "Image quality assessment: from error visibility to structural similarity", IEEE TIP 13(4):
    Gaussian window, K1 = 0.01, K2 = 0.03; slices are mirrored at their edges, as torchmetrics does it. That is not used
    itself: its import takes 0.2 GB and seconds.
    """
    place = torch.arange(SSIM_WINDOW, dtype=slices.dtype, device=slices.device) - (SSIM_WINDOW - 1) / 2
    window = torch.softmax(-(place / SSIM_SIGMA)**2 / 2, 0)
    slices, truth = (pad(x, 4 * [SSIM_WINDOW // 2], "reflect") for x in (slices, truth))
    x = torch.stack([slices, truth, slices**2, truth**2, slices * truth], 1).flatten(0, 1)[:, None]
    mean_x, mean_y, xx, yy, xy = conv2d(conv2d(x, window[None, None, None]), window[None, None, :, None]).unflatten(
        0, (-1, 5))[:, :, 0].unbind(1)
    c1, c2 = (0.01 * span)**2, (0.03 * span)**2
    found = ((2 * mean_x * mean_y + c1) * (2 * (xy - mean_x * mean_y) + c2) / (mean_x**2 + mean_y**2 + c1)
             / ((xx - mean_x**2).clamp_(min=0) + (yy - mean_y**2).clamp_(min=0) + c2))
    return found.mean((1, 2))


def _finite(value: torch.Tensor) -> float | None:
    return value.item() if value.isfinite() else None
