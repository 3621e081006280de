"""Grids of runs: all of them, each once, also after a kill; the numbers of the tables; what is never removed.

The runs are those of a small script that answers like an entry point.
"""
import csv
import json
import os
import signal
import subprocess
import sys
import time
from statistics import stdev

import numpy as np
import pytest
import torch

import evaluate
from tests.study import ENTRY, Study
from utils.io.nifti import write_volume
from utils.io.read import read_volume
from utils.io.volume import Volume
from utils.run.folder import owned
from utils.run.metrics import evaluate as quality

pytest.importorskip("distributed", reason="needs Dask: pip install -r requirements.txt")


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


@pytest.fixture
def by_hand(tmp_path):
    """A scheduler and two workers, started as a user does; (address, workers)."""
    file, programs = tmp_path / "scheduler.json", []

    def start(name, *flags):
        programs.append(subprocess.Popen([sys.executable, "-m", f"distributed.cli.dask_{name}", "--no-dashboard",
                                          "--scheduler-file", str(file), *flags], stderr=subprocess.DEVNULL))
        return programs[-1]

    start("scheduler", "--host", "127.0.0.1", "--port", "0")
    workers = [start("worker", "--nthreads", "1", "--no-nanny", "--local-directory", str(tmp_path)) for _ in range(2)]
    while not file.exists() or not file.read_text().endswith("}"):
        time.sleep(0.05)
    yield json.loads(file.read_text())["address"], workers
    for program in programs:
        program.kill()
        program.wait()


def test_workers_started_by_hand_join_and_the_run_of_a_killed_one_is_done_again(study, by_hand):
    address, workers = by_hand
    study.hold(*ALL)
    process = study.start("--scheduler", address)
    study.wait(*ALL[:2])                                # both workers are at it
    workers[0].kill()
    time.sleep(0.3)
    study.release()
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0 and f"0 of them done, on {address}" in said
    assert sorted(study.calls("end")) == ALL and len(study.calls("begin")) == len(ALL) + 1
    assert study.rows()["ISCS"]["psnr_difference"] == 10.5


def test_a_scheduler_that_is_not_there_is_one_line(study, capsys, monkeypatch):
    monkeypatch.setattr("utils.evaluation.scheduler.PATIENCE", 1)
    with pytest.raises(SystemExit) as stop:
        study.run("--scheduler", "tcp://127.0.0.1:9")
    assert stop.value.code == 2 and "tcp://127.0.0.1:9" in capsys.readouterr().err and not study.calls("begin")


def test_two_evaluations_do_not_share_a_folder(study, capsys):
    study.output.mkdir()
    with owned(study.output), pytest.raises(SystemExit) as stop:
        study.run()
    assert stop.value.code == 2 and "another process is at work" in capsys.readouterr().err
    assert not study.calls("begin")


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
    """Voxels against NumPy in float64, 1e-6 of the range; metrics against those of the unit range, 1e-4.

    The input is not read again, whichever of its series and intensities the runs took: here it is no volume.
    """
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
        (folder / "args.yaml").write_text(f"intensities: {{low: {window[0]}, high: {window[1]}}}")
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


@pytest.mark.parametrize("settings, reason", [
    ("", "intensities: None; accepted: a section with the keys low, high"), ("3", "intensities: None"),
    ("intensities: {low: 3}", "intensities.high: missing"), ("intensities: [1, 2]", "intensities: "),
    ("[", "not a YAML file"), (None, "args.yaml")])
def test_a_mean_needs_the_intensities_that_the_runs_recorded(study, settings, reason):
    for seed in (1, 2):
        folder = study.folder / "prepared" / str(seed)
        folder.mkdir(parents=True)
        for name in ("GT", "recon"):
            write_volume(folder / f"{name}.nii.gz", Volume(np.zeros((2, 12, 12), np.float32)))
        (folder / "metrics.json").write_text('{"recon": {"psnr": 1.0}}')
        if settings is not None:
            (folder / "args.yaml").write_text(settings)
    study.tree |= {"seeds": [1, 2], "flags": {"prepared": str(study.folder / "prepared")},
                   "variants": {"a": {"samples": 2}}}
    assert study.run() == 1
    (failure,) = json.loads((study.output / "results.json").read_text())["failures"]
    assert "mean of 2" in failure and reason in failure


def test_metrics_of_a_mean_that_could_not_be_compared_are_refused(study):
    for seed in (1, 2):
        folder = study.folder / "prepared" / str(seed)
        folder.mkdir(parents=True)
        volume = np.random.default_rng(seed).random((12, 12, 12), dtype=np.float32)
        write_volume(folder / "GT.nii.gz", Volume(volume))
        write_volume(folder / "recon.nii.gz", Volume(volume + 0.1 * volume**2))
        (folder / "args.yaml").write_text("intensities: {low: -1000, high: 1600}")
        metrics = quality(torch.from_numpy(volume + 0.1 * volume**2), torch.from_numpy(volume))    # not in HU
        (folder / "metrics.json").write_text(json.dumps({"recon": metrics}))
    study.tree |= {"seeds": [1, 2], "flags": {"prepared": str(study.folder / "prepared")}}
    assert study.run("--samples", 2) == 1
    failures = json.loads((study.output / "results.json").read_text())["failures"]
    assert len(failures) == 2 and "mean of 2" in failures[0] and "would not be comparable" in failures[0]
