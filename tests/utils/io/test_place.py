"""A point of the patient stays where it is: NIfTI's ways to say so, and what is done to volumes."""
import logging
import os

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from utils.io.nifti import read_nifti, write_volume
from utils.io.read import read_unit_ct, read_volume
from utils.io.volume import Volume, slice_axis

RAS_TO_LPS = np.diag([-1, -1, 1, 1])


def turn(axis, degrees):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.roll(np.array([[1, 0, 0], [0, c, -s], [0, s, c]]), axis, (0, 1))


def write(path, affine, shape=(7, 8, 9), values=None, sform=2, qform=None):
    """A file of these ``values`` [x, y, z], or where each voxel's is its number; ``affine`` is in RAS."""
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) if values is None else values
    image = nib.Nifti1Image(values, affine)
    image.set_sform(affine, sform)
    if qform is not None:
        image.set_qform(qform, 1)
    image.to_filename(path)
    return path


def grid(affine, shape):
    """Where each voxel [x, y, z] of a nibabel affine lies, in LPS mm [..., 3]."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return (index @ np.asarray(affine)[:3, :3].T + np.asarray(affine)[:3, 3]) * [-1, -1, 1]


def places(volume):
    """Where each voxel of a Volume lies, in the order of its array [z, y, x, 3], LPS mm."""
    index = np.stack(np.meshgrid(*map(np.arange, volume.array.shape), indexing="ij"), -1)[..., ::-1]
    return index @ volume.axes.T + volume.origin


def affine_of(axes, spacing=(0.7, 0.8, 2.5), origin=(-12, 34, 56)):
    affine = np.eye(4)
    affine[:3] = np.column_stack([axes * np.asarray(spacing), origin])
    return affine


# name: angles about the three axes, order of the axes, their signs, voxel sizes, origin
AFFINES = st.builds(
    lambda angles, order, signs, spacing, origin: affine_of(
        (turn(0, angles[0]) @ turn(1, angles[1]) @ turn(2, angles[2]))[:, order] * signs, spacing, origin),
    st.tuples(*[st.sampled_from([0.0, 0.0, 4.0, -17.0, 40.0])] * 3), st.permutations(range(3)),
    st.tuples(*[st.sampled_from([1, -1])] * 3), st.tuples(*[st.floats(0.4, 4)] * 3),
    st.tuples(*[st.floats(-300, 300)] * 3))


@settings(max_examples=30, derandomize=True, deadline=None, database=None, phases=[Phase.generate],
          suppress_health_check=list(HealthCheck))
@given(affine=AFFINES, orientation=st.sampled_from([None, "LPS", "LPI", "PIR"]), first=st.sampled_from([0, 1, 2]),
       begin=st.integers(0, 3), length=st.integers(5, 9), size=st.sampled_from([None, 9, 20, (9, 20, 7)]))
def test_a_point_of_the_patient_stays_where_it_is(tmp_path, affine, orientation, first, begin, length, size):
    # Three volumes whose values are where their voxels lie: L, P, S. What becomes of them still has to be true.
    points = grid(affine, (12, 13, 14))
    found = []
    for k in range(3):
        path = write(tmp_path / "scan.nii", affine, values=points[..., k].astype(np.float32))
        volume = read_volume(path, orientation).with_axis_first(first)
        volume = volume.crop(begin, begin + length)
        volume = volume.resize(size) if size else volume
        write_volume(tmp_path / "out.nii.gz", volume)
        back = nib.load(tmp_path / "out.nii.gz")
        found.append(back.get_fdata())
    inside = tuple(slice(n // 4, n - n // 4) for n in back.shape)    # resizing repeats the outermost pixels
    away = np.stack(found, -1)[inside] - grid(back.affine, back.shape)[inside]
    axes = volume.axes / np.square(volume.spacing)
    assert np.linalg.norm(away @ axes, axis=-1).max() < 0.1      # voxels


def test_thick_slices_are_found_and_put_first_in_their_place(tmp_path):
    axes = turn(0, 12) @ turn(2, 7)
    assert slice_axis(read_nifti(write(tmp_path / "a.nii", affine_of(axes, (1, 1, 1.4))))) == 2
    assert slice_axis(read_nifti(write(tmp_path / "b.nii", affine_of(axes, (1, 1.4, 1))))) == 2    # not thick enough
    sagittal = read_nifti(write(tmp_path / "c.nii", affine_of(axes[:, [2, 0, 1]], (4, 1, 1))))
    assert slice_axis(sagittal) == 0 and slice_axis(sagittal, "y") == 1
    stacked = sagittal.with_axis_first(0)
    assert stacked.array.shape == (7, 9, 8) and stacked.spacing == pytest.approx((1, 1, 4))
    write_volume(tmp_path / "d.nii", stacked)
    same = nib.as_closest_canonical(nib.load(tmp_path / "d.nii"))
    original = nib.as_closest_canonical(nib.load(tmp_path / "c.nii"))
    assert np.array_equal(same.get_fdata(), original.get_fdata())
    assert np.allclose(same.affine, original.affine, atol=1e-4)
    with pytest.raises(ValueError, match="slice axis 'L'; accepted: x, y, z"):
        slice_axis(sagittal, "L")


@pytest.mark.parametrize("axes", [np.eye(3), np.diag([-1, -1, 1]), np.diag([1, 1, -1]), np.eye(3)[:, [2, 0, 1]]])
def test_slices_of_a_ct_count_from_the_feet_and_it_is_said(tmp_path, axes, caplog):
    caplog.set_level(logging.INFO)
    affine = affine_of(axes, (2, 2, 2), (-7, -7, -7))
    height = grid(affine, (8, 8, 8))[..., 2]
    bone = np.abs(height - height.min() - 4) < 1
    path = write(tmp_path / "ct.nii", affine, values=np.where(bone, 300, -1000).astype("f4"))
    volume = read_unit_ct(path, 2, 4, (-1000, 1600))
    assert volume.array[0].min() == pytest.approx(0.5) and volume.array[1].max() == 0
    assert volume.origin[2] == height.min() + 4
    low = height.min() + 3
    assert f"slices 2 to 3 of 8, counted from the feet: S {low:.1f} to {low + 4:.1f} mm" in caplog.text


def test_a_ct_says_what_is_clamped_and_what_is_no_hu(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    values = np.full((8, 8, 4), -1000, np.float32)
    values[2:5, 2:5] = 40
    values[3, 3, :2], values[0, 0, 0] = (3000, 2500), -1024
    read_unit_ct(write(tmp_path / "metal.nii", np.eye(4), values=values), 0, 0, (-1000, 1600))
    assert "metal.nii: 2 voxels above 1600 HU (up to 3000) and 1 below -1000 (down to -1024) are clamped" in caplog.text
    read_unit_ct(write(tmp_path / "raw.nii", np.eye(4), values=values + 1024), 0, 0, (-1000, 1600))
    assert "raw.nii: values from 0 to 4024, many of them near 1024" in caplog.text
    with pytest.raises(ValueError, match="unit.nii: values from .* are no HU"):
        read_unit_ct(write(tmp_path / "unit.nii", np.eye(4), values=values / 3000), 0, 0, (-1000, 1600))


def test_the_sform_comes_first_and_a_qform_elsewhere_is_said(tmp_path, caplog):
    one, other = affine_of(turn(0, 10)), affine_of(turn(0, 10), origin=(-12, 34, 61))
    found = read_nifti(write(tmp_path / "a.nii", one, qform=other))
    assert np.allclose(places(found), grid(one, (7, 8, 9)).transpose(2, 1, 0, 3), atol=1e-4)
    assert caplog.text.count("sform and qform differ by up to 5 mm; the sform is used") == 1
    caplog.clear()
    read_nifti(write(tmp_path / "a.nii", one, qform=affine_of(turn(0, 10), origin=(-12.05, 34, 56))))    # 0.07 voxels
    found = read_nifti(write(tmp_path / "a.nii", one, qform=other, sform=0))
    assert np.allclose(places(found), grid(other, (7, 8, 9)).transpose(2, 1, 0, 3), atol=1e-4) and not caplog.text


def test_the_spacing_alone_is_taken_as_nibabel_does(tmp_path):
    path = write(tmp_path / "a.nii", np.diag([1, 2, 3, 1]), sform=0)
    raw = bytearray(path.read_bytes())
    assert raw[252:256] == bytes(4)     # neither qform nor sform
    found = read_nifti(path)
    assert np.allclose(places(found), grid(nib.load(path).affine, (7, 8, 9)).transpose(2, 1, 0, 3))


@pytest.mark.parametrize("name", ["off by 1e-4", "three decimals"])
def test_axes_that_are_not_orthogonal_by_rounding_become_so_where_they_are(tmp_path, name, caplog):
    axes = turn(1, 7.7) @ turn(0, 12.34)
    rounded = np.round(axes, 3) if name == "three decimals" else axes + 1e-4 * np.eye(3)[:, [1, 0, 2]]
    affine = affine_of(rounded, (0.5, 0.5, 3.0))
    found = read_nifti(write(tmp_path / "a.nii", affine, (61, 61, 21)))
    matrix = np.reshape(found.direction, (3, 3))
    assert np.allclose(matrix.T @ matrix, np.eye(3), atol=1e-12) and not caplog.text
    away = places(found) - grid(affine, (61, 61, 21)).transpose(2, 1, 0, 3)
    assert np.linalg.norm(away, axis=-1).max() < 0.1 * 0.5 and np.abs(away[10, 30, 30]).max() < 1e-4
    assert np.array_equal(found.array, nib.load(tmp_path / "a.nii").get_fdata().T)


@pytest.mark.parametrize("shear", [(1, 2, 0.4), (1, 2, -0.3), (0, 1, 0.2), (0, 2, 0.3)])
def test_a_sheared_stack_is_resampled_upright_and_said(tmp_path, shear, caplog):
    # Values that are linear in the patient stay so; a gantry tilt shifts every slice against the one below.
    axes = np.diag([1.0, 1.0, 2.5])
    axes[shear[0], shear[1]] = shear[2] * axes[shear[1], shear[1]]
    affine = affine_of(turn(2, 20) @ axes, (1, 1, 1))
    points = grid(affine, (20, 21, 15))
    upright = affine_of(turn(2, 20), (1, 1, 2.5))
    found = [read_nifti(write(tmp_path / "a.nii", affine, values=points[..., k].astype("f4"), qform=upright))
             for k in range(3)]
    place = found[0]
    matrix = np.reshape(place.direction, (3, 3))
    assert np.allclose(matrix.T @ matrix, np.eye(3), atol=1e-9)
    assert place.spacing == pytest.approx((1, 1, 2.5), rel=1e-4)
    assert len(place.array) == 15 and "sheared by" in caplog.text and "sform and qform differ" in caplog.text
    exact = places(place)
    values = np.stack([volume.array for volume in found], -1)
    covered = (np.abs((exact - points.reshape(-1, 3).mean(0)) @ np.linalg.inv(affine[:3, :3] * [[-1], [-1], [1]]).T)
               < (np.array([20, 21, 15]) - 1) / 2 - 1e-3).all(-1)
    assert covered.sum() > 0.8 * 20 * 21 * 13 * 0.9
    assert np.abs(values - exact)[covered].max() < 1e-3
    assert max(np.abs(exact - corner).sum(-1).min() for corner in points[::19, ::20, ::14].reshape(-1, 3)) < 3.0


def test_a_stack_that_is_all_but_flat_is_refused(tmp_path):
    axes = np.eye(3)
    axes[1, 2] = 3
    with pytest.raises(ValueError, match="a.nii: axes that are 72 degrees from right angles; accepted: up to 60"):
        read_nifti(write(tmp_path / "a.nii", affine_of(axes, (1, 1, 1))))


def test_a_slope_of_zero_means_no_scaling(tmp_path):
    path = write(tmp_path / "a.nii", np.eye(4), values=np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    raw = bytearray(path.read_bytes())
    raw[112:120] = np.array([0, -1024], "<f4").tobytes()     # scl_slope, scl_inter
    path.write_bytes(raw)
    assert np.array_equal(read_nifti(path).array, np.arange(24).reshape(2, 3, 4).T)


def test_values_that_squares_of_cannot_be_summed_are_refused(tmp_path):
    values = np.zeros((2, 2, 2), np.float32)
    values[0, 0] = 3e38, -3e38
    with pytest.raises(ValueError, match="a.nii: 2 voxels are NaN, infinite or beyond 1e"):
        read_nifti(write(tmp_path / "a.nii", np.eye(4), values=values))


@pytest.mark.parametrize("name", [b"Sch\xe4del.nii.gz", "Schädel 头.nii".encode()])
def test_names_that_are_not_utf8_or_not_ascii(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    volume = Volume(np.arange(8, dtype=np.float32).reshape(2, 2, 2))
    write_volume(path, volume)
    assert os.listdir(os.fsencode(tmp_path)) == [name]
    assert np.array_equal(read_volume(path).array, volume.array)


def test_pipes_and_devices_are_not_called_missing(tmp_path):
    os.mkfifo(tmp_path / "a.nii")
    for path in (tmp_path / "a.nii", "/dev/zero"):
        with pytest.raises(ValueError, match=f"{path}: a device, pipe or socket"):
            read_volume(path)


def test_a_file_that_there_is_no_memory_for_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "bomb.nii.gz", np.eye(4))

    def full(*_args, **_options):
        raise MemoryError

    monkeypatch.setattr(np, "empty", full)
    with pytest.raises(ValueError, match=r"bomb.nii.gz: no memory for its 7 x 8 x 9 voxels"):
        read_nifti(path)
