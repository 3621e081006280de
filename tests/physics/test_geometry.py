"""Geometries as values, what they refuse, and their YAML files."""
import math
from dataclasses import replace

import numpy as np
import pytest

from physics.geometry import ConeGeometry, read_geometry

CIRCLE = dict(angles=(0.0, 90.0), src_dist=70, det_dist=50, det_shape=(30, 40), det_spacing=(3, 2))
GRID = dict(volume_shape=(6, 10, 12), voxel_size=(2, 1, 1.5), volume_centre=(1, -2, 3))


def vectors(**changes):
    """The same scan as CIRCLE, by vectors."""
    scan = ConeGeometry(**CIRCLE)
    return dict(view_vectors=scan.vectors, det_shape=scan.det_shape) | changes


SCANS = {
    "circle": CIRCLE,
    "circle on a grid": CIRCLE | GRID | dict(det_offset=(0.1, -7.3), mu_water=0.0193),
    "uneven": CIRCLE | dict(angles=[0.1, 1 / 3, -1e-17, 720.5]),
    "voxel": CIRCLE | dict(unit="voxel", volume_shape=(2, 3, 4)),
    "vectors": vectors(),
    "vectors on a grid": vectors(**GRID),
}


@pytest.fixture(params=SCANS)
def scan(request):
    return ConeGeometry(**SCANS[request.param])


class TestValue:
    def test_repr_evaluates_back(self, scan):
        assert eval(repr(scan)) == scan and hash(eval(repr(scan))) == hash(scan)

    def test_yaml_reads_back(self, scan, tmp_path):
        (tmp_path / "scan.yaml").write_text(scan.to_yaml())
        assert read_geometry(tmp_path / "scan.yaml") == scan

    def test_numpy_values_are_plain_afterwards(self):
        scan = ConeGeometry(**CIRCLE | dict(angles=np.float32([0, 90]), det_shape=[np.int64(30), 40.0],
                                            src_dist=np.array(70)))
        assert scan == ConeGeometry(**CIRCLE) and "array" not in repr(scan)

    def test_vectors(self):
        scan = ConeGeometry(**CIRCLE | dict(det_offset=(0.5, 4)))
        assert np.allclose(scan.vectors, [[0, -70, 0, 4, 50, 0.5, 2, 0, 0, 0, 0, 3],
                                          [70, 0, 0, -50, 4, 0.5, 0, 2, 0, 0, 0, 3]])
        assert np.array_equal(ConeGeometry(**vectors(view_vectors=scan.vectors)).vectors, scan.vectors)

    def test_views_and_select(self, scan):
        some = scan.select([1, 0])
        assert some.views == 2 and np.array_equal(some.vectors, scan.vectors[[1, 0]])
        assert replace(some, angles=scan.angles, view_vectors=scan.view_vectors) == scan

    def test_on_grid(self):
        scan = ConeGeometry(**CIRCLE | GRID)
        assert scan.on_grid((2, 3, 4)).voxel_size == (2, 1, 1.5)
        assert scan.on_grid((2, 3, 4), (3, 3, 3)) == ConeGeometry(
            **CIRCLE | GRID | dict(volume_shape=(2, 3, 4), voxel_size=(3, 3, 3)))
        with pytest.raises(ValueError, match="voxel_size"):
            ConeGeometry(**CIRCLE).on_grid((2, 3, 4))

    def test_slab_keeps_the_slices_in_place(self):
        scan = ConeGeometry(**CIRCLE | GRID)            # slices of 2, centres at -4, -2, 0, 2, 4, 6
        slab = scan.slab(1, 4)
        assert slab == replace(scan, volume_shape=(3, 10, 12), volume_centre=(0, -2, 3))
        assert scan.slab(0, 6) == scan

    @pytest.mark.parametrize("by_vectors", [False, True])
    def test_in_voxels(self, by_vectors):
        """The unit changes, and nothing that does not depend on it."""
        scan = ConeGeometry(**(vectors() if by_vectors else CIRCLE | dict(det_offset=(1, 2))) | GRID, mu_water=0.02)
        other = scan.in_voxels()
        assert other.unit == "voxel" and other.voxel_size == (2 / 1.5, 1 / 1.5, 1) and other.in_voxels() == other
        assert np.allclose(1.5 * other.vectors, scan.vectors) and np.allclose(other.shadow, scan.shadow)
        assert other.mu_water == pytest.approx(0.03)

    def test_projected_points(self, scan):
        """The middle of the detector, one pixel along u and v from it, the source, and a point half-way."""
        rows, columns = scan.det_shape
        for view, (source, centre, step_u, step_v) in enumerate(scan.vectors.reshape(-1, 4, 3)):
            found = scan.project([centre, centre + step_u, centre + step_v, (source + centre + 2 * step_u) / 2])[view]
            middle = np.array([(columns - 1) / 2, (rows - 1) / 2, 1])
            assert np.allclose(found - middle, [[0, 0, 0], [1, 0, 0], [0, 1, 0], [2, 0, -0.5]])

    def test_crop_keeps_the_pixels_in_place(self, scan):
        part, points = scan.crop(3, 8, 10, 14), np.random.default_rng(0).normal(size=(5, 3))
        assert part.det_shape == (5, 4)
        assert np.allclose(part.project(points), scan.project(points) - [10, 3, 0])


class TestRefusals:
    @pytest.mark.parametrize("change", [
        dict(angles=()), dict(angles=(math.nan,)), dict(angles=1.0), dict(angles=("a",)), dict(angles=(True,)),
        dict(src_dist=0), dict(src_dist="far"), dict(src_dist=None), dict(det_dist=-5), dict(det_dist=math.inf),
        dict(det_shape=(5,)), dict(det_shape=(5, 2.5)), dict(det_shape=7), dict(det_shape=()), dict(det_shape=None),
        dict(det_shape=(5, True)), dict(det_shape=(5, 0)), dict(det_spacing=(1, 0)), dict(det_spacing=None),
        dict(det_offset=(1,)), dict(det_offset=None), dict(det_offset=(0, math.nan)), dict(volume_shape=(4, 4)),
        dict(volume_shape=(4, 4, 0), voxel_size=(1, 1, 1)), dict(voxel_size=(1, 1)),
        dict(voxel_size=(1, 1, math.nan)), dict(voxel_size=(1, 1, 10 ** 400)), dict(volume_centre=(0, 0)),
        dict(volume_centre=(0, 0, 80)), dict(unit="inch"), dict(unit=None), dict(mu_water=0), dict(mu_water=True),
        dict(view_vectors=1), dict(view_vectors="a"), dict(view_vectors=[[0] * 11]), dict(view_vectors=[1])])
    def test_bad_values_are_named(self, change):
        with pytest.raises(ValueError, match=f"^{next(iter(change))}: .") as error:
            ConeGeometry(**CIRCLE | change)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("name, change", [
        ("src_dist", vectors(src_dist=70)), ("angles", vectors(angles=[0, 90])),
        ("det_offset", vectors(det_offset=[1, 0])), ("angles", dict(det_shape=(5, 5))),
        ("voxel_size", CIRCLE | dict(volume_shape=(2, 3, 4))),
        ("voxel_size", CIRCLE | dict(unit="voxel", voxel_size=(1, 1, 2)))])
    def test_what_does_not_go_together(self, name, change):
        with pytest.raises(ValueError, match=f"^{name}: "):
            ConeGeometry(**change)

    @pytest.mark.parametrize("what, columns, values", [
        ("parallel", slice(9, 12), [4, 0, 0]), ("parallel", slice(6, 9), 0), ("in the plane", slice(6, 9), [0, 2, 0]),
        ("not between", slice(3, 6), [0, -200, 0]), ("not between", slice(0, 3), [0, 60, 0])])
    def test_bad_vectors(self, what, columns, values):
        bad = np.array(ConeGeometry(**CIRCLE).vectors[[1, 0]])
        bad[1, columns] = values
        with pytest.raises(ValueError, match=f"^view_vectors: in view 1 .*{what}"):
            ConeGeometry(**vectors(view_vectors=bad))

    def test_the_volume_stays_between_source_and_detector(self):
        settings = dict(angles=(0.0, 45.0), src_dist=60, det_dist=40, det_shape=(8, 8), det_spacing=(2, 2))
        scan = ConeGeometry(**settings, unit="voxel", volume_shape=(4, 54, 54))     # corners 38.9 from the axis
        for change, what in ((dict(volume_shape=(4, 56, 56)), "detector of view 1"),
                             (dict(det_dist=100, volume_shape=(4, 84, 84)), "source of view 1"),
                             (dict(volume_centre=(0, -7, 0), det_dist=100), None),
                             (dict(volume_centre=(0, -33, 0), det_dist=100), "source of view 0")):
            if what is None:
                replace(scan, **change)
                continue
            with pytest.raises(ValueError, match=f"^volume_shape: .*{what}"):
                replace(scan, **change)


class TestFiles:
    def read(self, folder, text, **files):
        for name, content in files.items():
            (folder / name.replace("_", ".")).write_text(content)
        (folder / "scan.yaml").write_text(text)
        return read_geometry(folder / "scan.yaml")

    def test_the_files_that_come_along(self, pytestconfig):
        folder = pytestconfig.rootpath / "configs" / "geometry"
        scans = {path.stem: read_geometry(path) for path in folder.glob("*.yaml")}
        assert scans["demo"] == ConeGeometry(
            angles=range(360), src_dist=700, det_dist=500, det_shape=(512, 512), det_spacing=(2, 2), unit="voxel",
            mu_water=0.01 / 2.6)
        assert 2.6 * scans["demo"].mu_water == 0.01
        for name in ("c_arm", "micro_ct"):
            assert scans[name].volume_shape and 0.015 < scans[name].mu_water < 0.03

    def test_spread_angles(self, tmp_path):
        rest = "{src_dist: 7, det_dist: 5, det_shape: [3, 4], det_spacing: [1, 1], angles: %s}"
        assert self.read(tmp_path, rest % "{start: 10, stop: 50, views: 4}").angles == (10, 20, 30, 40)
        assert self.read(tmp_path, rest % "{start: 0, stop: -30, views: 2}").angles == (0, -15)

    @pytest.mark.parametrize("suffix", [".npy", ".txt", ".csv"])
    def test_vectors_in_a_file(self, tmp_path, suffix):
        expected = ConeGeometry(**vectors())
        if suffix == ".npy":
            np.save(tmp_path / "views.npy", expected.vectors)
        else:
            np.savetxt(tmp_path / f"views{suffix}", expected.vectors, "%.17g", "," if suffix == ".csv" else " ")
        assert self.read(tmp_path, f"{{det_shape: [30, 40], view_vectors: views{suffix}}}") == expected

    @pytest.mark.parametrize("key, text, what", [
        ("det_shap", "det_shap: [3, 4]", "unknown key; keys are angles"),
        ("det_shape", "angles: [0]", "missing"),
        ("src_dist", "{det_shape: [3, 4], angles: [0], det_dist: 5, det_spacing: [1, 1]}", "missing"),
        ("det_shape", "det_shape: [3, yes]", "found .3, True."),
        ("det_shape", "det_shape: 3 x 4", "expected 2 positive whole numbers .v, u., found '3 x 4'"),
        ("src_dist", "{det_shape: [3, 4], src_dist: 7e2}", "as 2.0e-2"),
        ("mu_water", "{det_shape: [3, 4], mu_water: 2000-01-01}", "found datetime"),
        ("volume_shape", "{det_shape: [3, 4], volume_shape: {a: 1}}", "found"),
        ("angles", "{det_shape: [3, 4], angles: {start: 0, end: 5, views: 3}}", "the keys start, stop, views"),
        ("angles.views", "{det_shape: [3, 4], angles: {start: 0, stop: 5, views: 2.5}}", "found 2.5"),
        ("angles.stop", "{det_shape: [3, 4], angles: {start: 0, stop: x, views: 2}}", "found 'x'"),
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
        ("not a YAML file", "a: 2000-99-99", "month"), ("expected keys and values", "- 1", r"found \[1\]"),
        ("expected keys and values", "", "found None")])
    def test_bad_files_in_one_line(self, tmp_path, key, text, what):
        with pytest.raises(ValueError, match=f"^.*scan.yaml: {key}.*{what}") as error:
            self.read(tmp_path, text, short_txt="1 2 3", words_csv="x,y", broken_npy="no array")
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("shape", ["(9999999999, 12)", "(-5, 12)"])
    def test_a_table_that_claims_another_size(self, tmp_path, shape):
        np.save(tmp_path / "views.npy", np.zeros((3, 12)))
        content = (tmp_path / "views.npy").read_bytes()
        spoilt = content.replace(b"(3, 12), }" + b" " * 9, b"%-19s" % f"{shape}, }}".encode())
        (tmp_path / "views.npy").write_bytes(spoilt)
        with pytest.raises(ValueError, match="scan.yaml: view_vectors: .*views.npy cannot be read"):
            self.read(tmp_path, "{det_shape: [3, 4], view_vectors: views.npy}")

    def test_keys_that_the_caller_needs(self, tmp_path):
        text = ConeGeometry(**CIRCLE, mu_water=0.02).to_yaml()
        (tmp_path / "scan.yaml").write_text(text)
        assert read_geometry(tmp_path / "scan.yaml", "mu_water").mu_water == 0.02
        with pytest.raises(ValueError, match="scan.yaml: volume_shape: missing"):
            read_geometry(tmp_path / "scan.yaml", "mu_water", "volume_shape")

    def test_no_file_and_no_text(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no such file"):
            read_geometry(tmp_path / "none.yaml")
        (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ValueError, match="not a YAML file"):
            read_geometry(tmp_path / "bytes.yaml")
