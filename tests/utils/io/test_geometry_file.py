"""Geometry files: every scan comes back, numbers are decimal, and one line for what is no geometry."""
import numpy as np
import pytest

from physics.geometry import ConeGeometry
from utils.io.geometry_file import geometry_text, read_geometry

CIRCLE = dict(angles=(0.0, 90.0), src_dist=70, det_dist=50, det_shape=(30, 40), det_spacing=(3, 2))
GRID = dict(volume_shape=(6, 10, 12), voxel_size=(2, 1, 1.5), volume_centre=(1, -2, 3))


def vectors():
    """The same scan as CIRCLE, by vectors."""
    scan = ConeGeometry(**CIRCLE)
    return dict(view_vectors=scan.vectors, det_shape=scan.det_shape)


@pytest.mark.parametrize("fields", [
    CIRCLE, CIRCLE | GRID | dict(det_offset=(0.1, -7.3), mu_water=0.0193), vectors(), vectors() | GRID,
    CIRCLE | dict(angles=[0.1, 1 / 3, -1e-17, 720.5], det_spacing=(-3, 2)),
    CIRCLE | dict(unit="voxel", volume_shape=(2, 3, 4))])
def test_a_scan_comes_back_from_its_file(fields, tmp_path):
    scan = ConeGeometry(**fields)
    (tmp_path / "scan.yaml").write_text(geometry_text(scan))
    assert read_geometry(tmp_path / "scan.yaml") == scan


def read(folder, text, **files):
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content)
    (folder / "scan.yaml").write_text(text)
    return read_geometry(folder / "scan.yaml")


def test_the_files_that_come_along(pytestconfig):
    folder = pytestconfig.rootpath / "configs" / "geometry"
    scans = {path.stem: read_geometry(path) for path in folder.glob("*.yaml")}
    assert scans["demo"] == ConeGeometry(
        angles=range(360), src_dist=700, det_dist=500, det_shape=(512, 512), det_spacing=(2, 2), unit="voxel",
        mu_water=0.01 / 2.6)
    assert 2.6 * scans["demo"].mu_water == 0.01
    for name in ("c_arm", "micro_ct"):
        assert scans[name].volume_shape and 0.015 < scans[name].mu_water < 0.03


def test_numbers_with_leading_zeros_and_without_a_point_are_decimal(tmp_path):
    scan = read(tmp_path, "{src_dist: 0100, det_dist: 5e1, det_shape: [010, 0060], det_spacing: [1, 01.5], "
                         "angles: {start: 000, stop: 0360, views: 036}, mu_water: 2e-2}")
    assert (scan.src_dist, scan.det_dist, scan.det_shape, scan.det_spacing) == (100, 50, (10, 60), (1, 1.5))
    assert scan.angles == tuple(range(0, 360, 10)) and scan.mu_water == 0.02
    rest = "{src_dist: 9, det_dist: 9, det_shape: [1, 1], det_spacing: [1, 1], angles: [000, 010, 020]}"
    listed = read(tmp_path, rest)
    assert listed.angles == (0, 10, 20)


def test_spread_angles(tmp_path):
    rest = "{src_dist: 7, det_dist: 5, det_shape: [3, 4], det_spacing: [1, 1], angles: %s}"
    assert read(tmp_path, rest % "{start: 10, stop: 50, views: 4}").angles == (10, 20, 30, 40)
    assert read(tmp_path, rest % "{start: 0, stop: -30, views: 2}").angles == (0, -15)


@pytest.mark.parametrize("suffix", [".npy", ".txt", ".csv"])
def test_vectors_in_a_file(tmp_path, suffix):
    expected = ConeGeometry(**vectors())
    if suffix == ".npy":
        np.save(tmp_path / "views.npy", expected.vectors)
    else:
        np.savetxt(tmp_path / f"views{suffix}", expected.vectors, "%.17g", "," if suffix == ".csv" else " ")
    assert read(tmp_path, f"{{det_shape: [30, 40], view_vectors: views{suffix}}}") == expected


@pytest.mark.parametrize("key, text, what", [
    ("det_shap", "det_shap: [3, 4]", "unknown key; the nearest is det_shape"),
    ("qqq", "qqq: [3, 4]", "unknown key; accepted: angles, src_dist"),
    ("det_shape", "angles: [0]", "missing"),
    ("src_dist", "{det_shape: [3, 4], angles: [0], det_dist: 5, det_spacing: [1, 1]}", "missing"),
    ("det_shape", "det_shape: [3, yes]", "found .3, True."),
    ("det_shape", "det_shape: 3 x 4", "expected 2 positive whole numbers .v, u., found '3 x 4'"),
    *[(key, f"{{det_shape: [3, 4], {key}: {text}}}", f"found '{text}'") for key, text in (
        ("src_dist", "0x64"), ("src_dist", "0b111"), ("src_dist", "7:00"), ("src_dist", "1_000"), ("mu_water", "0o7"))],
    ("mu_water", "{det_shape: [3, 4], mu_water: 2000-01-01}", "found .2000-01-01"),
    ("volume_shape", "{det_shape: [3, 4], volume_shape: {a: 1}}", "found"),
    ("angles", "{det_shape: [3, 4], angles: {start: 0, end: 5, views: 3}}", "end: unknown key; acc"),
    ("angles.views", "{det_shape: [3, 4], angles: {start: 0, stop: 5, views: 2.5}}", "2.5; accepted"),
    ("angles.stop", "{det_shape: [3, 4], angles: {start: 0, stop: x, views: 2}}", "'x'; accepted"),
    ("angles", "{det_shape: [3, 4], angles: [0, [1]]}", "expected finite numbers"),
    ("view_vectors", "{det_shape: [3, 4], view_vectors: [[1, 2]]}", "expected 12 finite numbers"),
    ("view_vectors", "{det_shape: [3, 4], view_vectors: missing.npy}", "missing.npy cannot be read"),
    ("view_vectors", "{det_shape: [3, 4], view_vectors: scan.yaml}", "a .npy, .txt or .csv file"),
    ("view_vectors", "{det_shape: [3, 4], view_vectors: short.txt}", "12 numbers a view"),
    ("view_vectors", "{det_shape: [3, 4], view_vectors: words.csv}", "words.csv cannot be read"),
    ("view_vectors", "{det_shape: [3, 4], view_vectors: broken.npy}", "broken.npy cannot be read"),
    ("not a YAML file", "a: [1", "line"), ("not a YAML file", "a:\t- b: c: d", "line"),
    ("not a YAML file", "det_shape: [3, 4]\ndet_shape: [4, 3]", "line 2: the key 'det_shape' stands twice"),
    ("not a YAML file", "a: &a [*a]", "an alias stands for itself"), ("not a YAML file", "[" * 5000, "nested"),
    ("angles.views", "{det_shape: [3, 4], angles: {start: 0, stop: 5, views: 1000000000000}}", "up to 1000000"),
    ("not a YAML file", "a: !!timestamp 2000-99-99", "month"),
    (r"\[1\]; accepted: a section with the keys", "- 1", "angles"),
    ("None; accepted: a section with the keys", "", "angles")])
def test_bad_files_in_one_line(tmp_path, key, text, what):
    with pytest.raises(ValueError, match=f"^.*scan.yaml: {key}.*{what}") as error:
        read(tmp_path, text, short_txt="1 2 3", words_csv="x,y", broken_npy="no array")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", ["(9999999999, 12)", "(-5, 12)"])
def test_a_table_that_claims_another_size(tmp_path, shape):
    np.save(tmp_path / "views.npy", np.zeros((3, 12)))
    content = (tmp_path / "views.npy").read_bytes()
    spoilt = content.replace(b"(3, 12), }" + b" " * 9, b"%-19s" % f"{shape}, }}".encode())
    (tmp_path / "views.npy").write_bytes(spoilt)
    with pytest.raises(ValueError, match="scan.yaml: view_vectors: .*views.npy cannot be read"):
        read(tmp_path, "{det_shape: [3, 4], view_vectors: views.npy}")


def test_keys_that_the_caller_needs(tmp_path):
    text = geometry_text(ConeGeometry(**CIRCLE, mu_water=0.02))
    (tmp_path / "scan.yaml").write_text(text)
    assert read_geometry(tmp_path / "scan.yaml", "mu_water").mu_water == 0.02
    with pytest.raises(ValueError, match="scan.yaml: volume_shape: missing"):
        read_geometry(tmp_path / "scan.yaml", "mu_water", "volume_shape")


def test_no_file_and_no_text(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_geometry(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a YAML file"):
        read_geometry(tmp_path / "bytes.yaml")
