"""Projections: what was written is read, what is damaged or no projection is refused; counts become line integrals."""
import gc
import gzip
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import SimpleITK as sitk

from utils.io.projections import line_integrals, read_projections
from utils.io.nifti import write_volume
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
        for image, reason in ((colour, "vector"), (series, r"shape \(2, 5, 9, 7\)"), (waves, "vector|complex")):
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
    (254, 1, "subfile type 1"), (254, 2, "more than one subfile type"), (259, 7, "compression 7"), (262, 3, "colour"),
    (274, 4, "orientation 4"), (277, 3, "3; accepted: 1"), (322, 16, "tiles"), (266, 2, "bit order"),
    (258, 12, "12 bits"), (339, 6, "sample format 6"), (257, 8, "8 x 7 .* first view 9 x 7"), (279, 100, "100 bytes"),
    (256, 0, "9 x 0")])
def test_unusual_tiff_pages_are_refused(tmp_path, tag, value, reason):
    refused(write_tiff(tmp_path / "p.tif", stack(), last={tag: value}), reason)


def test_tiff_lists_of_pages(tmp_path):
    text = b"ImageJ=1.54f\nimages=%d\nslices=5\n\0"
    assert same(read_projections(write_tiff(tmp_path / "p.tif", stack(), description=text % 5)), stack())
    refused(write_tiff(tmp_path / "p.tif", stack(), description=text % 720), "5 pages, of 720 images")
    path = write_tiff(tmp_path / "p.tif", stack())
    content = path.read_bytes()
    place = 8 + 2 + 11 * 12    # where the first page points to the second
    path.write_bytes(content[:place] + content[4:8] + content[place + 4:])
    refused(path, "runs in a circle")
    path = write_tiff(tmp_path / "p.tif", stack(), rows=9)
    path.write_bytes(path.read_bytes()[:-1])
    refused(path, "page 4: incomplete TIFF")


def test_float32_images_are_in_memory_once_and_stay_there(tmp_path):
    array = stack("f4", (3, 200, 300))
    path = write(tmp_path / "p.mha", array)
    tracemalloc.start()
    view = read_projections(path)[1:]
    peak = tracemalloc.get_traced_memory()[1]    # of NumPy, without SimpleITK
    tracemalloc.stop()
    assert peak < array.nbytes / 2
    gc.collect()
    others = [read_projections(path) * 0 for _ in range(4)]
    assert np.array_equal(view, array[1:]) and not np.any(others)


def example(kind=np.float32):
    """Line integrals, and the counts, flat frames and dark frames that stand for them."""
    rng = np.random.default_rng(1)
    p = rng.uniform(-0.1, 6, (4, 5, 7))
    dark = rng.uniform(90, 110, (3, 5, 7))
    flat = rng.uniform(40000, 60000, (2, 5, 7))
    counts = np.exp(-p) * (flat.mean(0) - dark.mean(0)) + dark.mean(0)
    return p, counts.astype(kind), flat, dark


def test_counts_become_line_integrals():
    p, counts, flat, dark = example(np.float64)
    found, replaced = line_integrals(counts, flat, dark)
    assert found.dtype == np.float32 and replaced == 0 and np.abs(found - p).max() < 1e-6
    found, _ = line_integrals(counts, flat.mean(0), dark.mean(0))
    assert np.abs(found - p).max() < 1e-6
    counts = np.exp(-p) * 5e4
    assert np.abs(line_integrals(counts, i0=5e4)[0] - p).max() < 1e-6
    assert np.abs(line_integrals(counts / 5e4, np.ones((5, 7)))[0] - p).max() < 1e-6
    assert np.abs(line_integrals(counts + 100, i0=5e4 + 100, dark=np.full((5, 7), 100))[0] - p).max() < 1e-6


def test_whole_numbers_of_any_width():
    for kind in ("u1", "u2", "i4", ">u2", "f4"):
        counts = stack(kind)
        expected = -np.log(counts / 200.0)
        found, replaced = line_integrals(counts.copy(), i0=200)
        assert replaced == 0 and found.dtype == np.float32 and np.abs(found - expected).max() < 1e-6


def test_float32_counts_are_overwritten_and_others_kept():
    p, counts, flat, dark = example()
    assert line_integrals(counts, flat, dark)[0] is counts
    assert np.abs(counts - p).max() < 1e-4    # float32 counts: of 5e4, to 4e-3
    p, counts, flat, dark = example()
    before = counts.copy()
    counts.flags.writeable = False
    assert line_integrals(counts, flat, dark)[0] is not counts and np.array_equal(counts, before)
    counts = before.astype(np.int32)
    line_integrals(counts, flat, dark)
    assert np.array_equal(counts, before.astype(np.int32))


def test_pixels_without_signal_are_replaced_and_counted():
    counts = stack("u2") + 100
    counts[0, 0, :3] = (0, 99, 100)    # with a dark of 100: below, below, equal
    dark, flat = np.full((9, 7), 100), np.full((2, 9, 7), 1100)
    found, replaced = line_integrals(counts, flat, dark)
    assert replaced == 3 and np.allclose(found[0, 0, :3], np.log(1000 / 0.5), atol=1e-6)
    assert np.allclose(found.ravel()[3:], -np.log((counts.ravel()[3:] - 100) / 1000.0), atol=1e-6)
    # The mean of dark frames leaves parts of a count.
    counts[0, 0, 3] = 101
    found, replaced = line_integrals(counts, flat, np.full((9, 7), 100.75))
    assert replaced == 4 and np.allclose(found[0, 0, :4], np.log(999.25 / 0.5), atol=1e-6)


def test_transmissions_have_the_floor_of_16_bits():
    counts = np.random.default_rng(2).uniform(0.01, 1, (4, 5, 7)).astype(np.float32)
    counts[1, 2, 3:] = (0, -0.2, 1e-7, 1e-5)
    expected = -np.log(counts[1, 2, 6])
    found, replaced = line_integrals(counts, i0=1)
    assert replaced == 3 and np.allclose(found[1, 2, 3:6], 17 * np.log(2), atol=1e-6)
    assert found[1, 2, 6] == pytest.approx(expected, abs=1e-6) and np.isfinite(found).all()


@pytest.mark.parametrize("change, reason", [
    ({"flat": None}, "neither of flat and i0"), ({"i0": 5e4}, "both of flat and i0"),
    ({"counts": np.ones((5, 7))}, r"shape \(5, 7\); accepted: views x v x u"),
    ({"counts": np.ones((0, 5, 7))}, r"shape \(0, 5, 7\)"),
    ({"flat": np.ones((5, 8))}, r"flat of shape \(5, 8\) for views of shape \(5, 7\)"),
    ({"flat": np.ones((1, 2, 5, 7))}, r"flat of shape \(1, 2, 5, 7\)"),
    ({"flat": np.ones((0, 5, 7))}, r"flat of shape \(0, 5, 7\)"),
    ({"dark": np.ones((7, 5))}, r"dark of shape \(7, 5\)"), ({"dark": 3}, r"dark of shape \(\)"),
    ({"flat": np.zeros((5, 7))}, "flat minus dark: 35 of 35 pixels are not above zero"),
    ({"flat": None, "i0": 0, "dark": None}, "i0 = 0 minus dark: 35 of 35"), ({"flat": None, "i0": np.nan}, "35 of 35"),
    ({"flat": None, "i0": -5}, "35 of 35"), ({"flat": None, "i0": np.inf}, "35 of 35"),
    ({"flat": np.where(np.arange(35).reshape(5, 7) < 2, 0, 5e4)}, "flat minus dark: 2 of 35 pixels"),
    ({"dark": np.full((5, 7), np.nan)}, "dark: 35 pixels are NaN"),
    ({"counts": np.zeros((4, 5, 7), np.float32)}, "no pixel above dark"),
    ({"counts": np.full((4, 5, 7), 50, np.float32)}, "no pixel above dark"),
    ({"counts": np.full((4, 5, 7), np.nan)}, "view 0: 35 pixels are NaN")])
def test_what_gives_no_line_integrals_is_refused(change, reason):
    _, counts, flat, dark = example()
    arguments = {"counts": counts, "flat": flat, "dark": dark} | change
    before = arguments["counts"].copy()
    with pytest.raises(ValueError, match=reason) as error:
        line_integrals(**arguments)
    assert "\n" not in str(error.value) and np.array_equal(arguments["counts"], before, equal_nan=True)


def test_swapped_flat_and_dark_are_refused():
    _, counts, flat, dark = example()
    with pytest.raises(ValueError, match="35 of 35 pixels are not above zero.*swapped"):
        line_integrals(counts, dark, flat)
