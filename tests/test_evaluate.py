"""Grids of runs: all of them, each once, also after a kill; the numbers of the tables; refused grids.

The runs are those of a small script that answers like an entry point.
"""
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import stdev

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import yaml

import evaluate
from utils.evaluation import records
from utils.evaluation.grid import read_grid
from utils.io.files import ROOT
from utils.io.nifti import write_volume
from utils.io.read import read_volume
from utils.io.volume import Volume
from utils.run.metrics import evaluate as quality

ENTRY = '''
import json, os, shutil, sys, time
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
seed, name = int(flags["--seed"]), " ".join(flags.get(f"--{key}", "") for key in ("task", "noise-control", "seed"))
def log(word):
    with open(os.path.join(os.path.dirname(__file__), "log.txt"), "a") as file:
        file.write(f"{word} {name} {os.getpid()}\\n")
log("begin")
folder = os.path.join(flags["--output-dir"], "demo", "time")
os.makedirs(folder)
time.sleep(float(flags.get("--sleep", 0)))
while os.path.exists(os.path.join(os.path.dirname(__file__), f"hold {name}")):
    time.sleep(0.01)
if "--prepared" in flags:
    shutil.copytree(os.path.join(flags["--prepared"], str(seed)), folder, dirs_exist_ok=True)
else:
    if os.path.exists(flags.get("--fail-if", "")) and seed == 2:
        sys.exit("warning\\nentry.py: error: no luck")
    block = "x" * int(float(flags.get("--memory", 0)))
    view = {"psnr": 1.0, "ssim": None}
    level = float(flags.get("--level", 0))
    def metrics(psnr):
        return {"psnr": psnr, "ssim": psnr / 100, "inter_slice_error": 1 / psnr, "sharpness": 2 / psnr, "axial": view, "coronal": view,
                "sagittal": {"psnr": 2 * psnr, "ssim": None}}
    with open(os.path.join(folder, "metrics.json"), "w") as file:
        json.dump({"FBP-LV": metrics(10.0), "IR": metrics(20.0 + seed), "recon": metrics(level + seed**2)}, file)
    open(os.path.join(folder, "recon.nii.gz"), "w").close()
    open(os.path.join(folder, "IR.nii.gz"), "w").close()
log("end")
print("level 3 of 3")
print(folder)
'''


class Study:
    """A grid of fake runs in a folder, and what was called."""

    def __init__(self, folder: Path):
        self.folder, self.output, self.log = folder, folder / "output", folder / "log.txt"
        (folder / "entry.py").write_text(ENTRY)
        (folder / "scan.nii.gz").write_text("voxels")
        self.tree = {
            "seeds": [1, 2, 4], "flags": {"level": 20}, "modalities": {"CT": {"entry": str(folder / "entry.py")}},
            "volumes": {"chest": {"modality": "CT", "path": str(folder / "scan.nii.gz"), "size": 32}},
            "tasks": {"SVCT-20": {"task": "SVCT", "degree": 20}},
            "variants": {"independent": {"baseline": True, "flags": {"noise-control": "None"}},
                         "ISCS": {"flags": {"noise-control": "SLERP", "level": 30.5}}}}

    def grid(self) -> str:
        (self.folder / "grid.yaml").write_text(yaml.safe_dump(self.tree, sort_keys=False))
        return str(self.folder / "grid.yaml")

    def arguments(self, *flags) -> list[str]:
        return [self.grid(), "--output", str(self.output), *map(str, flags)]

    def run(self, *flags) -> int:
        return evaluate.main(self.arguments(*flags))

    def start(self, *flags) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, evaluate.__file__, *self.arguments(*flags)], text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def calls(self, word: str) -> list[str]:
        """Task, noise control and seed of the runs that began, or came to their end."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.split(" ", 1)[1].rsplit(" ", 1)[0] for line in lines if line.startswith(f"{word} ")]

    def hold(self, *calls: str) -> None:
        """Keep these runs from ending, until `release`."""
        for call in calls:
            (self.folder / f"hold {call}").touch()

    def release(self) -> None:
        for path in self.folder.glob("hold *"):
            path.unlink()

    def wait(self, *calls: str) -> None:
        """Until these runs have begun."""
        patience = time.monotonic() + 60
        while not set(calls) <= set(self.calls("begin")):
            assert time.monotonic() < patience
            time.sleep(0.01)

    def rows(self) -> dict:
        return {row["row"]: row for row in json.loads((self.output / "results.json").read_text())["rows"]}

    def folders(self) -> list[str]:
        return sorted(path.name for path in (self.output / "runs").iterdir())


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path)


ALL = [f"SVCT {control} {seed}" for control in ("None", "SLERP") for seed in (1, 2, 4)]


def test_every_run_once_and_the_numbers_of_the_tables(study, capsys):
    assert study.run() == 0
    assert study.calls("end") == ALL
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "grid: 6 runs, 0 of them done, 1 at a time" and printed[-1] == str(study.output)
    assert printed[2].startswith("[2/6] chest, SVCT-20, independent, seed 2: 24.00 dB") and len(printed) == 8
    rows = study.rows()
    assert list(rows) == ["FDK", "SIRT", "independent", "ISCS"]
    ours, theirs = [31.5, 34.5, 46.5], [21, 24, 36]
    sirt = [21, 22, 24]
    for name, psnr, less in (("ISCS", ours, theirs), ("independent", theirs, None), ("SIRT", sirt, theirs),
                             ("FDK", [10, 10, 10], theirs)):
        row = rows[name]
        assert row["runs"] == 3
        for metric, values, against in (
                ("psnr", psnr, less), ("ssim", [p / 100 for p in psnr], less and [p / 100 for p in less]),
                ("inter_slice_error", [1 / p for p in psnr], less and [1 / p for p in less]),
                ("sharpness", [2 / p for p in psnr], less and [2 / p for p in less]),
                ("sagittal_psnr", [2 * p for p in psnr], less and [2 * p for p in less])):
            assert row[metric] == pytest.approx(sum(values) / 3, rel=1e-12), (name, metric)
            assert row[f"{metric}_spread"] == pytest.approx(stdev(values), rel=1e-12, abs=1e-12)
            if against is None:
                assert row[f"{metric}_difference"] is row[f"{metric}_difference_spread"] is None
                continue
            pairs = [a - b for a, b in zip(values, against)]
            assert row[f"{metric}_difference"] == pytest.approx(sum(pairs) / 3, rel=1e-12)
            assert row[f"{metric}_difference_spread"] == pytest.approx(stdev(pairs), rel=1e-9, abs=1e-12)
        assert row["axial_psnr"] == 1 and row["axial_ssim"] is None
    assert rows["ISCS"]["against"] == "independent" and rows["ISCS"]["pairs"] == 3
    assert rows["SIRT"]["seconds"] is None and rows["ISCS"]["seconds"] > 0
    with open(study.output / "results.csv", newline="") as file:
        table = {row["row"]: row for row in csv.DictReader(file)}
    for name, row in rows.items():
        assert table[name] == {key: "" if value is None else str(value) for key, value in row.items()}
    text = (study.output / "results.md").read_text()
    assert "## chest, SVCT-20" in text and "to **independent**" in text and "versions" not in text
    assert "| ISCS | 3 | 37.50 ± 7.94 | +10.50 ± 0.00 | 0.3750 ± 0.0794 | +0.1050 ± 0.0000 |" in text
    assert "| SIRT | 3 | 22.33 ± 1.53 | -4.67 ± 6.43 |" in text

    assert study.run() == 0 and study.calls("begin") == ALL     # nothing left to do


def test_seconds_and_peak_memory_are_those_of_each_run(study):
    study.tree["seeds"] = [1]
    study.tree["variants"]["ISCS"]["flags"] |= {"sleep": 0.4, "memory": 3e8}
    assert study.run() == 0
    rows = study.rows()
    assert rows["ISCS"]["seconds"] > 0.4
    assert rows["ISCS"]["seconds_difference"] == rows["ISCS"]["seconds"] - rows["independent"]["seconds"]
    assert 0.3 < rows["ISCS"]["peak_memory_gb"] < 0.3 + rows["independent"]["peak_memory_gb"] + 0.02
    assert rows["ISCS"]["psnr_spread"] is None and rows["ISCS"]["psnr_difference"] == 10.5


def test_killed_in_the_middle_and_started_again(study):
    """SIGKILL: the run in progress dies too and is done again; no other is, and none is lost."""
    study.tree["seeds"] = [1, 2]
    every = [f"SVCT {control} {seed}" for control in ("None", "SLERP") for seed in (1, 2)]
    study.hold(every[2])
    process = study.start()
    study.wait(every[2])
    process.kill()
    process.communicate()
    study.release()
    half_done = study.folders()
    assert len(half_done) == 3 and not (study.output / "results.md").exists()
    (study.output / "runs" / half_done[0] / "leftover").touch()         # of ISCS, the third
    (study.output / "records" / ".partial-1-x.json").write_text("{")    # killed while it wrote
    (study.output / "runs" / "older-0123").mkdir()                      # killed, and the grid changed since
    (study.output / "records" / "0123.json").write_text(
        '{"state": "running", "name": "older", "folder": "runs/older-0123"}')
    assert study.run() == 0
    time.sleep(0.2)     # enough for the run of the first start to write more, if it were alive
    assert study.calls("end") == every and study.calls("begin") == [*every[:3], *every[2:]]
    assert len(study.folders()) == 4 and not list(study.output.rglob("leftover"))
    assert not list(study.output.rglob(".partial-*"))
    rows = study.rows()
    assert rows["ISCS"]["runs"] == rows["independent"]["runs"] == 2 and rows["ISCS"]["psnr"] == 33


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_interrupted_it_ends_its_runs_and_tabulates_the_rest(study, number):
    study.hold(*ALL[2:4])
    process = study.start("--jobs", 2)
    study.wait(*ALL[2:4])
    process.send_signal(number)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "Traceback" not in said and "interrupted" in said
    study.release()
    assert len(study.folders()) == len(list((study.output / "records").iterdir())) == 2
    assert study.rows()["independent"]["runs"] == 2 and study.rows()["ISCS"]["psnr"] is None
    time.sleep(0.2)     # enough for the runs to come to their ends, if they were alive
    assert sorted(study.calls("end")) == ALL[:2]
    assert study.run("--jobs", 2) == 0 and sorted(study.calls("end")) == sorted(ALL)


def test_several_at_a_time(study):
    study.hold(*ALL[:3])
    process = study.start("--jobs", 3)
    study.wait(*ALL[:3])
    time.sleep(0.2)
    assert sorted(study.calls("begin")) == ALL[:3]
    study.release()
    process.communicate(timeout=60)
    assert process.returncode == 0 and sorted(study.calls("end")) == ALL
    assert study.rows()["ISCS"]["psnr_difference"] == 10.5


def test_two_evaluations_do_not_share_a_folder(study, monkeypatch, capsys):
    monkeypatch.setattr(records, "LOCK_PATIENCE", 0.2)
    with records.locked(study.output), pytest.raises(SystemExit) as stop:
        study.run()
    assert stop.value.code == 2 and "another evaluation" in capsys.readouterr().err and not study.calls("begin")


def test_a_run_counts_as_long_as_its_command_and_the_content_of_its_files_stay(study):
    study.run()
    scan = study.folder / "scan.nii.gz"
    os.utime(scan, (1, 1))                              # touched
    moved = study.folder / "moved.nii.gz"
    scan.rename(moved)
    study.tree["volumes"] = {"thorax": study.tree["volumes"]["chest"] | {"path": str(moved)}}   # renamed
    study.tree["variants"]["SLERP"] = study.tree["variants"].pop("ISCS")
    study.run()
    assert study.calls("begin") == ALL and study.rows()["SLERP"]["runs"] == 3
    study.tree["variants"]["SLERP"]["flags"]["level"] = 31
    study.run()
    assert study.calls("begin") == ALL + ALL[3:] and study.rows()["SLERP"]["psnr"] == 38
    moved.write_text("other voxels")
    study.run()
    assert study.calls("begin") == ALL + ALL[3:] + ALL


def test_failed_runs_are_reported_and_tried_again(study, capsys):
    bad = study.folder / "bad"
    bad.touch()
    study.tree["flags"]["fail-if"] = str(bad)
    assert study.run() == 1
    out = capsys.readouterr().out
    assert "failed: chest, SVCT-20, ISCS, seed 2: entry.py: error: no luck; exit status 1" in out.splitlines()
    assert len(study.calls("end")) == 4 and len(study.calls("begin")) == 6
    rows = study.rows()
    assert rows["ISCS"]["runs"] == rows["ISCS"]["pairs"] == 2 and rows["ISCS"]["psnr"] == (31.5 + 46.5) / 2
    assert "- chest, SVCT-20, independent, seed 2: entry.py:" in (study.output / "results.md").read_text()
    bad.unlink()
    assert study.run() == 0
    assert sorted(study.calls("end")) == ALL and len(study.calls("begin")) == 8 and len(study.folders()) == 6
    assert study.rows()["ISCS"]["runs"] == 3 and "Failed" not in (study.output / "results.md").read_text()


@pytest.mark.parametrize("script, reason", [
    ("", "metrics.json"), ("print('/nowhere')", "/nowhere/metrics.json"),
    ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"), ("raise ValueError('what')", "ValueError: what"),
    ("import os, sys; p = sys.argv[-1]; open(p + '/metrics.json', 'w').write('{'); print(p)", "Expecting"),
    ("import os, sys; p = sys.argv[-1]; open(p + '/metrics.json', 'w').write('{}'); print(p)", "no metrics of recon"),
])
def test_what_counts_as_failed(study, script, reason):
    (study.folder / "entry.py").write_text(script)
    study.tree |= {"seeds": [1], "variants": {"one": {}}}
    assert study.run() == 1
    (failure,) = json.loads((study.output / "results.json").read_text())["failures"]
    assert failure.startswith("chest, SVCT-20, one, seed 1: ") and reason in failure
    assert study.rows()["one"]["runs"] == 0


def test_runs_of_different_programs_are_not_mixed_unnoticed(study):
    study.run()
    (study.folder / "entry.py").write_text(ENTRY + "# newer")
    study.tree["seeds"].append(5)
    study.run()
    assert "by 2 versions of the source code" in (study.output / "results.md").read_text()


def test_files_that_are_not_kept(study):
    study.tree |= {"keep": ["recon.nii.gz"], "seeds": [1]}
    study.run()
    (folder,) = study.output.glob("runs/*ISCS*/demo/time")
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.json", "recon.nii.gz"]


@pytest.mark.parametrize("folder", ["../precious", ".", "", "records/..", "runs/link-{key}"])
def test_a_folder_that_is_not_of_one_run_is_never_removed(study, capsys, folder):
    (study.folder / "precious").mkdir()
    (study.folder / "precious" / "file").touch()
    (study.output / "records").mkdir(parents=True)
    (study.output / "runs").mkdir()
    (study.output / "runs" / "link-0123").symlink_to(study.folder / "precious")
    (study.output / "records" / "0123.json").write_text(json.dumps(
        {"state": "running", "name": "chest", "folder": folder.format(key="0123")}))
    with pytest.raises(SystemExit) as stop:
        study.run()
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and "0123.json: not a record (folder: " in said
    assert (study.folder / "precious" / "file").exists() and (study.output / "records" / "0123.json").exists()
    assert not study.calls("begin")


def test_a_run_whose_record_was_removed_is_done_again(study):
    study.tree["seeds"] = [1]
    study.run()
    for path in (study.output / "records").iterdir():
        path.unlink()
    assert study.run() == 0 and study.calls("end") == 2 * ["SVCT None 1", "SVCT SLERP 1"] and len(study.folders()) == 2


def test_a_result_outside_of_the_runs_folder_is_none(study):
    (study.folder / "mine").mkdir()
    (study.folder / "mine" / "metrics.json").write_text('{"recon": {"psnr": 1}}')
    (study.folder / "entry.py").write_text("import sys; print(sys.argv[-1] + '/../../../mine')")
    study.tree |= {"seeds": [1], "variants": {"one": {}}, "keep": ["x"]}
    assert study.run() == 1 and (study.folder / "mine" / "metrics.json").exists()


def test_long_names_and_names_with_html(study):
    study.tree |= {"seeds": [1], "volumes": {"x" * 300: study.tree["volumes"]["chest"],
                                             "<img src=x>": study.tree["volumes"]["chest"] | {"size": 16}}}
    assert study.run() == 0 and len(study.folders()) == 4
    text = (study.output / "results.md").read_text()
    assert "x" * 300 in text and "<img" not in text and "&lt;img src=x&gt;" in text


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "\x1b[31m", "\udcff"])
def test_an_output_that_is_no_line_is_refused(study, capsys, name):
    with pytest.raises(SystemExit) as stop:
        evaluate.main([study.grid(), "--output", str(study.folder / name)])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and "--output" in said


@pytest.mark.parametrize("flag", ["--out", "--dry", "--job=2", "--sample=2"])
def test_flags_are_not_abbreviated(study, capsys, flag):
    with pytest.raises(SystemExit) as stop:
        evaluate.main([study.grid(), flag])
    assert stop.value.code == 2 and "unrecognized arguments" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("moment", ["import", "read"])
def test_interrupted_in_the_first_moments_it_says_one_line(study, moment, number):
    """While a library is imported, and while files are read: a module and a file that take for ever."""
    (study.folder / "yaml.py").write_text(f"open({str(study.folder / 'begun')!r}, 'w').close()\n"
                                          + "import time\ntime.sleep(60)\n" * (moment == "import")
                                          + "import sys\nsys.path.remove(sys.path[1])\ndel sys.modules['yaml']\n"
                                            "import yaml\nsys.modules['yaml'] = yaml\n")
    if moment == "read":
        (study.folder / "scan.nii.gz").unlink()
        os.mkfifo(study.folder / "scan.nii.gz")
    process = subprocess.Popen([sys.executable, evaluate.__file__, *study.arguments()], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env=os.environ | {"PYTHONPATH": str(study.folder)})
    while not (study.folder / "begun").exists():
        time.sleep(0.01)
    time.sleep(1 if moment == "read" else 0)
    process.send_signal(number)
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "") and said.startswith("evaluate.py: interrupted")
    assert said.count("\n") == 1 and not study.output.exists()


def test_dry_run_shows_commands_and_does_nothing(study, capsys):
    assert study.run("--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12 and lines[6] == "# chest, SVCT-20, ISCS, seed 1"
    assert "--recon-size 32" in lines[7] and "--noise-control SLERP --level 30.5" not in lines[7]
    assert "--level 30.5" in lines[7] and "--degree 20" in lines[7] and "--seed 1" in lines[7]
    assert not study.output.exists()


# Posterior samples ----------------------------------------------------------------------------------

@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_mean_and_deviation_of_samples(study, modality):
    """Voxels against NumPy in float64, 1e-6 of the range; metrics against those of the unit range, 1e-4."""
    rng = np.random.default_rng(0)
    shape, axis, window = (12, 13, 14), *{"CT": (0, (-1000, 1600)), "MR": (1, (-3, 50))}[modality]
    place = {"spacing": (1.5, 2, 3), "origin": (4, 5, 6), "direction": (-1, 0, 0, 0, -1, 0, 0, 0, 1)}
    truth = rng.random(shape, dtype=np.float32)
    samples = {seed: truth + rng.normal(0.02, 0.1, shape).astype(np.float32) for seed in (3, 1, 4, 5)}

    def save(path, unit):
        write_volume(path, Volume((unit * (window[1] - window[0]) + window[0]).astype(np.float32), **place))

    def metrics(unit):
        return quality(torch.from_numpy(unit.astype(np.float32)), torch.from_numpy(truth), axis)

    for seed, sample in samples.items():
        folder = study.folder / "prepared" / str(seed)
        folder.mkdir(parents=True)
        save(folder / "GT.nii.gz", truth)
        save(folder / "recon.nii.gz", sample)
        (folder / "metrics.json").write_text(json.dumps({"recon": metrics(sample)}))
    scan = np.clip(truth, 0.1, 0.9)     # the runs' slices don't hold the extremes of the whole scan
    scan[0, 0, :2] = 0, 1
    save(study.folder / "scan.nii.gz", scan)
    study.tree |= {"seeds": [3, 1], "flags": {"prepared": str(study.folder / "prepared")},
                   "modalities": {modality: {"entry": str(study.folder / "entry.py")}},
                   "volumes": {"chest": {"modality": modality, "path": str(study.folder / "scan.nii.gz")}},
                   "tasks": {"task": {"task": "SVCT" if modality == "CT" else "ZSR"}}}
    study.tree["variants"]["ISCS"]["samples"] = 4
    assert study.run() == 0
    assert [call.split()[-1] for call in study.calls("end")] == ["3", "1", "3", "1", "4", "5"]
    row = study.rows()["ISCS, mean of 4 samples"]
    stack = np.stack([samples[seed] for seed in (3, 1, 4, 5)]).astype(float)
    folder, scale = study.output / row["folder"], window[1] - window[0]
    mean, deviation = (read_volume(folder / f"{name}.nii.gz") for name in ("mean", "std"))
    assert np.allclose(mean.array, stack.mean(0) * scale + window[0], rtol=0, atol=1e-6 * scale)
    assert np.allclose(deviation.array, stack.std(0, ddof=1) * scale, rtol=0, atol=1e-6 * scale)
    assert (mean.spacing, mean.origin, mean.direction) == tuple(place.values())
    expected = metrics(stack.mean(0))
    for metric in ("psnr", "ssim", "inter_slice_error", "sharpness"):
        assert row[metric] == pytest.approx(expected[metric], rel=1e-4), metric
    assert row["coronal_ssim"] == pytest.approx(expected["coronal"]["ssim"], rel=1e-4)
    singles = [metrics(samples[seed])["psnr"] for seed in (3, 1)]
    assert row["psnr"] > max(singles) + 3 and study.rows()["ISCS"]["psnr"] == pytest.approx(sum(singles) / 2)
    assert row["psnr_difference"] == pytest.approx(expected["psnr"] - sum(singles) / 2, rel=1e-4)
    assert row["runs"] == 4 and row["pairs"] == 2 and row["psnr_spread"] is None
    assert row["folder"] in (study.output / "results.md").read_text()

    (folder / "std.nii.gz").unlink()    # made again from the runs that are there
    assert study.run() == 0 and (folder / "std.nii.gz").exists() and len(study.calls("end")) == 6
    (folder / "std.nii.gz").unlink()    # and one run too, where its volume is gone
    next(study.output.glob("runs/*ISCS_seed_4*/demo/time/recon.nii.gz")).unlink()
    assert study.run() == 0 and (folder / "std.nii.gz").exists() and len(study.calls("end")) == 7


def test_the_mean_is_of_the_series_that_was_reconstructed(study):
    """A DICOM folder with two series of other ranges: the volume's flags choose one, and its range is the window."""
    (study.folder / "dicom").mkdir()
    voxels = np.random.default_rng(0).integers(0, 100, (3, 12, 12)).astype(np.int16)
    for number in (1, 2):
        for k, piece in enumerate(voxels * number):
            image = sitk.GetImageFromArray(piece[None])
            for tag, value in {"0008|0060": "MR", "0020|000e": f"1.2.3.{number}", "0020|0032": f"0\\0\\{k}",
                               "0020|0037": "1\\0\\0\\0\\1\\0"}.items():
                image.SetMetaData(tag, value)
            writer = sitk.ImageFileWriter()
            writer.KeepOriginalImageUIDOn()
            writer.SetFileName(str(study.folder / "dicom" / f"{number}{k}.dcm"))
            writer.Execute(image)
    truth = 2 * voxels.astype(np.float32)
    for seed in (1, 2):
        folder = study.folder / "prepared" / str(seed)
        folder.mkdir(parents=True)
        write_volume(folder / "GT.nii.gz", Volume(truth))
        write_volume(folder / "recon.nii.gz", Volume(truth + seed))
        low, high = truth.min(), truth.max()
        (folder / "metrics.json").write_text(json.dumps({"recon": quality(*(
            torch.from_numpy((x - low) / (high - low)) for x in (truth + seed, truth)), 1)}))
    study.tree |= {"seeds": [1, 2], "flags": {"prepared": str(study.folder / "prepared")},
                   "modalities": {"MR": {"entry": str(study.folder / "entry.py")}},
                   "volumes": {"head": {"modality": "MR", "path": str(study.folder / "dicom"),
                                        "flags": {"series": "1.2.3.2"}}},
                   "tasks": {"task": {"task": "ZSR"}}, "variants": {"one": {"samples": 2}}}
    assert study.run() == 0, json.loads((study.output / "results.json").read_text())["failures"]
    assert study.rows()["one, mean of 2 samples"]["psnr"] == pytest.approx(20 * np.log10((high - low) / 1.5), abs=0.01)


def test_metrics_of_a_mean_that_could_not_be_compared_are_refused(study):
    for seed in (1, 2):
        folder = study.folder / "prepared" / str(seed)
        folder.mkdir(parents=True)
        volume = np.random.default_rng(seed).random((12, 12, 12), dtype=np.float32)
        write_volume(folder / "GT.nii.gz", Volume(volume))
        write_volume(folder / "recon.nii.gz", Volume(volume + 0.1 * volume**2))
        metrics = quality(torch.from_numpy(volume + 0.1 * volume**2), torch.from_numpy(volume))    # not in HU
        (folder / "metrics.json").write_text(json.dumps({"recon": metrics}))
    study.tree |= {"seeds": [1, 2], "flags": {"prepared": str(study.folder / "prepared")}}
    assert study.run("--samples", 2) == 1
    failures = json.loads((study.output / "results.json").read_text())["failures"]
    assert len(failures) == 2 and "mean of 2" in failures[0] and "would not be comparable" in failures[0]


# What a grid may say --------------------------------------------------------------------------------

def test_sweeps_restrictions_and_the_order_of_flags(study):
    tree = study.tree
    tree["modalities"]["CT"]["flags"] = {"level": 21, "batch-size": 4}
    tree["volumes"]["chest"]["slices"] = [2, 9]
    tree["volumes"]["trunk"] = {"modality": "CT", "path": str(study.folder / "scan.nii.gz"), "flags": {"level": 22}}
    tree["tasks"]["LACT-90"] = {"task": "LACT", "flags": {"level": 23}, "volumes": ["trunk"]}
    tree["variants"] = {
        "all": {"baseline": True, "samples": 3}, "off": {"flags": {"batch-size": None, "yes": True}, "seeds": [7]},
        "a": {"sweep": {"NFE": [5, 10]}, "tasks": ["LACT-90"]},
        "b": {"sweep": {"NFE": [5, 10]}, "tasks": ["LACT-90"], "against": "a"},
        "c": {"volumes": ["chest"], "against": "off", "flags": {"level": 1}}}
    cells = {str(cell): cell for cell in read_grid(study.grid(), study.folder).cells}
    assert list(cells) == [
        "chest, SVCT-20, all", "chest, SVCT-20, off", "chest, SVCT-20, c", "trunk, SVCT-20, all",
        "trunk, SVCT-20, off", "trunk, LACT-90, all", "trunk, LACT-90, off",
        *(f"trunk, LACT-90, {name}, NFE {nfe}" for name in "ab" for nfe in (5, 10))]
    assert [cell.flags["level"] for cell in cells.values()] == ["21", "21", "1", "22", "22"] + ["23"] * 6
    assert cells["chest, SVCT-20, c"].flags == {
        "data": str(study.folder / "scan.nii.gz"), "level": "1", "batch-size": "4", "task": "SVCT", "degree": "20",
        "recon-size": "32", "slice-begin": "2", "slice-end": "9"}
    off = cells["trunk, LACT-90, off"]
    assert off.seeds == (7,) and off.flags["yes"] == "true" and not {"batch-size", "degree"} & off.flags.keys()
    assert cells["trunk, LACT-90, all"].sample_seeds() == (1, 2, 4) and off.sample_seeds() == ()
    assert [cells[f"trunk, LACT-90, b, NFE {n}"].against for n in (5, 10)] == ["a, NFE 5", "a, NFE 10"]
    assert cells["trunk, LACT-90, a, NFE 5"].against == "all" and cells["trunk, LACT-90, all"].against is None


def test_paths_from_the_repository_and_the_environment(study, monkeypatch):
    monkeypatch.setenv("SCANS", str(study.folder))
    study.tree["volumes"]["chest"]["path"] = "${SCANS}/scan.nii.gz"
    assert read_grid(study.grid(), Path("/")).cells[0].flags["data"] == str(study.folder / "scan.nii.gz")
    study.tree["volumes"]["chest"]["path"] = "scan.nii.gz"
    assert read_grid(study.grid(), study.folder).cells[0].flags["data"] == str(study.folder / "scan.nii.gz")


def change(*keys, to):
    def apply(tree):
        for key in keys[:-1]:
            tree = tree[key]
        tree[keys[-1]] = to
    return apply


@pytest.mark.parametrize("spoil, reason", [
    (change("volume", to={}), "grid.yaml: volume: unknown key; the nearest is volumes"),
    (change("seeds", to=[1, 1]), "seeds: [1, 1]; accepted: a list of different whole numbers"),
    (change("seeds", to=[-1]), "seeds: [-1]"), (change("seeds", to=3), "seeds: 3"),
    (lambda tree: tree.pop("tasks"), "tasks: missing"), (change("variants", to={}), "variants: {}"),
    (change("volumes", "chest", "modality", to="PET"), "volumes.chest.modality: 'PET'; accepted: CT or MR"),
    (change("volumes", "chest", "slices", to=[1]), "volumes.chest.slices: [1]; accepted: [begin, end], whole numbers with begin below end"),
    (change("volumes", "chest", "path", to="no.nii.gz"), "no.nii.gz: no such file"),
    (change("volumes", "chest", "path", to="${UNSET_DATA}/a.nii"), "the environment variable UNSET_DATA is not set"),
    (change("volumes", "chest", "path", to="$(x)"), "accepted are variables as ${NAME}"),
    (change("volumes", "head", to={"modality": "MR", "path": "a", "size": 3}), "volumes.head.size: it is for CT"),
    (change("volumes", "head", to={"modality": "MR", "path": "a"}), "volumes.head: nothing to run"),
    (change("volumes", 3, to={"modality": "MR", "path": "a"}), "volumes: the name 3; accepted: a text"),
    (change("tasks", "SVCT-20", "task", to="CT"), "tasks.SVCT-20.task: 'CT'; accepted: SVCT or LACT or ZSR"),
    (change("tasks", "SVCT-20", "volumes", to=["x"]), "tasks.SVCT-20.volumes: 'x'; accepted: chest"),
    (change("variants", "ISCS", "tasks", to=["SVCT-30"]), "variants.ISCS.tasks: 'SVCT-30'; the nearest is SVCT-20"),
    (change("variants", "ISCS", "flag", to={}), "variants.ISCS.flag: unknown key; the nearest is flags"),
    (change("variants", "ISCS", to=None), "variants.ISCS: None; accepted: a section"),
    (change("variants", "ISCS", "samples", to=0), "variants.ISCS.samples: 0; accepted: a whole number of 1 or more"),
    (change("variants", "ISCS", "baseline", to=True), "independent and ISCS are both baseline"),
    (change("variants", "ISCS", "against", to="x"), "variants.ISCS.against: 'x'; accepted: independent, ISCS"),
    (change("variants", "ISCS", "modality", to="MR"), "variants.ISCS: nothing to run"),
    (change("variants", "ISCS", "sweep", to={"NFE": 3}), "variants.ISCS.sweep.NFE: 3; accepted: a list of different values"),
    (change("variants", "ISCS", "flags", to={"--NFE": 3}), "variants.ISCS.flags.--NFE: unknown flag; the nearest is NFE"),
    (change("variants", "ISCS", "flags", to={"NFE": [3]}), "variants.ISCS.flags.NFE: [3]"),
    (change("variants", "ISCS", "flags", to={"series": "1.2"}), "variants.ISCS.flags.series: it changes the measurement"),
    (change("variants", "ISCS", "sweep", to={"i0": [1, 2]}), "variants.ISCS, i0 1.flags.i0: it changes the measurement"),
    (change("variants", "ISCS", "flags", to={"noise-control": None}),
     'variants.ISCS.flags.noise-control: null, which leaves the flag out, so that noise is SLERP; write "None", in quotes'),
    (change("variants", "ISCS", "sweep", to={"noise-control": [None, "GP"]}), "noise-control: null, which leaves the"),
    (change("flags", "resume", to="x"), "flags.resume: set by no grid"),
    (change("flags", "sleep", to="a\nb"), "flags.sleep: 'a\\nb'; accepted: a number, a text of one line"),
    (change("volumes", "a\nb", to={"modality": "CT", "path": "a"}), "volumes: the name 'a\\nb'; accepted: a text of one line"),
    (change("variants", "ISCS", "flags", to={"seed": 3}), "variants.ISCS.flags.seed: set by seeds"),
    (change("variants", "ISCS", "flags", to={"sino-noise": 3}), "variants.ISCS.flags.sino-noise: it changes the measurement"),
    (change("flags", "recon-size", to=3), "grid.yaml: flags.recon-size: set by a volume's size"),
    (change("flags", "config-path", to="none.yaml"), "none.yaml: no such file"),
    (change("keep", to="all"), "keep: 'all'"),
    (lambda tree: (tree["variants"]["ISCS"].update(samples=2), tree["flags"].update({"sino-noise": 1e5})),
     "variants.ISCS: 2 samples of a measurement with --sino-noise 100000.0: the seed draws that noise too"),
    (lambda tree: (tree["variants"]["ISCS"].update(samples=2), tree.update(keep=["IR.nii.gz"])), "keep: GT.nii.gz"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_a_bad_grid_is_one_line_and_status_2(study, capsys, monkeypatch, spoil, reason):
    monkeypatch.delenv("UNSET_DATA", raising=False)
    spoil(study.tree)
    with pytest.raises(SystemExit) as stop:
        study.run()
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.out == "" and said.err.count("\n") == 1
    assert "grid.yaml: " in said.err and reason in said.err
    assert not study.output.exists() and not study.calls("begin")


@pytest.mark.parametrize("name, value, reason", [
    ("nfe", 5, "variants.ISCS.flags.nfe: unknown flag; the nearest is NFE"),
    ("noise-controll", "SLERP", "variants.ISCS.flags.noise-controll: unknown flag; the nearest is noise-control"),
    ("quiet", True, "variants.ISCS.flags.quiet: unknown flag"), ("help", True, "flags.help: unknown flag"),
    ("zzz", 1, "variants.ISCS.flags.zzz: unknown flag; accepted: "), ("NFE", 5, None)])
def test_flags_that_the_program_has_not_are_refused_before_any_run(study, name, value, reason):
    del study.tree["modalities"], study.tree["flags"]
    study.tree["variants"]["ISCS"]["flags"] = {name: value}
    if reason is None:
        assert len(read_grid(study.grid(), ROOT).cells) == 2
        return
    with pytest.raises(ValueError, match=reason):
        read_grid(study.grid(), ROOT)


def test_a_flag_of_ct_alone_is_refused_for_mr(study):
    del study.tree["modalities"]
    study.tree["flags"] = {"weights": "poisson"}
    del study.tree["variants"]["ISCS"]["flags"]["level"]
    assert len(read_grid(study.grid(), ROOT).cells) == 2
    study.tree["volumes"]["head"] = study.tree["volumes"]["chest"] | {"modality": "MR"}
    del study.tree["volumes"]["head"]["size"]
    study.tree["tasks"]["ZSR-4"] = {"task": "ZSR", "degree": 4}
    with pytest.raises(ValueError, match="grid.yaml: flags.weights: unknown flag"):
        read_grid(study.grid(), ROOT)


def test_numbers_in_a_grid_are_decimal(study):
    text = study.grid()
    Path(text).write_text(Path(text).read_text().replace("degree: 20", "degree: 020").replace("level: 20", "level: 1e1"))
    assert {(cell.flags["degree"], cell.flags["level"]) for cell in read_grid(text, ROOT).cells} == {("20", "10.0"), (
        "20", "30.5")}
    for wrong in ("0x14", "0b11", "7:00", "1_0"):
        Path(text).write_text(yaml.safe_dump(study.tree).replace("degree: 20", f"degree: {wrong}"))
        with pytest.raises(ValueError, match=f"tasks.SVCT-20.degree: '{wrong}'; accepted: a whole number of 1 or more"):
            read_grid(text, ROOT)


@pytest.mark.parametrize("text, reason", [
    ("seeds: [1", "not a YAML file"), ("- a", "['a']; accepted: a section with the keys volumes"), ("", "None; accepted: a section with the keys volumes"),
    ("seeds: [1]\nseeds: [2]", "the key 'seeds' stands twice"), ("[1]: 2", "not a YAML file"),
    ("variants:\n  a: {flags: {b: 1, b: 2}}", "line 2: the key 'b' stands twice"),
])
def test_a_file_that_is_no_grid(tmp_path, capsys, text, reason):
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(SystemExit) as stop:
        evaluate.main([str(tmp_path / "grid.yaml")])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and reason in said and said.count("\n") == 1


@pytest.mark.parametrize("name", ["demo", "evidence"])
def test_the_grids_of_the_repository(tmp_path, monkeypatch, name):
    for scan in ("ct/chest_LIDC-IDRI-0314", "ct/trunk_3mm", "mr/T1_stroke_brain"):
        (tmp_path / scan).parent.mkdir(exist_ok=True)
        (tmp_path / f"{scan}.nii.gz").touch()
    monkeypatch.setenv("ISCS_DATA", str(tmp_path))
    grid = read_grid(ROOT / "configs" / "evaluation" / f"{name}.yaml", ROOT)
    assert grid.baseline == "independent"
    assert all(cell.against or cell.variant.startswith("independent") for cell in grid.cells)
    assert all(cell.flags["noise-control"] in ("None", "SLERP", "shared", "GP", "zero") for cell in grid.cells
               if cell.flags.get("method") != "ADMM-TV")
