"""Projections: what was written is read; what is damaged or no projection is refused."""
import gzip
import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from utils.io.measured import read_line_integrals
from utils.io.nifti import write_volume
from utils.io.projections import read_bad_pixels, read_projections
from utils.io.volume import Volume

TYPES = ("u1", "u2", "i2", "i4", "f4", "f8")
IMAGES = ("p.mha", "p.mhd", "p.nrrd", "p.nhdr", "p.nii", "p.nii.gz")


def stack(kind="u2", shape=(5, 9, 7)):
    return np.random.default_rng(0).normal(120, 30, shape).clip(1, 255).astype(kind)


def write(path, array, compressed=False):
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path), compressed)
    return path


def write_tiff(path, pages, order="<", big=False, last=None, description=b"", rows=4):
    """A TIFF in strips of ``rows``; ``last``: {tag: value} of the last page, to make it unusual."""
    few, word, wide, here = ("Q", "Q", 8, 16) if big else ("H", "I", 4, 8)
    content = {"<": b"II", ">": b"MM"}[order] + (struct.pack(order + "HHHQ", 43, 8, 0, here) if big else
                                                 struct.pack(order + "HI", 42, here))
    for k, page in enumerate(pages):
        pixels = page.astype(page.dtype.newbyteorder(order)).tobytes()
        starts = list(range(0, page.nbytes, page[0].nbytes * rows))
        sizes = [min(page[0].nbytes * rows, page.nbytes - start) for start in starts]
        tags = {256: page.shape[1], 257: page.shape[0], 258: page.itemsize * 8, 259: 1, 262: 1, 270: description,
                273: None, 277: 1, 278: rows, 279: sizes, 339: "uif".index(page.dtype.kind) + 1}
        tags |= (last or {}) if k == len(pages) - 1 else {}
        begin = here + struct.calcsize("=" + few) + len(tags) * (4 + 2 * wide) + wide
        tags[273] = [begin + start for start in starts]
        content += struct.pack(order + few, len(tags))
        for tag, value in sorted(tags.items()):
            values = value if isinstance(value, (bytes, list)) else [value]
            stored = value if isinstance(value, bytes) else struct.pack(f"{order}{len(values)}I", *values)
            content += struct.pack(order + "HH" + word, tag, 2 if isinstance(value, bytes) else 4, len(values))
            content += stored.ljust(wide, b"\0") if len(stored) <= wide else struct.pack(order + word,
                                                                                         begin + len(pixels))
            pixels += stored if len(stored) > wide else b""
        here = begin + len(pixels)
        content += struct.pack(order + word, here if k < len(pages) - 1 else 0) + pixels
    path.write_bytes(content)
    return path


def refused(path, reason, kind=ValueError, named=None):
    with pytest.raises(kind, match=reason) as error:
        read_projections(path)
    assert (named or path.name) in str(error.value) and "\n" not in str(error.value)


def same(found, array):
    return found.dtype == np.float32 and found.flags.c_contiguous and found.flags.writeable and np.array_equal(
        found, array.reshape(-1, *array.shape[-2:]).astype(np.float32))


@pytest.mark.parametrize("shape", [(5, 9, 7), (9, 7), (1, 3, 1)])
@pytest.mark.parametrize("kind", TYPES)
def test_what_was_written_is_read(tmp_path, kind, shape):
    array = stack(kind, shape)
    for name in IMAGES:
        for compressed in (False, True):
            assert same(read_projections(write(tmp_path / name, array, compressed)), array), (name, compressed)
    for name, stored in (("p.npy", array), ("big.NPY", array.astype(">" + kind)), ("f.npy", np.asfortranarray(array))):
        with open(tmp_path / name, "wb") as stream:
            np.save(stream, stored)
        assert same(read_projections(tmp_path / name), array), name
    pages = array.reshape(-1, *shape[-2:])
    for order in "<>":
        for big in (False, True):
            assert same(read_projections(write_tiff(tmp_path / "p.tif", pages, order, big)), array), (order, big)


@pytest.mark.parametrize("kind", ["u1", "u2", "i2", "f4"])
@pytest.mark.parametrize("compressed", [False, True])
def test_tiffs_of_another_writer(tmp_path, kind, compressed):
    array = stack(kind, (3, 301, 203))
    assert same(read_projections(write(tmp_path / "p.TIFF", array, compressed)), array)
    assert same(read_projections(write(tmp_path / "one.tif", array[0], compressed)), array[0])


def test_other_types(tmp_path):
    for kind in ("i1", "u4", "i8", "u8", "f2"):
        array = stack(kind).clip(0, 100)
        np.save(tmp_path / "p.npy", array)
        assert same(read_projections(tmp_path / "p.npy"), array)
        assert same(read_projections(write_tiff(tmp_path / "p.tif", array)), array)


def test_the_measurement_of_a_run_is_read_back(tmp_path):
    array = stack("f4") / 7
    write_volume(tmp_path / "measurement.nii.gz", Volume(array, (2, 2, 1), (-6, -8, 0)))
    assert same(read_projections(str(tmp_path / "measurement.nii.gz")), array)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_folder_is_read_in_natural_order(tmp_path, compressed):
    array = stack(shape=(12, 9, 7))
    for k in (10, 2, 0, 11, 1, 3, 5, 4, 9, 8, 7, 6):
        write(tmp_path / f"scan7_{'View' if k % 2 else 'view'}{k}.{'TIF' if k % 3 else 'tiff'}", array[k], compressed)
    for name in (".hidden.tif", "._scan7_view1.tif", "settings.txt", "view3.png"):
        (tmp_path / name).write_text("x")
    (tmp_path / "old.tif").mkdir()
    assert same(read_projections(tmp_path), array)


def test_folders_that_leave_the_views_open_are_refused(tmp_path):
    def folder(name, **files):
        (tmp_path / name).mkdir()
        for file, array in files.items():
            write(tmp_path / name / (file + ".tif"), array)
        return tmp_path / name

    view = stack(shape=(9, 7))
    refused(folder("empty"), "a folder without a TIFF; accepted: .npy")
    refused(folder("mixed", dark0=view, view0=view, view1=view), "dark0.tif and view0.tif have no order")
    refused(folder("twice", view1=view, view01=view), "have no order by number")
    refused(folder("sizes", v1=view, v2=view[:-1]), "v2.tif: page 0 has 8 x 7 .* first view 9 x 7", named="v2.tif")
    refused(folder("types", v1=view, v2=view.astype("u1")), "uint8, the first view .*uint16", named="v2.tif")
    refused(folder("pages", v1=view, v2=stack()), "5 pages; accepted: one page", named="v2.tif")
    cut = folder("cut", v1=view, v2=view)
    (cut / "v2.tif").write_bytes((cut / "v2.tif").read_bytes()[:100])
    refused(cut, "incomplete", named="v2.tif")
    text = folder("text", v1=view)
    (text / "v2.tif").write_text("no image")
    refused(text, "not a TIFF", named="v2.tif")
    spoilt = view.astype("f4")
    spoilt[3, 4] = np.inf
    refused(folder("spoilt", v1=view.astype("f4"), v2=spoilt), "1 pixels are NaN, infinite", named="v2.tif")


@pytest.mark.parametrize("name", [*IMAGES, "p.tif", "p.npy"])
@pytest.mark.parametrize("compressed", [False, True])
def test_truncated_files_are_refused(tmp_path, name, compressed):
    array = stack()
    if name == "p.npy":
        np.save(tmp_path / name, array)
    else:
        write(tmp_path / name, array, compressed)
    for file in list(tmp_path.iterdir()):    # of .mhd and .nhdr, the header and the data
        whole = file.read_bytes()
        end = len(whole) - (40 if name == "p.tif" else 10)    # behind the pixels of that TIFF lies its writer's name
        for length in (0, 3, 100, 250, len(whole) // 2, end):
            file.write_bytes(whole[:length])
            with pytest.raises(ValueError) as error:
                read_projections(tmp_path / name)
            assert "p." in str(error.value) and "\n" not in str(error.value)
        file.unlink()
        with pytest.raises((ValueError, FileNotFoundError)):
            read_projections(tmp_path / name)
        file.write_bytes(whole)
    assert same(read_projections(tmp_path / name), array)


def test_missing_bytes_are_counted(tmp_path):
    path = write(tmp_path / "p.mha", stack())
    path.write_bytes(path.read_bytes()[:-3])
    refused(path, "3 bytes short of the 630 of its pixels")
    path = write(tmp_path / "p.nii", stack())
    path.write_bytes(path.read_bytes()[:-3])
    refused(path, "bytes short")


def test_compressed_data_that_the_readers_take_for_whole(tmp_path):
    # What SimpleITK reads without an error, as an image whose end is zero or undefined.
    raw = stack().tobytes()
    meta = ("ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = True\n"
            "{}DimSize = 7 9 5\nElementType = MET_USHORT\nElementDataFile = LOCAL\n")
    nrrd = b"NRRD0004\ntype: uint16\ndimension: 3\nsizes: 7 9 5\nendian: little\nencoding: gzip\n\n"
    whole = zlib.compress(raw)
    for data, size, reason in ((whole, len(whole), None), (whole, None, "CompressedDataSize missing"),
                               (whole, len(whole) - 9, "CompressedDataSize"),
                               (whole[:-50], len(whole) - 50, "incomplete compressed data"),
                               (zlib.compress(raw[:300]), len(zlib.compress(raw[:300])), "330 bytes short of the 630"),
                               (whole[:-50] + bytes(50), len(whole), "(damaged|incomplete) compressed data"),
                               (b"no zlib", 7, "damaged compressed data")):
        header = meta.format("" if size is None else f"CompressedDataSize = {size}\n")
        (tmp_path / "p.mha").write_bytes(header.encode() + data)
        if reason:
            refused(tmp_path / "p.mha", reason)
        else:
            assert same(read_projections(tmp_path / "p.mha"), stack())
    whole = gzip.compress(raw)
    for data, reason in ((whole, None), (whole[:-50] + bytes(50), "damaged|incomplete"), (whole[:-9], "incomplete"),
                         (gzip.compress(raw[:300]), "330 bytes short")):
        (tmp_path / "p.nrrd").write_bytes(nrrd + data)
        if reason:
            refused(tmp_path / "p.nrrd", reason)
        else:
            assert same(read_projections(tmp_path / "p.nrrd"), stack())


def test_metaimage_in_several_files_is_refused(tmp_path):
    header = write(tmp_path / "p.mhd", stack()).read_text()
    for source in ("LIST\np.raw", "p%d.raw 0 4 1"):
        (tmp_path / "p.mhd").write_text(header.replace("p.raw", source))
        refused(tmp_path / "p.mhd", "data in several files")
    (tmp_path / "p.mhd").write_text(header.replace("p.raw", "q.raw"))
    refused(tmp_path / "p.mhd", "its data file q.raw is missing")


@pytest.mark.parametrize("name", [*IMAGES, "p.tif", "p.npy"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, name, value):
    array = stack("f4")
    array[3, 4, 5] = array[3, 4, 6] = value
    if name == "p.npy":
        np.save(tmp_path / name, array)
    else:
        write(tmp_path / name, array)
    refused(tmp_path / name, "2 (pixels|voxels) are NaN")
    np.save(tmp_path / "beyond.npy", np.full((2, 3, 4), 1e39))
    refused(tmp_path / "beyond.npy", "view 0: 12 pixels are NaN, infinite or beyond float32")


def test_what_is_no_stack_of_grey_values_is_refused(tmp_path):
    for name, array, reason in (("bool.npy", stack() > 9, "bool"), ("complex.npy", stack("c8"), "complex64"),
                                ("object.npy", np.array([{}]), "Python objects"),
                                ("record.npy", np.zeros((2, 3, 4), "f4,f4"), "type"),
                                ("line.npy", np.zeros(4), "shape"), ("scalar.npy", np.float32(3), "shape"),
                                ("four.npy", np.zeros((2, 3, 4, 5)), r"shape \(2, 3, 4, 5\); accepted: views x v x u"),
                                ("none.npy", np.zeros((0, 3, 4)), "array")):
        np.save(tmp_path / name, array, allow_pickle=True)
        refused(tmp_path / name, reason)
    with open(tmp_path / "several.npy", "wb") as stream:
        np.savez(stream, stack())
    refused(tmp_path / "several.npy", "no NumPy array")
    (tmp_path / "header.npy").write_bytes(b"\x93NUMPY\1\0\x10\0{'descr': (((((\n")
    refused(tmp_path / "header.npy", "no NumPy array")
    colour = sitk.Compose([sitk.GetImageFromArray(stack())] * 3)
    series = sitk.JoinSeries([sitk.GetImageFromArray(stack())] * 2)
    waves = sitk.GetImageFromArray(stack("c8"))
    for name in ("p.mha", "p.nrrd", "p.nii.gz"):
        for image, reason in ((colour, "vector"), (series, r"shape \(2, 5, 9, 7\)|4D image"),
                              (waves, "vector|complex")):
            sitk.WriteImage(image, str(tmp_path / name))
            refused(tmp_path / name, reason)
    sitk.WriteImage(sitk.Compose([sitk.GetImageFromArray(stack("u1", (9, 7)))] * 3), str(tmp_path / "rgb.tif"))
    refused(tmp_path / "rgb.tif", "colour type 2")


def test_an_array_of_negative_size_is_refused(tmp_path):
    np.save(tmp_path / "p.npy", stack())
    content = (tmp_path / "p.npy").read_bytes()
    (tmp_path / "p.npy").write_bytes(content.replace(b"(5, 9, 7)", b"(-5, 9,7)"))
    refused(tmp_path / "p.npy", "no NumPy array, incomplete or damaged")


def test_other_names_are_refused(tmp_path):
    refused(tmp_path / "missing.tif", "no such file or folder", FileNotFoundError)
    for name, found in (("p.raw", ".raw"), ("p.his", ".his"), ("p", "without a suffix"), ("p.npz", ".npz")):
        (tmp_path / name).write_text("x")
        refused(tmp_path / name, f"file type {found}; accepted: .npy, .mha")
    for name in ("p.mha", "p.nrrd", "p.nii", "p.nii.gz", "p.tif", "p.npy"):
        (tmp_path / name).write_text("no image")
        refused(tmp_path / name, "read|not a TIFF|no NumPy array")


@pytest.mark.parametrize("tag, value, reason", [
    (254, 1, "subfile type 1"), (254, 2, "more than one subfile type"), (259, 7, "damaged"), (259, 999, "damaged"),
    (262, 3, "colour"), (274, 4, "orientation 4"), (277, 3, "3; accepted: 1"), (322, 16, "damaged"),
    (339, 6, "sample format 6"), (339, 2, "int16, the first view .*uint16"), (257, 8, "incorrect StripByteCounts"),
    (279, 100, "incorrect StripByteCounts"), (279, [56, 56, 13], "125 bytes for 9 x 7"),
    (256, 6, "9 x 6 .* first view"),
    (279, [56, 56, 10 ** 6], "the pixels end at byte 10"), (256, 0, "9 x 0"), (257, 10 ** 9, "incorrect Strip"),
    (256, 10 ** 9, "126 bytes for 9 x 1000000000")])
def test_unusual_tiff_pages_are_refused(tmp_path, tag, value, reason):
    refused(write_tiff(tmp_path / "p.tif", stack(), last={tag: value}), reason)


@pytest.mark.parametrize("options", [
    {"tile": (16, 32)}, {"compression": "zlib"}, {"compression": "lzw"}, {"compression": "lzw", "predictor": True},
    {"compression": "zstd", "tile": (32, 16)}, {"compression": "packbits"}, {"bigtiff": True}, {"byteorder": ">"},
    {"photometric": "miniswhite"}, {"rowsperstrip": 3, "compression": "deflate"}, {"imagej": True}])
def test_tiffs_as_other_programs_write_them(tmp_path, options):
    array = stack("u2", (3, 41, 57))
    tifffile.imwrite(tmp_path / "p.tif", array, **{"photometric": "minisblack"} | options)
    assert same(read_projections(tmp_path / "p.tif"), array)
    if "compression" in options:    # cut pixels, in strips that decode to less than they should
        content = (tmp_path / "p.tif").read_bytes()
        with tifffile.TiffFile(tmp_path / "p.tif") as file:
            begin, size = file.pages[1].dataoffsets[0], file.pages[1].databytecounts[0]
        (tmp_path / "p.tif").write_bytes(content[:begin + size // 2] + bytes(size - size // 2) + content[begin + size:])
        try:
            read_projections(tmp_path / "p.tif")    # not all have a checksum
        except ValueError as error:
            assert "damaged" in str(error) and "\n" not in str(error)


def test_a_small_compressed_tiff_that_claims_much_takes_no_memory(tmp_path):
    tifffile.imwrite(tmp_path / "p.tif", stack("u1", (9, 7)), compression="zlib", rowsperstrip=10 ** 6)
    content = bytearray((tmp_path / "p.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "p.tif") as file:
        for code in (256, 257, 278):
            tag = file.pages[0].tags[code]
            content[tag.valueoffset:tag.valueoffset + 4] = struct.pack("<HH" if tag.dtype == 3 else "<I",
                                                                       *([60000, 0] if tag.dtype == 3 else [60000]))
    (tmp_path / "p.tif").write_bytes(content)
    refused(tmp_path / "p.tif", "bytes for 60000 x 60000 pixels")


def test_tiff_lists_of_pages(tmp_path):
    text = b"ImageJ=1.54f\nimages=%d\nslices=5\n\0"
    assert same(read_projections(write_tiff(tmp_path / "p.tif", stack(), description=text % 5)), stack())
    refused(write_tiff(tmp_path / "p.tif", stack(), description=text % 720), "5 pages, of 720 images")
    path = write_tiff(tmp_path / "p.tif", stack())
    content = path.read_bytes()
    place = 8 + 2 + 11 * 12    # where the first page points to the second
    path.write_bytes(content[:place] + content[4:8] + content[place + 4:])
    refused(path, "runs in a circle")
    pages = np.zeros((150, 2, 3), np.uint8)    # a circle that begins late
    content = write_tiff(path, pages).read_bytes()
    with tifffile.TiffFile(path) as file:
        last, other = file.pages[149].offset, file.pages[140].offset
    place = last + 2 + 11 * 12
    path.write_bytes(content[:place] + struct.pack("<I", other) + content[place + 4:])
    refused(path, "runs in a circle")
    path.write_bytes(content[:place] + struct.pack("<I", 10 ** 9) + content[place + 4:])
    refused(path, "invalid page offset")
    path = write_tiff(tmp_path / "p.tif", stack(), rows=9)
    path.write_bytes(path.read_bytes()[:-1])
    refused(path, "page 4: incomplete TIFF")


@pytest.mark.parametrize("name", [*IMAGES, "p.tif", "p.npy"])
@pytest.mark.parametrize("kind", ["u2", "f4"])
def test_memory_beside_the_projections(tmp_path, name, kind):
    array = stack(kind, (60, 150, 200))
    path = tmp_path / name
    np.save(path, array) if name == "p.npy" else write(path, array)
    tracemalloc.start()
    found = read_projections(path)
    peak = tracemalloc.get_traced_memory()[1]    # of NumPy and Python
    tracemalloc.stop()
    assert same(found, array) and peak < 1.3 * found.nbytes


def named(folder, names):
    """A folder with a view for each name, whose value is its place in the list."""
    folder.mkdir()
    for k, name in enumerate(names):
        tifffile.imwrite(folder / f"{name}.tif", np.full((4, 6), k, np.float32))
    return folder


@pytest.mark.parametrize("names", [
    ["angle_0.0", "angle_0.25", "angle_0.5", "angle_0.75", "angle_1.0"], ["a0,25", "a0,5", "a10,0"],
    ["angle_-10", "angle_-9.5", "angle_0", "angle_7"], ["angle-10", "angle-9", "angle0", "angle7"],
    ["-5", "-4.5", "0", "0.1"], ["view-1", "view-2", "view-10"], ["scan7_2026-11-25_view2", "scan7_2026-11-25_view10"],
    ["v001_angle_-0.5", "v002_angle_0.25", "v010_angle_0.5"], ["1e2", "2e2"], ["20261125.0009", "20261125.0010"],
    ["12345678901234567890.1", "12345678901234567890.2"]])
def test_views_come_in_the_order_of_the_numbers_in_their_names(tmp_path, names):
    assert read_projections(named(tmp_path / "views", names))[:, 0, 0].tolist() == list(range(len(names)))


@pytest.mark.parametrize("names, reason", [
    (["v1_a20", "v2_a10"], "v1_a20.tif and v2_a10.tif: two numbers give two orders"),
    (["v1_a0.5", "v2_a0.25", "v3_a0.75"], "two orders"), (["1.1", "1.10", "1.2"], "1.1.*1.10.*no order by number"),
    (["a1", "a-1", "b2"], "no order"), (["a1", "a2b"], "no order")])
def test_names_with_two_orders_are_refused(tmp_path, names, reason):
    refused(named(tmp_path / "views", names), reason)


def test_a_slope_of_zero_scales_nothing(tmp_path):
    path = write(tmp_path / "p.nii", stack())
    for slope, inter, expected in ((0, -1024, stack()), (2, 3, stack() * 2.0 + 3), (np.nan, 5, stack())):
        content = bytearray(path.read_bytes())
        content[112:120] = np.array([slope, inter], "<f4").tobytes()
        path.write_bytes(content)
        assert same(read_projections(path), expected)


@pytest.mark.parametrize("name", ["p.npy", "p.tif", "p.nii", "p.nii.gz", "p.mha", "p.nrrd"])
def test_what_is_no_file_is_named(tmp_path, name):
    os.mkfifo(tmp_path / name)
    refused(tmp_path / name, "a named pipe; accepted: a file")
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    refused(tmp_path / name, "a device; accepted: a file")


@pytest.mark.parametrize("name", ["p.mhd", "p.nhdr"])
def test_a_pipe_for_data_is_no_data(tmp_path, name):
    data = (write(tmp_path / name, stack()).parent / "p.raw")
    data.unlink()
    os.mkfifo(data)
    refused(tmp_path / name, "its data file p.raw is missing")


def test_a_pipe_in_a_folder_of_views_is_named(tmp_path):
    os.mkfifo(named(tmp_path / "views", ["v1", "v2"]) / "v3.tif")
    refused(tmp_path / "views", "a named pipe", named="v3.tif")


@pytest.mark.parametrize("name", ["p.npy", "p.tif", "p.nii", "p.nii.gz", *IMAGES])
def test_names_that_are_not_utf8(tmp_path, name):
    folder = tmp_path / os.fsdecode(b"Sch\xe4del")
    folder.mkdir()
    np.save(tmp_path / name, stack()) if name == "p.npy" else write(tmp_path / name, stack())
    for file in list(tmp_path.glob("p.*")):
        file.rename(folder / file.name)
    if name in ("p.mha", "p.mhd", "p.nrrd", "p.nhdr"):    # SimpleITK would end the process
        refused(folder / name, r"Sch\\xe4del/p.*no name that is not UTF-8")
    else:
        assert same(read_projections(folder / name), stack())


def phantom(views=12, shape=(20, 30)):
    """Line integrals of a ball that moves."""
    v, u = np.mgrid[:shape[0], :shape[1]] - np.reshape([9.5, 14.5], (2, 1, 1))
    shift = 3 * np.sin(np.arange(views))[:, None, None]
    return (0.3 * np.sqrt(np.maximum(64 - (u - shift) ** 2 - v ** 2, 0))).astype(np.float32)


def scan(tmp_path):
    """Line integrals, and files of the counts that stand for them; flat and dark pixel (3, 4) is dead."""
    p, rng = phantom(), np.random.default_rng(0)
    dark = np.rint(rng.uniform(90, 110, (2, 20, 30)))
    gain = rng.uniform(40000, 60000, (20, 30))
    flat = np.rint(gain + dark.mean(0))[None].repeat(3, 0)
    counts = np.rint(gain * np.exp(-p) + dark.mean(0))
    flat[:, 3, 4] = counts[:, 3, 4] = dark[:, 3, 4] = 100
    for name, array in (("counts", counts), ("flat", flat), ("dark", dark)):
        np.save(tmp_path / f"{name}.npy", array.astype("u2"))
    return p, [tmp_path / f"{name}.npy" for name in ("counts", "flat", "dark")]


def test_counts_with_a_dead_pixel_become_line_integrals(tmp_path):
    p, (counts, flat, dark) = scan(tmp_path)
    found = read_line_integrals(counts, p.shape, flat, dark)
    assert np.argwhere(found.bad).tolist() == [[3, 4]] and found.replaced == 0 and found.warnings == []
    assert found.p.dtype == np.float32 and np.abs(found.p - p).max() < 2e-3 * np.exp(p.max())
    (tmp_path / "more.txt").write_text("# v u\n10 15\n")
    found = read_line_integrals(counts, p.shape, flat, dark, bad_pixels=tmp_path / "more.txt")
    assert np.argwhere(found.bad).tolist() == [[3, 4], [10, 15]] and np.abs(found.p - p).max() < 0.1


def test_line_integrals_are_taken_as_they_are(tmp_path):
    p = phantom()
    np.save(tmp_path / "p.npy", p)
    found = read_line_integrals(tmp_path / "p.npy", p.shape)
    assert np.array_equal(found.p, p) and found.replaced == 0 and not found.bad.any() and found.warnings == []
    refused_scan(tmp_path / "p.npy", "12 x 20 x 30 .*; the geometry has 12 x 30 x 20", (12, 30, 20))
    p[:, 10, 15] = 9
    np.save(tmp_path / "p.npy", p)
    found = read_line_integrals(tmp_path / "p.npy", p.shape)
    assert np.argwhere(found.bad).tolist() == [[10, 15]] and np.abs(found.p - phantom()).max() < 0.05


def refused_scan(path, reason, *arguments, **options):
    with pytest.raises(ValueError, match=reason) as error:
        read_line_integrals(path, *arguments, **options)
    assert "\n" not in str(error.value) and path.name in str(error.value)


def test_scans_that_cannot_be_are_refused(tmp_path):
    p, (counts, flat, dark) = scan(tmp_path)
    refused_scan(counts, "whole numbers: counts", p.shape)
    refused_scan(counts, "flat minus dark: 600 of 600 pixels are not above zero.*swapped", p.shape, dark, flat)
    np.save(tmp_path / "p.npy", np.exp(-p))
    refused_scan(tmp_path / "p.npy", "transmissions", p.shape)
    assert np.allclose(read_line_integrals(tmp_path / "p.npy", p.shape, i0=1).p, p, atol=1e-5)
    p[:, ::4, ::4] = np.arange(len(p))[:, None, None] % 2 * 3 + 20
    np.save(tmp_path / "p.npy", p)
    refused_scan(tmp_path / "p.npy", "40 of 600 pixels are dead, stuck or hot; accepted: up to 5%", p.shape)


def test_odd_scans_are_said(tmp_path):
    p = phantom()[:, :, 8:-8]
    np.save(tmp_path / "p.npy", p)
    said, = read_line_integrals(tmp_path / "p.npy", p.shape).warnings
    assert "wider than the detector" in said


def test_lists_and_images_of_bad_pixels(tmp_path):
    bad = np.zeros((9, 7), bool)
    bad[2, 3] = bad[8, 0] = True
    for name, content in (("b.txt", "2 3\n\n8 0  # dead\n"), ("b.csv", "v,u\n2,3\n8, 0\n".replace("v,u", "#v,u"))):
        (tmp_path / name).write_text(content)
        assert np.array_equal(read_bad_pixels(tmp_path / name, (9, 7)), bad)
    for name in ("b.png", "b.tif", "b.mha"):
        write(tmp_path / name, bad.astype("u1") * 255)
        assert np.array_equal(read_bad_pixels(tmp_path / name, (9, 7)), bad)
        with pytest.raises(ValueError, match=f"{name}: 1 x 9 x 7 pixels; the detector has one image of 7 x 9"):
            read_bad_pixels(tmp_path / name, (7, 9))
    for content in ("9 0", "0 7", "-1 0", "1", "1 2 3", "a b", "1.5 2", "99999999999 0", "²  3"):
        (tmp_path / "b.txt").write_text(f"0 0\n{content}\n")
        with pytest.raises(ValueError, match="b.txt: line 2 is .*accepted: two whole numbers, v below 9"):
            read_bad_pixels(tmp_path / "b.txt", (9, 7))
    with pytest.raises(FileNotFoundError, match="none.txt"):
        read_bad_pixels(tmp_path / "none.txt", (9, 7))
    refused(tmp_path / "b.png", "file type .png")
