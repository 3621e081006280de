"""Training images: sizes, ranges, the balance of real and synthetic, reproducibility, the cache."""
import os

import numpy as np
import pytest
import torch

import utils.train.slices
from utils.io.intensity import mr_window
from utils.io.nifti import write_volume
from utils.io.read import read_volume
from utils.io.volume import Volume
from utils.train.slices import (
    SliceSampler,
    check_apart,
    ct_slices,
    find_volumes,
    mr_slices,
    volume_slices,
)


def test_ct_slices_are_axial_and_windowed():
    array = np.full((3, 4, 5), -3000, np.float32)
    array[1], array[2] = 300, 1600
    slices = ct_slices(Volume(array))
    assert slices.shape == (3, 4, 5) and slices.flatten(1).mean(1).tolist() == [0, 0.5, 1]


def test_mr_slices_contain_z_one_for_every_y():
    array = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    slices = mr_slices(Volume(array))
    assert slices.shape == (4, 5, 3)
    low, high = mr_window(array)
    assert torch.allclose(low + slices[2, 3] * (high - low), torch.from_numpy(array[:, 2, 3]))


def test_bright_outliers_do_not_darken_the_tissue():
    array = np.random.default_rng(0).uniform(0, 100, (20, 20, 20)).astype(np.float32)
    array[3, 4, 5] = 1e5
    slices = mr_slices(Volume(array))
    assert slices.max() == 1 and slices.mean().item() == pytest.approx(0.5, abs=0.02)


def test_empty_mr_images_are_drawn_again():
    stack = torch.zeros(2, 16, 16)
    stack[1] = torch.rand(16, 16)
    batch = SliceSampler([[stack]], 16, "mr").batch(400, np.random.default_rng(0))
    assert (batch.flatten(1).amax(1) == 0).float().mean() == pytest.approx(0.5**5, abs=0.03)


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_batches_have_the_size_and_follow_the_seed(modality):
    stacks = [torch.rand(6, 30, 70), torch.rand(4, 9, 100)]
    sampler = SliceSampler([stacks, []], 24, modality)
    first = sampler.batch(5, np.random.default_rng(1))
    assert first.shape == (5, 1, 24, 24) and first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, sampler.batch(5, np.random.default_rng(1)))
    assert not torch.equal(first, sampler.batch(5, np.random.default_rng(2)))


def test_groups_and_stacks_are_equally_likely_whatever_their_size():
    stacks = [[torch.full((1, 8, 8), 0.0)], [torch.full((100, 8, 8), 0.5), torch.full((3, 8, 8), 1.0)]]
    means = SliceSampler(stacks, 8, "ct").batch(2000, np.random.default_rng(0)).flatten(1).mean(1)
    for value, share in ((0.0, 0.5), (0.5, 0.25), (1.0, 0.25)):
        assert ((means - value).abs() < 1e-3).float().mean().item() == pytest.approx(share, abs=0.04)


def test_without_data_there_is_no_sampler():
    with pytest.raises(ValueError, match="no training data"):
        SliceSampler([[], []], 8, "ct")


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "data" / "scan.nii.gz"
    path.parent.mkdir()
    write_volume(path, Volume(np.random.default_rng(0).uniform(-1000, 1600, (4, 6, 5)).astype(np.float32)))
    return path


@pytest.fixture
def reads(monkeypatch):
    """The volumes that were read."""
    paths = []
    monkeypatch.setattr(utils.train.slices, "read_volume",
                        lambda path, *a: (paths.append(path), read_volume(path, *a))[1])
    return paths


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_cached_slices_are_those_of_the_volume(scan, reads, modality, tmp_path):
    made = [volume_slices(scan, modality, tmp_path / "cache") for _ in range(2)]
    expected = (ct_slices(read_volume(scan, "LPS")) if modality == "ct" else mr_slices(read_volume(scan))).half()
    assert len(reads) == 1 and len(made[1]) == len(expected) and made[1][0].dtype == np.float16
    for i, image in enumerate(expected):
        assert np.array_equal(made[1][i], image)


def test_a_changed_volume_is_read_again(scan, reads, tmp_path, monkeypatch):
    def read(modality="ct"):
        volume_slices(scan, modality, tmp_path / "cache")
        return len(reads)

    assert (read(), read()) == (1, 1)
    os.utime(scan, ns=(0, 12345))
    assert (read(), read("mr")) == (2, 3)
    monkeypatch.setattr(utils.train.slices, "VERSION", -1)
    assert read() == 4


def test_nothing_half_made_stays_in_the_cache(scan, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        volume_slices(scan, "ct", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_damaged_cache_file_and_a_flat_volume_are_named(scan, tmp_path):
    path = volume_slices(scan, "ct", tmp_path / "cache").path
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(ValueError, match=f"{path.name}: not a file of slices"):
        volume_slices(scan, "ct", tmp_path / "cache")
    write_volume(scan, Volume(np.zeros((4, 6, 5), np.float32)))
    with pytest.raises(ValueError, match="scan.nii.gz: all voxels have one value"):
        volume_slices(scan, "mr", tmp_path / "cache")


@pytest.mark.parametrize("content", [np.zeros(7, np.float16), np.zeros((0, 3, 3), np.float16), np.zeros((2, 3, 3)),
                                     None])
def test_a_cache_file_without_slices_is_named(scan, tmp_path, content):
    path = volume_slices(scan, "ct", tmp_path / "cache").path
    path.write_bytes(b"")
    if content is not None:
        np.save(path, content)
    with pytest.raises(ValueError, match=f"{path.name}: .*slices.*; delete it, and it is made again"):
        volume_slices(scan, "ct", tmp_path / "cache")


def test_volumes_with_the_same_slices_are_found_whatever_their_names(scan, tmp_path):
    stacks = {}
    for name, shift in (("a", 0), ("b", 0), ("c", 1)):
        array = read_volume(scan).array.copy()
        array[0, 0, 0] += 100 * shift      # not in the slice that is looked at first
        write_volume(tmp_path / f"{name}.nii.gz", Volume(array))
        stacks[name] = volume_slices(tmp_path / f"{name}.nii.gz", "ct", tmp_path / "cache")
    check_apart({"a": stacks["a"]}, {"c": stacks["c"]})
    with pytest.raises(ValueError, match="b: the same content as a; accepted: every volume once"):
        check_apart({"c": stacks["c"], "a": stacks["a"]}, {"b": stacks["b"]})


def test_folders_give_their_volumes_in_order(scan, tmp_path):
    folder, single = scan.parent, tmp_path / "one.nii"
    for name in ("b.nii", "a.NII.GZ", "notes.txt", "._a.nii.gz"):
        (folder / name).touch()
    assert find_volumes([single, folder]) == [single, folder / "a.NII.GZ", folder / "b.nii", scan]
    for paths, reason in [([tmp_path / "cache"], "not a NIfTI file"), ([tmp_path], "holds not a NIfTI file"),
                          ([scan, folder], "scan.nii.gz: given twice")]:
        with pytest.raises(ValueError, match=reason):
            find_volumes(paths)


def test_a_stack_needs_no_open_file(scan, tmp_path):
    stacks = [volume_slices(scan, "ct", tmp_path / "cache") for _ in range(5)]
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    batch = SliceSampler([stacks], 8, "ct").batch(20, np.random.default_rng(0))
    assert batch.shape == (20, 1, 8, 8)
    assert not before or len(os.listdir("/proc/self/fd")) <= before
