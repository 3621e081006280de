"""Records of runs: nothing but a run's own folder is ever removed, and a file that is no record is one line."""
import json
import os

import pytest

from utils.evaluation.records import Record, Records, folder_name

KEY = "0123456789abcdef"
DONE = {"state": "done", "name": "chest", "folder": f"runs/chest-{KEY}", "seconds": 3, "peak_memory_gb": 0.5,
        "metrics": {"recon": {"psnr": 30.0, "ssim": None, "axial": {"psnr": 1}}}}


@pytest.fixture
def output(tmp_path):
    """An evaluation's folder with a run that is done, and things beside it that are somebody's."""
    output = tmp_path / "output"
    for folder in (f"output/runs/chest-{KEY}", "output/runs/mine", "precious", f"precious/chest-{KEY}"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file").touch()
    return output


def record(output, tree, key=KEY):
    (output / "records").mkdir(exist_ok=True)
    (output / "records" / f"{key}.json").write_text(tree if isinstance(tree, str) else json.dumps(tree))


def everything(output):
    return sorted(str(path) for path in output.parent.rglob("*"))


@pytest.mark.parametrize("state", ["running", "failed", "done"])
@pytest.mark.parametrize("folder", [
    "../precious", "../precious/chest-{key}", "runs/../../precious/chest-{key}", "{output}/../precious",
    "{output}/runs/chest-{key}", ".", "", "..", "records/..", "runs", "runs/", "runs/.", "runs/..", "runs/mine",
    "records",
    "runs/chest-{key}/..", "runs/chest-{key}/", "runs//chest-{key}", "./runs/chest-{key}", "runs/a/../chest-{key}",
    "other/chest-{key}", "runs/chest-{other}", "runs/chest-{key}\n", "runs\\chest-{key}", "~", "/", "runs/-{key}x"])
def test_a_record_that_names_another_folder_is_refused_and_nothing_removed(output, folder, state):
    folder = folder.format(key=KEY, other=KEY[::-1], output=output)
    record(output, DONE | {"state": state, "folder": folder})
    before = everything(output)
    with pytest.raises(ValueError, match=f"{KEY}.json: not a record .*remove it to do that run again$") as error:
        Records(output).tidy()
    assert "\n" not in str(error.value) and everything(output) == before


@pytest.mark.parametrize("place", ["runs", "run", "outside"])
def test_no_link_is_followed(output, place):
    run, precious = output / "runs" / f"chest-{KEY}", output.parent / "precious"
    if place == "runs":         # the folder of all runs is a link
        (output / "runs").rename(output / "elsewhere")
        (output / "runs").symlink_to(precious)
    else:                       # that of the run is
        (run / "file").unlink()
        run.rmdir()
        run.symlink_to(precious if place == "outside" else output / "runs" / "mine")
    record(output, DONE | {"state": "running"})
    before = everything(output)
    with pytest.raises(ValueError, match="not a record"):
        Records(output).tidy()
    assert everything(output) == before


def test_a_link_that_appears_later_is_not_followed_either(output):
    record(output, DONE)
    records = Records(output)
    (output / "runs").rename(output / "elsewhere")
    (output / "runs").symlink_to(output.parent / "precious")
    for remove in (records.discard, lambda key: records.begin(key, Record(**DONE))):
        with pytest.raises(ValueError, match="folder: "):
            remove(KEY)
    assert (output.parent / "precious" / f"chest-{KEY}" / "file").exists()


def test_what_was_left_half_done_is_removed_and_nothing_else(output):
    record(output, DONE | {"state": "running"})
    record(output, DONE | {"folder": "runs/mine-2"}, "2")
    (output / "records" / ".partial-1-x.json").touch()
    (output / ".partial-1-results.md").touch()
    (output.parent / "precious" / ".partial-1-x").touch()
    (output / "means").symlink_to(output.parent / "precious")
    (output / "runs" / f"chest-{KEY}" / "link").symlink_to(output.parent / "precious")
    Records(output).tidy()
    assert not (output / "runs" / f"chest-{KEY}").exists() and (output / "runs" / "mine" / "file").exists()
    assert os.listdir(output / "records") == ["2.json"] and not list(output.glob(".partial-*"))
    assert (output.parent / "precious" / "file").exists() and (output.parent / "precious" / ".partial-1-x").exists()


def test_a_link_to_the_evaluation_is_no_obstacle(output):
    record(output, DONE | {"state": "running"})
    (output.parent / "link").symlink_to(output)
    Records(output.parent / "link").tidy()
    assert not (output / "runs" / f"chest-{KEY}").exists()


def test_a_run_begins_in_an_empty_folder_also_where_its_record_was_removed(output):
    records = Records(output)
    folder = records.begin(KEY, Record(state="running", name="chest", folder=f"runs/chest-{KEY}"))
    assert folder == output / "runs" / f"chest-{KEY}" and not os.listdir(folder)
    assert Records(output).known == records.known


def test_a_record_comes_back(output):
    record(output, DONE)
    records = Records(output)
    done = records.done(KEY)
    assert done.metrics == DONE["metrics"] and done.summary == "30.00 dB, 3 s, 0.50 GB"
    assert records.result(KEY) == output / "runs" / f"chest-{KEY}"
    records.write(KEY, done)
    assert Records(output).known == {KEY: done}


@pytest.mark.parametrize("tree", [
    "", "{", "{}", "3", "[]", "null", '"done"', "[" * 100_000, "\udcff", DONE | {"state": "lost"}, DONE | {"state": 3},
    DONE | {"metrics": None}, DONE | {"metrics": {}}, DONE | {"metrics": {"recon": 3}}, DONE | {"seconds": "3"},
    DONE | {"metrics": {"recon": {"psnr": "30"}}}, DONE | {"metrics": {"recon": {"psnr": True}}},
    DONE | {"metrics": {"recon": {"axial": 3}}}, DONE | {"metrics": {"recon": {}, "IR": {"coronal": {"ssim": []}}}},
    DONE | {"folder": None}, DONE | {"folder": 3}, DONE | {"command": "rm"}, DONE | {"peak_memory_gb": float("nan")},
    DONE | {"result": 3}, DONE | {"more": 1}, {key: value for key, value in DONE.items() if key != "seconds"}],
    ids=range(26))
def test_a_file_that_is_no_record_is_one_line(output, tree):
    (output / "records").mkdir()
    text = tree if isinstance(tree, str) else json.dumps(tree)
    (output / "records" / f"{KEY}.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=f"{KEY}.json: not a record .*remove it to do that run again$") as error:
        Records(output)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize("name", ["x" * 300, "é" * 300, "..", "../..", "a/b", "\U0001f600 & <b>", "-rf", "a\\b"])
def test_any_name_of_a_volume_makes_a_folder(output, name):
    records = Records(output)
    folder = records.begin(KEY, Record(state="running", name=name, folder=folder_name("runs", name, KEY)))
    assert folder.parent == output / "runs" and folder.is_dir() and len(folder.name) < 130
    records.discard(KEY)
    assert not folder.exists()
