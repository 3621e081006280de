"""Projections that are read one at a time."""
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from physics.beer_lambert import check_finite


class Views:
    """Images [v, u] of one shape, read when they are asked for.

    Args:
        count: how many.
        shape: (v, u) of each.
        read: gives the image of an index, an array of any number type; it may raise ValueError.
        name: of the file, for errors.
        held: all of them [views, v, u], float32, where the format lets none be read alone; ``read`` gives parts of it.
    """

    def __init__(self, count: int, shape: tuple[int, int], read: Callable[[int], np.ndarray], name: str,
                 held: np.ndarray | None = None):
        self.count, self.read, self.name, self.held = count, read, name, held
        self.shape = (count, int(shape[0]), int(shape[1]))

    @classmethod
    def of(cls, array: np.ndarray, name: str) -> "Views":
        """The images of an array [views, v, u], float32, that is in memory. ValueError where one is not finite."""
        for k, view in enumerate(array):
            check_finite(f"{name}: view {k}", view)
        return cls(len(array), array.shape[1:], array.__getitem__, name, array)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, k: int) -> np.ndarray:
        if not -self.count <= k < self.count:
            raise IndexError(k)
        image = np.asarray(self.read(int(k) % self.count))
        if image.shape != self.shape[1:]:
            raise ValueError(f"{self.name}: view {k} of {' x '.join(map(str, image.shape))} pixels; the others have "
                             f"{' x '.join(map(str, self.shape[1:]))}")
        check_finite(f"{self.name}: view {k}", image)
        return image

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[k] for k in range(self.count))

    def select(self, indices: Sequence[int]) -> "Views":
        """These views alone, in this order."""
        if list(indices) == list(range(self.count)):
            return self
        indices = list(indices)
        return Views(len(indices), self.shape[1:], lambda k: self.read(indices[k]), self.name)

    def array(self) -> np.ndarray:
        """All of them: float32 [views, v, u], contiguous and writable."""
        if self.held is not None:
            return self.held
        found = np.empty(self.shape, np.float32)
        with np.errstate(over="ignore"):
            for k in range(self.count):
                found[k] = self[k]
                check_finite(f"{self.name}: view {k}", found[k])
        return found
