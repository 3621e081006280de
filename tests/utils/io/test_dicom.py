"""DICOM series: every voxel where it was and with its value, whatever the names of the files."""
import locale
import os

import numpy as np
import pytest
import SimpleITK as sitk

from utils.io.read import read_unit_ct, read_volume

SPACING = (0.7, 0.8, 2.5)
PLANES = {"axial": (1, 0, 0, 0, 1, 0), "sagittal": (0, 1, 0, 0, 0, -1), "coronal": (1, 0, 0, 0, 0, -1),
          "oblique": (0.8, 0.6, 0, -0.36, 0.48, 0.8), "feet first": (-1, 0, 0, 0, 1, 0)}


@pytest.fixture(autouse=True)
def language():
    """Writing (not reading) DICOM sets the process to the language "C", without UTF-8."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


def volume(plane="axial", shape=(6, 20, 24), seed=0):
    image = sitk.GetImageFromArray(np.random.default_rng(seed).integers(-1000, 1500, shape).astype(np.int16))
    row, column = np.reshape(PLANES[plane], (2, 3)).astype(float)
    image.SetDirection(np.stack([row, column, np.cross(row, column)], 1).ravel().tolist())
    image.SetSpacing(SPACING)
    image.SetOrigin((-12.25, 34.5, 56.125))
    return image


def write(folder, image, uid="1.2.3.4", number="7", reverse=False, change=lambda k, tags: None, **tags):
    """The slices of an image as DICOM files; ``change(k, tags)`` may change the tags of slice k, or say "drop"."""
    folder.mkdir(exist_ok=True)
    order = np.random.default_rng(5).permutation(image.GetDepth()).tolist()
    for k in range(image.GetDepth()):
        slice_ = image[:, :, k:k + 1]
        slice_.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, 1))
        axes = np.reshape(image.GetDirection(), (3, 3))
        own = {"0008|0060": "CT", "0020|000e": uid, "0020|000d": "1.2.3", "0020|0011": number, "0008|103e": "Thorax",
               "0020|0013": str(image.GetDepth() - k if reverse else k), "0028|1053": "1", "0028|1052": "-1024",
               "0020|0037": "\\".join(f"{v:.10g}" for v in axes[:, :2].T.ravel()),
               "0020|0032": "\\".join(f"{v:.10g}" for v in image.TransformIndexToPhysicalPoint((0, 0, k)))} | tags
        if change(k, own) == "drop":
            continue
        for tag, value in own.items():
            slice_.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{uid}-{order[k]}.dcm"))
        writer.Execute(slice_)
    return folder


def refused(folder, reason, series=None, named=None):
    with pytest.raises(ValueError, match=reason) as error:
        read_volume(folder, series=series)
    assert str(named or folder) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("orientation", [None, "LPI"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("plane", PLANES)
def test_every_voxel_stays_where_it_was_with_its_value(tmp_path, plane, reverse, orientation):
    source = volume(plane)
    found = read_volume(write(tmp_path / "scan", source, reverse=reverse), orientation)
    result = sitk.GetImageFromArray(found.array)
    result.SetSpacing(found.spacing)
    result.SetOrigin(found.origin)
    result.SetDirection(found.direction)
    assert found.array.dtype == np.float32 and found.array.size == np.prod(source.GetSize())
    for index in np.random.default_rng(1).integers(0, source.GetSize(), (100, 3)).tolist():
        there = result.TransformPhysicalPointToContinuousIndex(source.TransformIndexToPhysicalPoint(index))
        assert np.allclose(there, np.round(there), atol=1e-3 / 2.5)    # 1e-3 mm
        assert result[np.round(there).astype(int).tolist()] == source[index]    # HU: slope and intercept applied


def test_slope_and_intercept_of_each_slice(tmp_path):
    source = volume()

    def change(k, tags):
        tags["0028|1053"], tags["0028|1052"] = ("2", "-1000") if k == 3 else ("1", "-1024")

    # SimpleITK stores (value - intercept) / slope, so that the values come back, those of slice 3 to half a step of 2.
    found = read_volume(write(tmp_path / "scan", source, change=change)).array
    difference = np.abs(found - sitk.GetArrayFromImage(source)).max((1, 2))
    assert difference.tolist() == [0, 0, 0, 1, 0, 0]


def test_a_ct_as_the_prior_sees_it(tmp_path):
    array = read_unit_ct(write(tmp_path / "scan", volume()), 1, 5, 16, (-1000, 1600), series="7").array
    assert array.shape == (4, 16, 16) and 0 <= array.min() < array.max() <= 1


def test_mr_is_accepted_and_other_files_are_passed_over(tmp_path):
    folder = write(tmp_path / "scan", volume(), **{"0008|0060": "MR"})
    (folder / "notes.txt").write_text("x")
    (folder / "below").mkdir()
    assert read_volume(folder).array.shape == (6, 20, 24)


def test_several_series_are_listed_and_one_is_chosen(tmp_path):
    one, two = volume(), volume(seed=3, shape=(5, 20, 24))
    folder = write(tmp_path / "scan", one, "1.2.3.40", "7")
    write(folder, two, "1.2.3.55", "8")
    message = refused(folder, "2 series; choose one with --series UID")
    assert "1.2.3.40 (number 7, CT, Thorax, 6 slices); 1.2.3.55 (number 8, CT, Thorax, 5 slices)" in message
    for series, depth in (("1.2.3.40", 6), ("1.2.3.4", 6), ("1.2.3.5", 5), ("7", 6), ("8", 5)):
        assert len(read_volume(folder, series=series).array) == depth
    refused(folder, "--series 1.2 is that of several", "1.2")
    refused(folder, "--series 9 is not there; accepted: .*1.2.3.40", "9")
    refused(folder, "is not there", "")
    assert len(read_volume(write(tmp_path / "alone", one), series="7").array) == 6
    refused(tmp_path / "alone", "--series 8 is not there", "8")


def tag(name, value, where=2):
    return lambda k, tags: tags.update({name: value}) if k == where else None


@pytest.mark.parametrize("change, reason", [
    (lambda k, tags: "drop" if k == 2 else None, "5 mm from that of .*1 missing; accepted: 2.5 mm between"),
    (lambda k, tags: "drop" if k in (2, 3) else None, "7.5 mm .*2 missing"),
    (tag("0020|0032", "-12.25\\34.5\\61.4"), "position .* mm is 2.775 mm from .*accepted: 2.5 mm"),
    (tag("0020|0032", "-12.25\\34.5\\58.625"), "is that of .*dcm; accepted: one slice at a position"),
    (tag("0020|0032", "-12.25\\35.5\\61.125"), "1 mm from where an even, upright stack has it"),
    (lambda k, tags: tags.update({"0020|0032": f"-12.25\\{34.5 + k * 0.5}\\{56.125 + 2.5 * k}"}), "gantry tilt"),
    (tag("0020|0037", "0.8\\0.6\\0\\-0.6\\0.8\\0"), "orientation .*accepted: the same in all slices"),
    (lambda k, tags: tags.update({"0008|0060": "PT"}), "modality PT; accepted: CT or MR"),
    (lambda k, tags: None if k == 2 else "drop", "a series of one slice"),
])
def test_what_is_no_even_stack_is_refused(tmp_path, change, reason):
    message = refused(write(tmp_path / "scan", volume(), change=change), reason)
    assert ".dcm: " in message


@pytest.mark.parametrize("old, new, reason", [
    (b"1\\0\\0\\0\\1\\0 ", b"1\\0\\0\\1\\1\\0 ", "orientation .*unit vectors at right angles"),
    (b"1\\0\\0\\0\\1\\0 ", b"1\\0\\0\\0\\1   ", "orientation '1.*accepted: 6 numbers"),
    (b"\x20\0\x32\0", b"\x20\0\x33\0", "position ''; accepted: 3 numbers"),
    (b"\x28\0\x30\0", b"\x28\0\x31\0", "spacing ''; accepted: 2 numbers"),
    (b".8\\.7 ", b".8\\-1 ", "pixel spacing 0.8, -1; accepted: above zero"),
    (b"MONOCHROME2 ", b"MONOCHROME1 ", "colours MONOCHROME1; accepted"),
    (b"\x28\0\x10\0\2\0\0\0\x14\0", b"\x28\0\x10\0\2\0\0\0\xff\xff", "bytes for 24 x 65535 pixels|damaged")])
def test_bytes_that_say_something_else_are_refused(tmp_path, old, new, reason):
    folder = write(tmp_path / "scan", volume())
    for path in folder.iterdir():
        assert path.read_bytes().count(old) == 1
        path.write_bytes(path.read_bytes().replace(old, new))
    assert ".dcm: " in refused(folder, reason)


def test_positions_to_a_hundredth_are_even(tmp_path):
    def change(k, tags):
        tags["0020|0032"] = f"-12.25\\34.5\\{round(56.125 + 1.2512 * k, 2)}"

    assert read_volume(write(tmp_path / "scan", volume(), change=change)).spacing[2] == pytest.approx(1.251, abs=2e-3)


def test_slices_of_another_size_or_in_colour_are_refused(tmp_path):
    folder = write(tmp_path / "scan", volume())
    write(tmp_path / "other", volume(shape=(6, 20, 25)))
    os.replace(next((tmp_path / "other").iterdir()), folder / "1.2.3.4-3.dcm")
    refused(folder, "size 2[45], 20, 1, that of .* is 2[45], 20, 1")
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    colour = sitk.Compose([sitk.Image(6, 5, 1, sitk.sitkUInt8)] * 3)
    for key, value in {"0008|0060": "CT", "0020|000e": "1.2", "0020|0032": "0\\0\\0",
                       "0020|0037": "1\\0\\0\\0\\1\\0"}.items():
        colour.SetMetaData(key, value)
    (tmp_path / "colour").mkdir()
    writer.SetFileName(str(tmp_path / "colour" / "a.dcm"))
    writer.Execute(colour)
    refused(tmp_path / "colour", "a.dcm: colours RGB; accepted: MONOCHROME2")


def test_a_description_in_other_letters_can_be_printed(tmp_path):
    folder = write(tmp_path / "scan", volume())
    write(folder, volume(seed=3), "1.2.3.55")
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"Thorax", b"Th\xf6\na\x1b"))
    message = refused(folder, "2 series")
    assert message.isascii() and message.isprintable()


def test_damaged_files_are_named(tmp_path):
    folder = write(tmp_path / "scan", volume())
    path = folder / "1.2.3.4-3.dcm"
    content = path.read_bytes()
    for length in (140, 300, len(content) // 2, len(content) - 1, len(content) - 900):
        path.write_bytes(content[:length])
        refused(folder, "damaged|bytes for|missing|accepted", named=path)


def test_a_folder_without_dicom(tmp_path, capfd):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "broken.dcm").write_bytes(bytes(128))
    refused(tmp_path, "a folder without a DICOM image; accepted: a folder with a CT or MR series")
    (tmp_path / "scan.nii").write_text("x")
    with pytest.raises(ValueError, match="scan.nii: series 7 for a file"):
        read_volume(tmp_path / "scan.nii", series="7")
    assert capfd.readouterr() == ("", "")
