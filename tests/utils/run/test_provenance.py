"""What args.yaml records, and that a run is not repeated with other files unseen."""
import os
from pathlib import Path

import pytest
import torch
import yaml

from utils.io.files import program_digest
from utils.run.provenance import record


def test_settings_versions_machine_and_digests_are_recorded(options):
    given = options(nothing=None, geometry=Path("c/prior.yaml"))
    settings = record(given, "cpu")
    assert settings["degree"] == 20 and settings["data"] == str(Path("a/scan.nii.gz").absolute())
    assert settings["device"] == "cpu" and given.device == "auto" and settings["nothing"] is None
    assert not {"resume", "source", "debug", "verbosity"} & settings.keys()
    assert settings["versions"]["torch"] == str(torch.__version__) and settings["machine"]["gpu"] is None
    assert set(settings["digests"]) == {"data", "config_path", "geometry"}
    assert list(settings)[-3:] == ["digests", "versions", "machine"]
    assert yaml.safe_load(yaml.safe_dump(settings)) == settings


def test_the_program_is_the_code_of_all_rooms_that_runs_use_and_no_other(tmp_path):
    for name in ("recon_CBCT.py", "recon_MRI_ZSR.py", "train.py", "algorithms/noise/new.py", "op/fdk.cu",
                 "utils/io/a.py", "utils/train/head.py", "utils/train/a.py", "models/notes.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    changes = {}
    for file in sorted(path for path in tmp_path.rglob("*") if path.is_file()):
        before = program_digest(tmp_path)
        file.write_text("2")
        changes[str(file.relative_to(tmp_path))] = program_digest(tmp_path) != before
    assert [name for name, changed in changes.items() if changed] == [
        "algorithms/noise/new.py", "op/fdk.cu", "recon_CBCT.py", "recon_MRI_ZSR.py", "utils/io/a.py"]
    assert len(program_digest()) == 12


def test_a_file_that_changed_since_is_refused_and_another_version_is_said(options, tmp_path, caplog):
    source = tmp_path / "args.yaml"
    settings = record(options(), "cpu")
    source.write_text(yaml.safe_dump(settings | {"versions": {"torch": "1.0"}}))
    record(options(source=source), "cpu")
    assert "made with other versions, so voxels may differ by rounding: torch 1.0; now program" in caplog.text
    Path("a/scan.nii.gz").write_text("another scan")
    with pytest.raises(ValueError, match=r"^\S+a/scan.nii.gz: its content has changed since \S+args.yaml was written"):
        record(options(source=source), "cpu")


@pytest.mark.parametrize("text", ["", "3", "digests:", "digests: 3", "[" * 3000, "digests: {data: 1", "a: &a [*a]"])
def test_a_damaged_args_yaml_is_one_line_that_names_it(options, tmp_path, text):
    source = tmp_path / "args.yaml"
    source.write_text(text)
    with pytest.raises(ValueError, match="args.yaml") as caught:
        record(options(source=source), "cpu")
    assert "\n" not in str(caught.value)


def test_names_that_are_not_utf_8_can_be_recorded(options, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    Path(os.fsdecode(os.fsencode(folder) + b"/Sch\xe4del.dcm")).write_text("slice")
    settings = record(options(data=folder), "cpu")
    assert len(settings["digests"]["data"]) == 64
    odd = Path(os.fsdecode(b"a/Sch\xe4del.nii.gz"))
    odd.write_text("content")
    settings = record(options(data=odd), "cpu")
    assert yaml.safe_load(yaml.safe_dump(settings))["data"] == settings["data"] == str(odd.absolute())
