"""Where a run's folder is, that it never leaves the output folder, and that it belongs to one process."""
import subprocess
import sys
from pathlib import Path

import pytest

from utils.io.files import ROOT, plain_name
from utils.run import folder
from utils.run.folder import new_folder, noise_label, owned, parent_folder, prior_name, run_folder


def test_the_folder_names_what_was_run(options, tmp_path):
    results = tmp_path / "results"
    assert parent_folder(options(), "ct") == results / "prior/scan/CBCT/SVCT-20/DDS/clean"
    noisy = options(sino_noise=1e4, config_path=None)
    assert parent_folder(noisy, "mr") == results / "no-prior/scan/SVCT-20/DDS/poisson-10000"
    measured = options(projections=Path("p/scan 7.npy"), degree=None, data=None)
    assert parent_folder(measured, "ct") == results / "prior/scan 7/CBCT/all-views/DDS/measured"


@pytest.mark.parametrize("data", ["..", ".", "../..", "a/..yaml", "a/...nii.gz", "a/.nii", "/", "a/.."])
@pytest.mark.parametrize("config", ["c/..yaml", "c/...yaml", "c/.yaml"])
def test_no_name_of_a_file_leads_out_of_the_output_folder_or_to_another_level(options, tmp_path, data, config):
    parent = parent_folder(options(data=Path(data), config_path=Path(config)), "ct")
    results = tmp_path / "results"
    assert parent.resolve() == parent and len(parent.relative_to(results).parts) == 6


def test_endings_are_taken_off_where_they_are_known():
    names = ("x.nii.gz", "x.NII", "x.1.npy", "a/x.9590.1", "x.9590.2", "x.tiff", "x.y")
    assert [plain_name(Path(name)) for name in names] == ["x", "x", "x.1", "x.9590.1", "x.9590.2", "x", "x.y"]


def test_priors_of_one_config_do_not_share_a_folder(options):
    def name(weights, config="c/prior.yaml"):
        return prior_name(options(config_path=Path(config), checkpoint_path=Path(weights)))

    assert name(ROOT / "demo/prior_CT_128.pth", "configs/ve/demo_CT_128.yaml") == "demo_CT_128"
    assert name("c/prior.pth") == "prior"
    mine = [name("lung/checkpoint.pth"), name("head/checkpoint.pth"), name("head/other.pth")]
    assert mine == ["prior+lung-checkpoint", "prior+head-checkpoint", "prior+head-other"]


def test_two_runs_in_the_same_second_do_not_share_a_folder(tmp_path):
    assert len({new_folder(tmp_path) for _ in range(5)}) == 5


def test_latest_leads_to_the_run_that_began_last(options, tmp_path):
    for _ in range(2):
        found = run_folder(options(), "ct")
        assert (tmp_path / "results/latest").resolve() == found and found.is_relative_to(tmp_path / "results/prior")
    (tmp_path / "results/latest").unlink()
    (tmp_path / "results/latest").write_text("mine")
    run_folder(options(), "ct")
    assert (tmp_path / "results/latest").read_text() == "mine"


def test_a_folder_of_ones_own_is_used_as_it_is_when_nothing_is_in_it(options, tmp_path):
    wanted = tmp_path / "a" / "b"
    for _ in range(2):
        assert run_folder(options(output=wanted), "ct") == wanted and wanted.is_dir()
    assert not (tmp_path / "results").exists()
    (wanted / "mine").touch()
    with pytest.raises(ValueError, match="b: there are files in it"):
        run_folder(options(output=wanted), "ct")


@pytest.mark.parametrize("level, label", [(0, "clean"), (0.5, "gaussian-0.5"), (99.0, "gaussian-99"),
                                          (100.0, "poisson-100"), (1e5, "poisson-100000")])
def test_noise_labels(level, label):
    assert noise_label(level) == label


HOLDER = """
import sys
from pathlib import Path
from utils.run.folder import owned
with owned(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_belongs_to_one_process_and_to_nobody_when_that_is_killed(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        writing = tmp_path / ".partial-7-recon.nii.gz"
        writing.write_text("half of a volume")
        with pytest.raises(ValueError, match=f"{tmp_path}: another process is at work"), owned(tmp_path):
            pass
        assert writing.exists()             # of the process that is at work
    finally:
        other.kill()
        other.communicate()
    with owned(tmp_path):
        assert not writing.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(folder.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folder.fcntl, "flock", refuse)
    with owned(tmp_path):
        pass
    monkeypatch.setattr(folder, "fcntl", None)
    with owned(tmp_path):
        pass
