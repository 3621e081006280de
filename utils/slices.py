"""Training data: random 2D slices of volumes, as the priors see them."""
import numpy as np
import torch
import torch.nn.functional as F

from utils.volume import CT_WINDOW, Volume, scale_to_unit

EMPTY = 0.03    # standard deviation below which an MR image counts as empty


def ct_slices(volume: Volume) -> torch.Tensor:
    """Axial slices [D, H, W] of a CT in HU, its window `CT_WINDOW` scaled to [0, 1]."""
    return torch.from_numpy(scale_to_unit(volume.array, *CT_WINDOW))


def mr_slices(volume: Volume) -> torch.Tensor:
    """Slices that contain z, [H, W, D]: one for every y, scaled to [0, 1] by the minimum and the 99.9th percentile.

    A few bright voxels, of vessels or artefacts, would otherwise leave the tissue dark.
    """
    unit = scale_to_unit(volume.array, volume.array.min(), np.percentile(volume.array, 99.9))
    return torch.from_numpy(np.ascontiguousarray(unit.transpose(1, 2, 0)))


class SliceSampler:
    """Draws random training images from stacks of slices.

    ``groups`` is a list of lists of stacks [n, h, w] in [0, 1]. Every group is equally likely, and every stack
    within a group, so that one real scan counts as much as a hundred synthetic ones. Both kinds of image are
    mirrored left to right at random.

    - CT: a random box of 75 to 100 % of either side, resized (antialiased) to ``size`` x ``size``.
    - MR: a random box of ``size`` pixels, each 1 to 1.5 voxels wide, padded with zeros where the slice is
      smaller; drawn again, a few times, if it is almost empty; times a random gain of 0.25 to 1, since the
      maximum that a volume is scaled by says little about its tissue.
    """

    def __init__(self, groups, size: int, modality: str):
        self.groups = [[stack.half() for stack in group] for group in groups if group]
        if not self.groups:
            raise ValueError("no training data; accepted: at least one volume or synthetic phantom")
        self.size, self.modality = size, modality

    def batch(self, count: int, rng: np.random.Generator) -> torch.Tensor:
        """``count`` images [count, 1, size, size], float32."""
        return torch.stack([self._image(rng) for _ in range(count)])[:, None]

    def _image(self, rng: np.random.Generator) -> torch.Tensor:
        group = self.groups[rng.integers(len(self.groups))]
        stack = group[rng.integers(len(group))]
        if self.modality == "ct":
            image = _random_slice(stack, rng)
            image = _random_box(image, [round(side * rng.uniform(0.75, 1)) for side in image.shape], rng)
            return self._resize(image if rng.random() < 0.5 else image.flip(-1))
        side = round(self.size * rng.uniform(1, 1.5))
        for _ in range(5):
            image = _random_box(_random_slice(stack, rng), (side, side), rng)
            if image.std() > EMPTY:
                break
        image = rng.uniform(0.25, 1) * image
        return self._resize(image if rng.random() < 0.5 else image.flip(-2))

    def _resize(self, image: torch.Tensor) -> torch.Tensor:
        size = (self.size, self.size)
        return F.interpolate(image[None, None], size, mode="bilinear", antialias=True, align_corners=False)[0, 0]


def _random_slice(stack: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    return stack[rng.integers(len(stack))].float()


def _random_box(image: torch.Tensor, box, rng: np.random.Generator) -> torch.Tensor:
    """A random window of ``box`` pixels; the image is first padded with zeros where it is smaller."""
    for axis, side in enumerate(box):
        missing = max(0, side - image.shape[axis])
        before = int(rng.integers(missing + 1))
        pad = (before, missing - before)
        image = F.pad(image, pad if axis == 1 else (0, 0, *pad))
        image = image.narrow(axis, int(rng.integers(image.shape[axis] - side + 1)), side)
    return image
