"""Training data: random 2D slices of volumes, as the priors see them, and their cache on disk."""
import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from models.window import CT_WINDOW
from utils.io.files import complete_file
from utils.io.intensity import PERCENTILES, check_ct, mr_window, scale_to_unit
from utils.io.nifti import SUFFIXES
from utils.io.read import read_volume
from utils.io.volume import Volume

log = logging.getLogger(__name__)

EMPTY = 0.03    # standard deviation below which an MR image counts as empty
VERSION = 2     # of the cached slices; to be raised when the values below, or windows change


class NoContrast(ValueError):
    """A volume whose slices would all have one value."""


def find_volumes(paths: Iterable[Path]) -> list[Path]:
    """The NIfTI files among ``paths``: files, and of a folder all in it that are not hidden, sorted by name.

    Raises:
        ValueError: a folder without one, a file of another kind, or one that is given twice.
    """
    found = []
    for path in map(Path, paths):
        inside = [path]
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.name.lower().endswith(SUFFIXES) and file.is_file()
                            and not file.name.startswith("."))    # such as the ._scan.nii.gz that macOS leaves
        if not inside or not inside[0].name.lower().endswith(SUFFIXES):
            raise ValueError(f"{path}: {'not' if inside else 'holds not'} a NIfTI file; accepted: names that end in "
                             f"{' or '.join(SUFFIXES)}, and folders with such files")
        found += inside
    resolved = [path.resolve() for path in found]
    for i, path in enumerate(resolved):
        if path in resolved[:i]:
            raise ValueError(f"{found[i]}: given twice; accepted: every volume once, for training or for "
                             "validation")
    return found


def ct_slices(volume: Volume) -> torch.Tensor:
    """Axial slices [D, H, W] of a CT in HU, its window `CT_WINDOW` scaled to [0, 1].

    Raises:
        NoContrast: all voxels have one value in the window.
    """
    try:
        return torch.from_numpy(scale_to_unit(volume.array, *CT_WINDOW))
    except ValueError as error:
        raise NoContrast(str(error)) from None


def mr_slices(volume: Volume) -> torch.Tensor:
    """Slices that contain z, [H, W, D]: one for every y, the window `mr_window` scaled to [0, 1].

    Raises:
        NoContrast: hardly any voxel differs from the smallest.
    """
    least, most = float(volume.array.min()), float(volume.array.max())
    if not least < np.percentile(volume.array, PERCENTILES[1]):
        raise NoContrast(f"all voxels have one value, {least:g}, up to the {PERCENTILES[1]}th percentile; the largest "
                         f"is {most:g}")
    unit = scale_to_unit(volume.array, *mr_window(volume.array))
    return torch.from_numpy(np.ascontiguousarray(unit.transpose(1, 2, 0)))


class CachedSlices:
    """Slices [n, h, w] of a file in the cache, float16.

    ``slices[i]`` reads one; between two reads no file is open, so that there may be more volumes than a process may
    open files.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            array = np.load(path, mmap_mode="r")
        except (EOFError, ValueError) as error:
            raise ValueError(f"{path}: not a file of slices ({error}); delete it, and it is made again") from None
        self.shape = array.shape
        if array.ndim != 3 or not array.size or array.dtype != np.float16:
            raise ValueError(f"{path}: {array.dtype} of shape {array.shape}, no slices; delete it, and it is made "
                             "again")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> np.ndarray:
        return np.array(np.load(self.path, mmap_mode="r")[index])


def check_apart(training: dict[Path, CachedSlices], validation: dict[Path, CachedSlices]) -> None:
    """Raise ValueError where a volume of ``validation`` has the slices of one of ``training``, whatever its name."""
    def middle(stack):
        return stack.shape, stack[len(stack) // 2].tobytes()

    known: dict[tuple, list[Path]] = {}
    for path, stack in training.items():
        known.setdefault(middle(stack), []).append(path)
    for path, stack in validation.items():
        for other in known.get(middle(stack), ()):
            if all(np.array_equal(stack[k], training[other][k]) for k in range(len(stack))):
                raise ValueError(f"{path}: the same content as {other}; accepted: every volume once, for training or "
                                 "for validation")


def volume_slices(path: Path, modality: str, cache: Path) -> CachedSlices:
    """The slices ("ct": `ct_slices` of the axes LPS, "mr": `mr_slices`) of a NIfTI file, read from it the first time.

    The cache knows the file by its path, size and time of change. What speaks against HU in a CT is said when it is
    read.

    Raises:
        NoContrast: all slices would have one value, by the file's name.
        ValueError, OSError: the file can't be read or used, by its name.
    """
    def make() -> torch.Tensor:
        volume = read_volume(path, "LPS" if modality == "ct" else None)
        try:
            if modality == "ct" and (doubt := check_ct(volume.array)):
                log.warning("%s: %s", path, doubt)
            return ct_slices(volume) if modality == "ct" else mr_slices(volume)
        except ValueError as error:
            raise type(error)(f"{path}: {error}") from None

    stat = path.stat()
    key = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    return _cached(cache, f"{modality}-{path.name.split('.')[0]}", key, make)


def _cached(cache: Path, name: str, key: tuple, make: Callable[[], torch.Tensor]) -> CachedSlices:
    """What ``make()`` gives, from CACHE/<name>-<hash of name and key>.npy; the file is made where it is missing."""
    digest = hashlib.sha256(repr((VERSION, name, key)).encode()).hexdigest()[:16]
    path = cache / f"{name}-{digest}.npy"
    if not path.exists():
        slices = make().half().numpy()
        cache.mkdir(parents=True, exist_ok=True)
        with complete_file(path) as partial:
            np.save(partial, slices)
    return CachedSlices(path)


class SliceSampler:
    """Draws random training images from stacks of slices.

    Every group is equally likely, and every stack within a group, so that many scans of one region do not outweigh a
    few of another. Images of both modalities are mirrored left to right at random.

    - CT: a random box of 65 to 105 % of the slice, its sides apart by up to 12 % more or less, padded with zeros, which
      are air, where it is larger, and resized (antialiased) to ``size`` x ``size``; a quarter of them first to 60 to
      100 % of that, as scans of coarser pixels look.
    - MR: a random box of ``size`` pixels, each 1 to 1.5 voxels wide, padded with zeros where the slice is
      smaller; drawn again, a few times, if it is almost empty; times a random gain of 0.25 to 1, since the
      maximum that a volume is scaled by says little about its tissue.

    Args:
        groups: lists of stacks [n, h, w] in [0, 1]: `CachedSlices`, tensors or arrays.
        size: of the images, in pixels.
        modality: "ct" or "mr".
        intensities: that the images have in place of 0 and 1.

    Raises:
        ValueError: there is no stack.
    """

    def __init__(self, groups: Iterable[Sequence], size: int, modality: str,
                 intensities: tuple[float, float] = (0.0, 1.0)):
        self.groups = [list(group) for group in groups if group]
        if not self.groups:
            raise ValueError("no training data; accepted: at least one volume")
        self.size, self.modality, (self.low, high) = size, modality, intensities
        self.width = high - self.low

    def batch(self, count: int, rng: np.random.Generator) -> torch.Tensor:
        """``count`` images [count, 1, size, size], float32."""
        return self.low + self.width * torch.stack([self._image(rng) for _ in range(count)])[:, None]

    def _image(self, rng: np.random.Generator) -> torch.Tensor:
        group = self.groups[rng.integers(len(self.groups))]
        stack = group[rng.integers(len(group))]
        if self.modality == "ct":
            image = _random_slice(stack, rng)
            part, aspect = np.exp(rng.uniform(np.log(0.65), np.log(1.05))), np.exp(rng.uniform(-0.06, 0.06))
            image = _random_box(image, [max(1, round(side * part * stretch))
                                        for side, stretch in zip(image.shape, (aspect, 1 / aspect))], rng)
            if rng.random() < 0.25:
                image = _resize(image, max(1, round(self.size * rng.uniform(0.6, 1))))
            return _resize(image if rng.random() < 0.5 else image.flip(-1), self.size)
        side = round(self.size * rng.uniform(1, 1.5))
        for _ in range(5):
            image = _random_box(_random_slice(stack, rng), (side, side), rng)
            if image.std() > EMPTY:
                break
        image = rng.uniform(0.25, 1) * image
        return _resize(image if rng.random() < 0.5 else image.flip(-2), self.size)


def _resize(image: torch.Tensor, size: int) -> torch.Tensor:
    return F.interpolate(image[None, None], (size, size), mode="bilinear", antialias=True, align_corners=False)[0, 0]


def _random_slice(stack: Any, rng: np.random.Generator) -> torch.Tensor:
    return torch.as_tensor(stack[rng.integers(len(stack))]).float()


def _random_box(image: torch.Tensor, box: Sequence[int], rng: np.random.Generator) -> torch.Tensor:
    """A random window of ``box`` pixels; the image is first padded with zeros where it is smaller."""
    for axis, side in enumerate(box):
        missing = max(0, side - image.shape[axis])
        before = int(rng.integers(missing + 1))
        pad = (before, missing - before)
        image = F.pad(image, pad if axis == 1 else (0, 0, *pad))
        image = image.narrow(axis, int(rng.integers(image.shape[axis] - side + 1)), side)
    return image
