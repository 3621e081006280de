"""Intensities: one stray voxel moves no window, and values that are no HU are told."""
import numpy as np
import pytest

from utils.io.intensity import beyond_window, check_ct, mr_window, scale_from_unit, scale_to_unit


@pytest.fixture
def head():
    """An MR: air with a little noise, tissue from 100 to 900, a few vessels up to 960."""
    rng = np.random.default_rng(0)
    array = np.abs(rng.normal(0, 4, (20, 30, 40))).astype(np.float32)
    array[3:17, 5:25, 5:35] = rng.uniform(100, 900, (14, 20, 30))
    array[10, 10:15, 10] = 960
    return array


def test_the_window_is_the_published_one_where_nothing_sticks_out(head):
    assert mr_window(head) == mr_window(head, "min-max") == (head.min(), 960)


@pytest.mark.parametrize("factor", [20, -2, 1e9])
def test_one_stray_voxel_moves_nothing(head, factor):
    window = mr_window(head)
    head[1, 2, 3] = factor * 960
    assert mr_window(head) == window
    assert mr_window(head, "min-max") == (head.min(), head.max())


def test_a_tail_of_many_bright_voxels_is_left_out(head):
    rng = np.random.default_rng(1)
    head[5, 8, 5:9] = rng.uniform(2000, 9000, 4)      # of 8400 voxels of tissue
    low, high = mr_window(head)
    tissue = np.sort(head[head > 50])
    assert low == head.min() and high == tissue[int(0.999 * (len(tissue) - 1))] == pytest.approx(900, rel=0.1)


def test_air_is_near_zero_however_bright_the_tissue():
    array = np.zeros((10, 20, 20), np.float32)
    array[:, 5:15, 5:15] = np.random.default_rng(0).uniform(800, 1000, (10, 10, 10))
    assert mr_window(array) == (0, array.max())


def test_without_air_the_darkest_tissue_is_near_zero():
    array = np.random.default_rng(0).uniform(800, 1000, (10, 20, 20)).astype(np.float32)
    array[0, 0, 0] = 0
    low, high = mr_window(array)
    assert 800 <= low < 801 and high == array.max()


def test_a_mostly_empty_mr_has_a_window():
    sparse = np.zeros((20, 30, 30), np.float32)
    sparse[8:10, 15, 10:14] = np.arange(100, 900, 100).reshape(2, 4)
    low, high = mr_window(sparse)
    assert low == 0 and 700 <= high <= 900


@pytest.mark.parametrize("array", [np.zeros((2, 3, 4)), 5 * np.eye(3)[None], np.arange(2.0).reshape(1, 1, 2)])
def test_few_values_are_all_in_the_window(array):
    assert mr_window(array.astype(np.float32)) == (array.min(), array.max())


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="rule 'best'; accepted: percentile or min-max"):
        mr_window(np.zeros((1, 1, 1)), "best")


def test_scaling_clamps_and_inverts():
    values = np.array([-2000.0, -1000, 300, 1600, 3000])
    unit = scale_to_unit(values, -1000, 1600)
    assert unit.tolist() == [0, 0, 0.5, 1, 1]
    assert scale_from_unit(unit, -1000, 1600).tolist() == [-1000, -1000, 300, 1600, 1600]
    for constant, low, high in ((5.0, 5, 5), (5.0, 0, 9), (-2000.0, -1000, 1600), (2000.0, -1000, 1600)):
        with pytest.raises(ValueError, match="all voxels have one value"):
            scale_to_unit(np.full(3, constant), low, high)


def test_scaling_without_clamping_keeps_what_lies_beyond():
    values = np.array([-10, 0, 5, 10, 200], np.float32)
    unit = scale_to_unit(values, 0, 10, clip=False)
    assert unit.tolist() == [-1, 0, 0.5, 1, 20] and unit.dtype == np.float32
    assert scale_from_unit(unit, 0, 10).tolist() == values.tolist()


def test_what_lies_beyond_a_window_is_counted():
    assert beyond_window(np.array([-1024, -1000, 0, 1600, 3000, 2000]), -1000, 1600) == (1, 2, -1024, 3000)


def body(air=-1000.0, tissue=40.0):
    array = np.full((4, 20, 20), air, np.float32)
    array[:, 5:15, 5:15] = np.random.default_rng(0).normal(tissue, 15, (4, 10, 10))
    return array


def test_hu_are_taken_without_a_word():
    assert check_ct(body()) == check_ct(body(-3024)) == check_ct(body(-1000, -700)) == ""
    assert check_ct(np.zeros((2, 2, 2))) != "" and check_ct(np.full((2, 2, 2), -1000)) == ""


@pytest.mark.parametrize("array, reason", [
    (body(0, 1064), "HU with 1024 added"), (np.maximum(body(0, 300), 0), "an MR, or no HU"),
    (body(-1000, 30000) * (body() > -500) - 1000 * (body() < -500) + 5000, "none below -200"),
    (np.where(np.indices((4, 20, 20))[2] < 15, 900, -1000), "a median of 900: no HU")])
def test_what_is_no_hu_is_told(array, reason):
    assert reason in check_ct(array)


def test_a_ct_from_0_to_1_is_refused():
    for unit in ((body() + 1000) / 2600, (body() + 1000) / 1300 - 1):
        with pytest.raises(ValueError, match="are no HU"):
            check_ct(unit)
