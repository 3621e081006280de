"""Files: what is called after them stays below the folder it was meant for."""
from pathlib import Path

import pytest

from utils.io.files import plain_name


@pytest.mark.parametrize("name, plain", [
    ("scan.nii.gz", "scan"), ("a/b/Scan.NII", "Scan"), ("v1.2.nii.gz", "v1.2"), ("views.tiff", "views"),
    ("prior.yaml", "prior"), ("..yaml", "yaml"), ("...nii.gz", "nii.gz"), (".nii", "nii"), (".hidden.npy", "hidden"),
    ("1.3.6.9590.1", "1.3.6.9590.1"), ("/", "unnamed"), ("Sch\udce4del.nii", "Sch_del"), ("Schädel.nii", "Schädel"),
    ("two\nlines.mha", "two_lines")])
def test_names_of_results(name, plain):
    assert plain_name(name) == plain


def test_a_folder_keeps_its_whole_name(tmp_path, monkeypatch):
    (tmp_path / "scan.nii").mkdir()
    (tmp_path / "1.2.840.1").mkdir()
    monkeypatch.chdir(tmp_path / "1.2.840.1")
    assert plain_name(tmp_path / "scan.nii") == "scan.nii"
    assert plain_name("..") == tmp_path.name and plain_name(".") == plain_name(Path()) == "1.2.840.1"
