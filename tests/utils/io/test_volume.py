"""Volumes: where every voxel lies in the patient survives reorientation, crop, resize and the file."""
import resource

import numpy as np
import pytest
import SimpleITK as sitk

from utils.io.nifti import write_volume
from utils.io.read import read_volume
from utils.io.volume import Volume

OBLIQUE = (0.9, -0.4358898943540674, 0, 0.4358898943540674, 0.9, 0, 0, 0, 1)


def image(shape=(5, 6, 7), direction=None, kind=np.float32):
    values = np.random.default_rng(0).normal(100, 50, shape).astype(kind)
    result = sitk.GetImageFromArray(values)
    result.SetSpacing((0.7, 0.8, 2.5))
    result.SetOrigin((-12, 34, 56))
    if direction:
        result.SetDirection(direction)
    return result


def as_image(volume):
    result = sitk.GetImageFromArray(volume.array)
    result.SetSpacing(volume.spacing)
    result.SetOrigin(volume.origin)
    result.SetDirection(volume.direction)
    return result


def write(tmp_path, itk_image, name="scan.nii.gz"):
    sitk.WriteImage(itk_image, str(tmp_path / name))
    return tmp_path / name


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "LPI", "PIR", "oblique"])
def test_the_same_point_has_the_same_value_after_reading_cropping_and_writing(tmp_path, orientation):
    source = image(direction=OBLIQUE if orientation == "oblique" else None)
    if orientation != "oblique":
        source = sitk.DICOMOrient(source, orientation)
    depth = read_volume(write(tmp_path, source), "LPI").array.shape[0]
    volume = read_volume(tmp_path / "scan.nii.gz", "LPI").crop(1, depth - 1)
    write_volume(tmp_path / "out.nii.gz", volume)
    result = sitk.ReadImage(str(tmp_path / "out.nii.gz"))
    size = np.array(result.GetSize())
    assert size[2] == depth - 2
    for index in np.random.default_rng(1).integers(0, size, (100, 3)).tolist():
        point = result.TransformIndexToPhysicalPoint(index)
        found = source.TransformPhysicalPointToContinuousIndex(point)
        assert np.allclose(found, np.round(found), atol=1e-3 / 0.7)      # 1e-3 mm
        assert source[np.round(found).astype(int).tolist()] == pytest.approx(result[index], rel=1e-6)


def test_lpi_slices_run_from_top_to_bottom(tmp_path):
    volume = read_volume(write(tmp_path, image()), "LPI")
    assert np.array_equal(np.reshape(volume.direction, (3, 3)), np.diag([1, 1, -1]))


@pytest.mark.parametrize("size", [3, 12, 13])
def test_resizing_keeps_the_field_of_view(size):
    # A linear function of the physical position stays that function (antialiasing moves it a little).
    source = image((3, 24, 26), OBLIQUE)
    z, y, x = np.meshgrid(*(np.arange(n) for n in (3, 24, 26)), indexing="ij")
    points = np.stack([x * 0.7, y * 0.8, z * 2.5], -1) @ np.reshape(OBLIQUE, (3, 3)).T + (-12, 34, 56)
    values = (points @ (1.0, 2.0, -0.5)).astype(np.float32)
    volume = Volume(values, source.GetSpacing(), source.GetOrigin(), source.GetDirection()).resize(size)
    result = as_image(volume)
    assert volume.array.shape == (3, size, size)
    for index in ([size // 2, size // 2, 1], [(size - 1) // 2, size // 2, 2]):
        expected = np.dot(result.TransformIndexToPhysicalPoint(index), (1.0, 2.0, -0.5))
        assert result[index] == pytest.approx(expected, abs=0.15)
    extent = np.array(volume.spacing) * result.GetSize()
    assert np.allclose(extent, np.array(source.GetSpacing()) * (26, 24, 3))


def test_thick_slices_lie_in_the_middle_of_the_thin_ones():
    array = np.arange(8, dtype=np.float32)[:, None, None] * np.ones((8, 2, 2), np.float32)
    thin = Volume(array, (1, 1, 0.5), (0, 0, 10))
    thick = thin.thicken(thin.array.reshape(2, 4, 2, 2).mean(1), 4)
    assert thick.spacing == (1, 1, 2) and thick.origin == (0, 0, 10.75)


def test_crop_refuses_an_empty_range_and_keeps_all_for_zeros():
    volume = Volume(np.zeros((5, 2, 2), np.float32))
    assert volume.crop(0, 0) is volume
    for begin, end in ((3, 3), (4, 2), (0, 6), (5, 9)):
        with pytest.raises(ValueError, match=f"begin {begin}, end {end}: .*5"):
            volume.crop(begin, end)


@pytest.mark.parametrize("code", ["RAS", "LPI", "PIR", "ASL"])
def test_orienting_does_as_simpleitk_does(code):
    rng = np.random.default_rng(4)
    axes = [np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(30)]
    axes += [np.eye(3)[:, order] * signs for order, signs in (([2, 0, 1], (1, -1, 1)), ([1, 0, 2], (-1, -1, -1)))]
    diagonal = np.sqrt(0.5) * np.array([[1, -1, 0], [1, 1, 0], [0, 0, np.sqrt(2)]])     # as near to one as to the other
    for direction in [*axes, diagonal]:
        source = image((2, 3, 4), direction.ravel().tolist())
        place = source.GetSpacing(), source.GetOrigin(), source.GetDirection()
        found, expected = Volume(sitk.GetArrayFromImage(source), *place).oriented(code), sitk.DICOMOrient(source, code)
        assert np.array_equal(found.array, sitk.GetArrayFromImage(expected)) and found.array.flags["C_CONTIGUOUS"]
        assert found.spacing == expected.GetSpacing()
        assert np.allclose(found.origin, expected.GetOrigin()) and np.allclose(found.direction, expected.GetDirection())


@pytest.mark.parametrize("code", ["LP", "LPX", "LPR", "lps", ""])
def test_an_orientation_that_is_none_is_refused(code):
    with pytest.raises(ValueError, match="one letter each of LR, PA and SI"):
        Volume(np.zeros((2, 2, 2), np.float32)).oriented(code)


def test_values_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="shape"):
        Volume(np.zeros((2, 2, 2), np.float32)).with_array(np.zeros((2, 2, 3)))


@pytest.mark.parametrize("kind", [np.int16, np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_number_types(tmp_path, kind):
    volume = read_volume(write(tmp_path, image(kind=kind)))
    assert volume.array.dtype == np.float32 and volume.array.std() > 10


def test_stored_integers_with_a_slope_are_rescaled(tmp_path):
    path = write(tmp_path, image(kind=np.int16), "scan.nii")
    plain = read_volume(path).array
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([0.5, 3], "<f4").tobytes()    # scl_slope, scl_inter
    path.write_bytes(content)
    assert np.allclose(read_volume(path).array, 0.5 * plain + 3)


def test_unreadable_files_are_named(tmp_path):
    cases = {"missing.nii": (FileNotFoundError, "no such file"), "scan.mha": (ValueError, "not a NIfTI"),
             "text.nii": (ValueError, "cannot be read as NIfTI"), "cut.nii.gz": (ValueError, "incomplete gzip"),
             "short.nii": (ValueError, "1 bytes short of its 2 x 2 x 2 voxels"),
             "flat.nii": (ValueError, "2D"), "series.nii": (ValueError, "4D"),
             "vector.nii": (ValueError, "3 values a voxel"), "nan.nii": (ValueError, "1 voxels are NaN")}
    (tmp_path / "scan.mha").write_text("x")
    (tmp_path / "text.nii").write_text("no image")
    whole = write(tmp_path, image((20, 20, 20))).read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[:len(whole) // 2])
    short = write(tmp_path, image((2, 2, 2)), "short.nii")
    short.write_bytes(short.read_bytes()[:-1])
    write(tmp_path, sitk.Image(4, 5, sitk.sitkInt16), "flat.nii")
    write(tmp_path, sitk.JoinSeries([image(), image()]), "series.nii")
    write(tmp_path, sitk.Compose([image()] * 3), "vector.nii")
    spoilt = image()
    spoilt[1, 2, 3] = np.nan
    write(tmp_path, spoilt, "nan.nii")
    for name, (kind, reason) in cases.items():
        with pytest.raises(kind, match=reason) as error:
            read_volume(tmp_path / name)
        assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("place, kind, value, reason", [
    (280, "<f4", np.nan, "sform is .*accepted: finite numbers"), (260, "<f4", np.nan, "qform"),
    (268, "<f4", np.inf, "qform"), (256, "<f4", 2, "qform .*a rotation"), (80, "<f4", 0, "pixdim is .*positive"),
    (80, "<f4", -0.7, "positive"), (80, "<f4", np.nan, "positive"), (84, "<f4", 1e30, "voxels of .*e.30 x 2.5 mm"),
    (108, "<f4", np.nan, "vox_offset is nan"), (108, "<f4", 20, "vox_offset is 20"), (108, "<f4", 1e30, "vox_offset"),
    (112, "<f4", np.inf, "scl_slope"), (70, "<i2", 9, "datatype is 9"), (72, "<i2", 8, "bitpix is 8"),
    (42, "<i2", -3, "dim is"), (40, "<i2", 9, "dim is"), (344, "<i4", 0, "no header"), (276, "<f4", 1e20, "origin"),
    (42, "<i2", 30000, "bytes short of its 30000 x 6 x 5 voxels")])
def test_headers_that_no_volume_has(tmp_path, place, kind, value, reason):
    # NaN in sform kept SimpleITK from ever returning, or came back as the direction of the axes.
    path = write(tmp_path, image(direction=OBLIQUE), "scan.nii")
    content = bytearray(path.read_bytes())
    content[254:256] = b"\1\0" if reason.startswith("sform") else b"\0\0"    # sform_code
    content[place:place + int(kind[2])] = np.array([value], kind).tobytes()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"scan.nii: .*{reason}") as error:
        read_volume(path)
    assert "\n" not in str(error.value)


def test_an_sform_of_other_voxel_sizes_is_refused(tmp_path):
    path = write(tmp_path, image(), "scan.nii")
    content = bytearray(path.read_bytes())
    content[252:256] = b"\0\0\1\0"    # qform_code, sform_code
    path.write_bytes(content)
    assert read_volume(path).spacing == pytest.approx((0.7, 0.8, 2.5))
    content[280:284] = np.array([-1.4], "<f4").tobytes()
    path.write_bytes(content)
    with pytest.raises(ValueError, match="sform is .*1.39.*accepted: axes about as long as pixdim"):
        read_volume(path)


def test_a_slope_that_is_nan_means_none(tmp_path):
    path = write(tmp_path, image(kind=np.int16), "scan.nii")
    plain, content = read_volume(path).array, bytearray(path.read_bytes())
    content[112:120] = np.array([np.nan, np.nan], "<f4").tobytes()    # as nibabel writes it
    path.write_bytes(content)
    assert np.array_equal(read_volume(path).array, plain)


def test_a_damaged_checksum_is_noticed(tmp_path):
    path = write(tmp_path, image())
    content = path.read_bytes()
    for spoilt in (content[:-6], content[:-8] + bytes(8)):
        path.write_bytes(spoilt)
        with pytest.raises(ValueError, match="damaged or incomplete gzip"):
            read_volume(path)


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="No such file.*no folder/x.nii.gz"):
        write_volume(tmp_path / "no folder" / "x.nii.gz", Volume(np.zeros((2, 2, 2), np.float32)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name, kept", [("a.nii.gz", 700), ("a.nii.gz", 5), ("a.nii", 700), ("a.nii", 0)])
def test_a_volume_that_the_disk_has_no_room_for_is_an_error(tmp_path, name, kept):
    volume = Volume(np.random.default_rng(0).random((5, 6, 7), dtype=np.float32))
    write_volume(tmp_path / name, volume)
    whole = (tmp_path / name).read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kept, before[1]))
    try:
        with pytest.raises(OSError, match=f"too large.*{name}'"):
            write_volume(tmp_path / name, volume)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_bytes() == whole
