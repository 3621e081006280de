"""Voxel-driven backprojection: C++ against PyTorch, and against interpolation by hand."""
import numpy as np
import pytest
import torch

from op.build import NotCompiled
from op.fdk_backproject import fdk_backproject

UPRIGHT = [[8.0, -3.0, 0.0, 700.0], [1.0, 2.0, 11.0, 500.0], [0.1, -0.2, 0.0, 60.0]]
TILTED = [[8.0, -3.0, 0.4, 700.0], [1.0, 2.0, -11.0, 500.0], [0.1, -0.2, 0.05, 60.0]]
AXES = ((-6.0, 1.5), (-9.0, 1.0), (-4.5, 0.75))


def filled(impl, matrix, view, dtype=torch.float32, shape=(17, 9, 13)):
    volume = torch.ones(shape, dtype=dtype)
    fdk_backproject(volume, view.to(dtype), np.array(matrix), AXES, 50.0, impl)
    return volume


@pytest.fixture
def view():
    return torch.randn(16, 21, generator=torch.Generator().manual_seed(0))


def need_compiled():
    try:
        fdk_backproject(torch.zeros(1, 1, 1), torch.zeros(1, 1), np.eye(3, 4), AXES, 1.0, "compiled")
    except NotCompiled as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("matrix", [UPRIGHT, TILTED])
def test_values_at_the_shadow_linearly_interpolated(view, matrix):
    volume, framed = filled("reference", matrix, view, torch.float64), np.zeros((19, 24))
    framed[1:-2, 1:-2] = view.numpy()
    for j, i, k in ((8, 4, 6), (0, 0, 0), (16, 8, 12), (3, 7, 9), (12, 1, 2)):
        point = [first + step * n for (first, step), n in zip(AXES, (i, j, k))]
        column, row, depth = np.array(matrix) @ [*point, 1]
        column, row = (np.clip(at / depth + 1, 0, size + 1) for at, size in ((column, 21), (row, 16)))
        c, r = int(column), int(row)
        corner = framed[r:r + 2, c:c + 2]
        value = np.array([r + 1 - row, row - r]) @ corner @ [c + 1 - column, column - c]
        assert volume[j, i, k].item() == pytest.approx(1 + 50 / depth**2 * value, abs=1e-12)


@pytest.mark.parametrize("matrix", [UPRIGHT, TILTED])
@pytest.mark.parametrize("move", [0, 400, -700, 10000])
def test_compiled_equals_reference(view, matrix, move):
    need_compiled()
    matrix = np.array(matrix)
    matrix[0, 3] += move                    # off the edges of the view, and away from it altogether
    found, expected = (filled(impl, matrix, view) for impl in ("compiled", "reference"))
    assert torch.allclose(found, expected, atol=1e-5)
    assert bool((expected != 1).any()) == (move != 10000)


def test_bad_arguments(view):
    for volume, image, impl in ((torch.zeros(3, 3), view, None), (torch.zeros(2, 2, 2).int(), view, None),
                                (torch.zeros(2, 2, 2), view[0], None), (torch.zeros(2, 2, 2), view, "fast"),
                                (torch.zeros(2, 3, 4).transpose(0, 1), view, None)):
        with pytest.raises(ValueError):
            fdk_backproject(volume, image, np.eye(3, 4), AXES, 1.0, impl)
    with pytest.raises(NotCompiled):
        fdk_backproject(torch.zeros(2, 2, 2).double(), view.double(), np.eye(3, 4), AXES, 1.0, "compiled")
