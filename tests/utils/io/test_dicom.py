"""DICOM series: every voxel where it was and with its value, whatever the names of the files."""
import locale
import logging
import os
import shutil
import struct

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, EnhancedCTImageStorage, EnhancedMRImageStorage, RLELossless

from utils.io.dicom import read_series
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
    array = read_unit_ct(write(tmp_path / "scan", volume()), 1, 5, (-1000, 1600), series="7").array
    assert array.shape == (4, 20, 24) and 0 <= array.min() < array.max() <= 1


def test_mr_is_accepted_and_other_files_are_passed_over(tmp_path):
    folder = write(tmp_path / "scan", volume(), **{"0008|0060": "MR"})
    (folder / "notes.txt").write_text("x")
    (folder / "below").mkdir()
    assert read_volume(folder).array.shape == (6, 20, 24)


def test_several_series_are_listed_and_one_is_chosen(tmp_path):
    one, two = volume(), volume(seed=3, shape=(5, 20, 24))
    folder = write(tmp_path / "scan", one, "1.2.3.40", "7")
    write(folder, two, "1.2.3.55", "8")
    message = refused(folder, "2 series; choose one as series")
    assert "1.2.3.40 (number 7, CT, Thorax, 6 slices); 1.2.3.55 (number 8, CT, Thorax, 5 slices)" in message
    for series, depth in (("1.2.3.40", 6), ("1.2.3.4", 6), ("1.2.3.5", 5), ("7", 6), ("8", 5)):
        assert len(read_volume(folder, series=series).array) == depth
    refused(folder, "series 1.2 is that of several", "1.2")
    refused(folder, "series 9 is not there; accepted: .*1.2.3.40", "9")
    refused(folder, "is not there", "")
    assert len(read_volume(write(tmp_path / "alone", one), series="7").array) == 6
    refused(tmp_path / "alone", "series 8 is not there", "8")


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
    refused(folder, "size 2[45], 20, that of .* is 2[45], 20; .*the series has .*5 axial, 24 x 20")
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


def edit(folder, change, which=lambda k: True):
    """Change the data sets of the files of a folder, counted in the order of their positions."""
    files = sorted(((pydicom.dcmread(path), path) for path in folder.iterdir()),
                   key=lambda pair: pair[0].ImagePositionPatient[2])
    for k, (file, path) in enumerate(files):
        if which(k):
            change(file)
            file.save_as(path)
    return folder


def same(found, source, tolerance=0):
    assert np.abs(found.array - sitk.GetArrayFromImage(source)).max() <= tolerance
    assert np.allclose(found.spacing, source.GetSpacing()) and np.allclose(found.origin, source.GetOrigin())
    assert np.allclose(found.direction, source.GetDirection())
    return True


def start_of_data(content):
    """Where the elements behind the group that says how they are written begin."""
    return 144 + struct.unpack_from("<I", content, 140)[0]


@pytest.mark.parametrize("kept", ["meta", "explicit", "implicit", "big endian"])
def test_a_file_without_preamble_is_a_slice_like_others(tmp_path, kept):
    source = volume()
    folder = write(tmp_path / "scan", source)
    for path in sorted(folder.iterdir())[::2]:
        if kept in ("implicit", "big endian"):
            file, little = pydicom.dcmread(path), kept == "implicit"
            file.PixelData = np.frombuffer(file.PixelData, "<u2").astype("<u2" if little else ">u2").tobytes()
            file.save_as(path, implicit_vr=little, little_endian=little, force_encoding=True)
        content = path.read_bytes()
        path.write_bytes(content[132 if kept == "meta" else start_of_data(content):])
        path.rename(folder / f"{path.stem[-1]} no ending")
    assert same(read_series(folder), source)


def test_bytes_that_begin_like_a_file_without_preamble_are_passed_over(tmp_path):
    source = volume()
    folder = write(tmp_path / "scan", source)
    contents = (b"\x08\0", b"\x08\0\x05\0CS\x04\0abcd", b"\x02\0" + bytes(range(200)), b"\0\x08\0\x16")
    for k, content in enumerate(contents):
        (folder / f"other{k}").write_bytes(content)
    assert same(read_series(folder), source)


@pytest.mark.parametrize("missing", [("RescaleSlope", "RescaleIntercept"), ("RescaleSlope",), ("RescaleIntercept",)])
def test_a_slice_without_the_rescaling_that_others_have_is_refused(tmp_path, missing):
    def change(file):
        for keyword in missing:
            delattr(file, keyword)

    folder = edit(write(tmp_path / "scan", volume()), change, lambda k: k == 3)
    name = "slope" if "RescaleSlope" in missing else "intercept"
    refused(folder, f"no rescale {name}, .*.dcm has slope 1, intercept -1024; accepted: both in all slices, or in none")
    both = edit(folder, lambda file: [file.pop(tag, None) for tag in (0x00281052, 0x00281053)])
    assert read_series(both).array.min() >= 0     # as stored: -1000 HU are 24


@pytest.mark.parametrize("modality, sign, written, end, lowest", [
    ("CT", 0, 63536, None, -1000), ("CT", 0, 63000, 63536, -1000), ("CT", 1, -2000, None, -1000),
    ("CT", 1, 63536, None, -1000), ("MR", 0, 63536, None, 0), ("MR", 1, -2000, -1990, 0)])
def test_padding_is_the_lowest_value_there_is(tmp_path, caplog, modality, sign, written, end, lowest):
    # 63536 and -2000 are the same 16 bits: written signed or not, whatever the pixels are.
    source = volume()
    folder = write(tmp_path / "scan", source, **{"0008|0060": "CT"})

    def change(file):
        file.Modality, file.PixelRepresentation, file.BitsStored, file.HighBit = modality, sign, 16, 15
        pixels = (sitk.GetArrayFromImage(source)[0] + 1024).astype("u2")    # the same in all slices
        pixels[:5] = 63536
        file.PixelData = pixels.tobytes()
        file.add_new("PixelPaddingValue", "US" if written > 0 else "SS", written)
        if end is not None:
            file.add_new("PixelPaddingRangeLimit", "US" if end > 0 else "SS", end)
        file.RescaleIntercept = "-1024" if modality == "CT" else "0"

    with caplog.at_level(logging.INFO):
        found = read_series(edit(folder, change)).array
    assert f"{folder}: {found[:, :5].size} voxels are padding, and become {lowest}" in caplog.text
    expected = sitk.GetArrayFromImage(source)[0] + (0 if modality == "CT" else 1024)
    assert (found[:, :5] == lowest).all() and (found[:, 5:] == expected[5:]).all()


def test_padding_of_mr_is_below_everything_else(tmp_path):
    def change(file):
        file.RescaleIntercept, file.Modality = "-1024", "MR"
        file.add_new("PixelPaddingValue", "SS", int(file.pixel_array.max()))

    source = volume()
    found, values = read_series(edit(write(tmp_path / "scan", source), change)).array, sitk.GetArrayFromImage(source)
    padding = values == values.max((1, 2), keepdims=True)
    assert (found[padding] == values.min()).all() and (found[~padding] == values[~padding]).all()


def test_unused_bits_are_left_out(tmp_path):
    def change(file):
        file.PixelRepresentation, file.BitsStored, file.HighBit = 0, 12, 11
        file.PixelData = (np.frombuffer(file.PixelData, "u2") & 0xfff | 0x8000).tobytes()     # an overlay above

    source = volume()
    folder = edit(write(tmp_path / "scan", source), change)
    assert same(read_series(folder), source)


def test_copies_of_slices_count_once_and_are_said(tmp_path, caplog):
    source = volume()
    folder = write(tmp_path / "scan", source)
    for path in list(folder.iterdir())[:2]:
        shutil.copy(path, folder / f"{path.stem} (1).dcm")
    shutil.copy(path, folder / f"{path.stem} (2).dcm")
    with caplog.at_level(logging.WARNING):
        assert same(read_series(folder), source)
    assert f"{folder}: 3 of 9 slices are copies of others, and left out" in caplog.text


@pytest.mark.parametrize("plane, step", [("axial", 1.25), ("oblique", 0.75), ("sagittal", 0.625)])
def test_positions_rounded_to_a_tenth_of_a_millimetre_are_even(tmp_path, plane, step):
    source = volume(plane, (12, 20, 24))
    source.SetSpacing((*SPACING[:2], step))

    def change(k, tags):
        tags["0020|0032"] = "\\".join(f"{v:.1f}" for v in source.TransformIndexToPhysicalPoint((0, 0, k)))

    found = read_series(write(tmp_path / "scan", source, change=change))
    assert found.spacing[2] == pytest.approx(step, abs=0.01) and found.array.shape[0] == 12


def test_a_slice_that_is_missing_from_thin_ones_is_noticed(tmp_path):
    source = volume()
    source.SetSpacing((*SPACING[:2], 0.05))
    refused(write(tmp_path / "scan", source, change=lambda k, tags: "drop" if k == 2 else None), "1 missing")


def enhanced(path, source, modality="CT", change=lambda file, frames: None, order=None, slopes=None):
    """A volume as one enhanced multi-frame file, its frames in another order, rescaled each in its own way."""
    array, axes = sitk.GetArrayFromImage(source), np.reshape(source.GetDirection(), (3, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    file = pydicom.dcmread(next(write(path.parent / "made", source).iterdir()))
    shutil.rmtree(path.parent / "made")
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope",
                    "RescaleIntercept"):
        delattr(file, keyword)
    file.Modality, file.NumberOfFrames = modality, len(array)
    file.SOPClassUID = EnhancedCTImageStorage if modality == "CT" else EnhancedMRImageStorage
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID

    def macro(**values):
        item = Dataset()
        for keyword, value in values.items():
            setattr(item, keyword, value)
        return Sequence([item])

    shared, frames, pixels = Dataset(), [], []
    shared.PlaneOrientationSequence = macro(ImageOrientationPatient=[f"{v:.10g}" for v in axes[:, :2].T.ravel()])
    shared.PixelMeasuresSequence = macro(PixelSpacing=[SPACING[1], SPACING[0]], SliceThickness="9")
    for place, k in enumerate(order or np.random.default_rng(2).permutation(len(array)).tolist()):
        slope, frame = 1 + k % 2, Dataset()
        position = source.TransformIndexToPhysicalPoint((0, 0, k))
        frame.PlanePositionSequence = macro(ImagePositionPatient=[f"{v:.10g}" for v in position])
        frame.PixelValueTransformationSequence = macro(RescaleSlope=slope, RescaleIntercept=-1024 - k, RescaleType="HU")
        frame.FrameContentSequence = macro(FrameAcquisitionNumber=1 + place // 6, StackID="1")
        frames.append(frame)
        pixels.append((array[k] + 1024 + k) // slope)
    file.SharedFunctionalGroupsSequence = Sequence([shared])
    file.PerFrameFunctionalGroupsSequence = Sequence(frames)
    file.PixelRepresentation, file.BitsStored, file.HighBit = 0, 16, 15
    file.PixelData = np.stack(pixels).astype("u2").tobytes()
    change(file, frames)
    file.save_as(path)
    return path.parent


@pytest.mark.parametrize("modality, plane", [("CT", "axial"), ("MR", "oblique")])
def test_frames_of_enhanced_files_are_slices_with_a_place_and_rescaling_of_their_own(tmp_path, modality, plane):
    source = volume(plane)
    folder = enhanced(tmp_path / "scan" / "all.dcm", source, modality)
    assert same(read_series(folder, modality=modality.lower()), source, 1)


def test_enhanced_files_that_are_no_volume_are_refused(tmp_path):
    def tilt(file, frames):
        frames[2].PlaneOrientationSequence = Sequence([Dataset()])
        frames[2].PlaneOrientationSequence[0].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]

    def fewer(file, frames):
        del file.PerFrameFunctionalGroupsSequence[0]

    def none(file, frames):
        del file.PerFrameFunctionalGroupsSequence, file.SharedFunctionalGroupsSequence

    for name, change, reason in (
            ("stacks", tilt, "all.dcm, frame .: orientation .*the series has .*5 axial, 24 x 20"),
            ("fewer", fewer, "damaged"),
            ("none", none, "6 frames in one file; accepted: one slice a file, or enhanced|spacing ''"),
            ("cut", lambda file, frames: setattr(file, "PixelData", file.PixelData[:-20]), "damaged|bytes for")):
        refused(enhanced(tmp_path / name / "all.dcm", volume(), change=change), reason)
    source = volume()
    folder = enhanced(tmp_path / "phases" / "one.dcm", source)
    enhanced(folder / "two.dcm", source + 5, change=lambda file, frames: setattr(file, "InstanceNumber", 8))
    refused(folder, "position .* is that of .*6 of 6 positions have several, of different instance", named=folder)


def test_two_phases_at_the_same_positions_are_refused_with_what_differs(tmp_path):
    folder = write(tmp_path / "scan", volume(), **{"0020|0012": "1"})
    for path in list(folder.iterdir()):
        path.rename(folder / f"first {path.name}")
    write(folder, volume(seed=2), **{"0020|0012": "2"})
    refused(folder, "is that of .*accepted: one slice at a position .6 of 6 positions have several, of different "
                    "acquisition: 1, 2")


def test_parts_that_would_do_are_named_where_steps_are_mixed(tmp_path):
    def change(k, tags):
        tags["0020|0032"] = f"-12.25\\34.5\\{2.5 * k if k < 6 else 15 + 5 * (k - 6):g}"

    folder = write(tmp_path / "scan", volume(shape=(10, 20, 24)), change=change)
    refused(folder, r"5 mm from .*accepted: 2.5 mm .*even parts, along the normal: 0 to 15 mm .7 slices, "
                    r"2.5 mm apart., 15 to 30 mm .4 slices, 5 mm apart")


def test_a_localizer_is_refused_with_the_series_that_would_do(tmp_path):
    folder = write(tmp_path / "scan", volume(), "1.2.3.4", "2")
    write(folder, volume("coronal", (2, 30, 24)), "1.2.3.5", "1", **{"0008|0008": "ORIGINAL\\PRIMARY\\LOCALIZER"})
    refused(folder, "a localizer .survey image.; accepted: slices of a volume; other series: 1.2.3.4 .number 2, CT, "
                    "Thorax, 6 slices.", series="1")
    assert len(read_series(folder, "2").array) == 6
    edit(folder, lambda file: setattr(file, "SeriesInstanceUID", "1.2.3.4"))
    refused(folder, "the series has .*2 localizer, coronal, 24 x 30")
    assert "6 axial, 24 x 20" in refused(folder, "localizer")


def test_folders_inside_that_hold_series_are_named(tmp_path):
    write(tmp_path / "CT 1", volume())
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "x.txt").write_text("x")
    message = refused(tmp_path, "without a DICOM image, but with such in CT 1; accepted: a folder with")
    assert "notes" not in message


def test_another_modality_than_the_wanted_is_refused(tmp_path):
    folder = write(tmp_path / "scan", volume(), **{"0008|0060": "MR"})
    for read in (lambda: read_series(folder, modality="ct"), lambda: read_unit_ct(folder, 0, 0, (-1000, 1600))):
        with pytest.raises(ValueError, match="modality MR; accepted: CT$"):
            read()
    assert len(read_series(folder, modality="mr").array) == 6


@pytest.mark.parametrize("packed", ["not", "deflated", "RLE", "JPEG 2000"])
def test_any_bytes_as_names_of_plain_and_compressed_files(tmp_path, packed):
    source = volume()
    folder = write(tmp_path / "scan", source)
    for k, path in enumerate(list(folder.iterdir())):
        file = pydicom.dcmread(path)
        if packed == "deflated":
            file.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        elif packed == "RLE":
            file.compress(RLELossless)
        file.save_as(path)
        if packed == "JPEG 2000":
            writer = sitk.ImageFileWriter()
            writer.UseCompressionOn()
            writer.SetFileName(str(tmp_path / "frame.dcm"))
            writer.Execute(sitk.GetImageFromArray(file.pixel_array[None]))
            made = pydicom.dcmread(tmp_path / "frame.dcm")
            file.PixelData, file.file_meta.TransferSyntaxUID = made.PixelData, made.file_meta.TransferSyntaxUID
            assert made.file_meta.TransferSyntaxUID.is_compressed and made.BitsAllocated == 16
            file["PixelData"].VR = "OB"
            file.save_as(path)
        os.rename(path, os.fsencode(folder) + b"/Sch\xe4del%d.dcm" % k)
    assert same(read_series(folder), source)
    os.truncate(os.fsencode(folder) + b"/Sch\xe4del2.dcm", 900)
    refused(folder, "Sch.*2.dcm: .*damaged|bytes for|missing")
