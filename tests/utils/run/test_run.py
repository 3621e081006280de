"""A run: volumes in the input's units and place, metrics, what an interruption leaves, how it ends."""
import json

import numpy as np
import pytest
import torch
import yaml

from utils.io.read import read_volume
from utils.run.run import NotFinite

SHAPE = (12, 1, 16, 14)


def test_volumes_are_in_the_inputs_units_and_place(make_run, capsys):
    truth = torch.rand(SHAPE)
    with make_run(no_report=False) as run:
        run.save("GT", truth)
        run.save("recon", truth + 0.01)
        run.finish()
    saved = read_volume(run.folder / "GT.nii.gz")
    assert np.allclose(saved.array, truth[:, 0] * 2600 - 1000, atol=1e-3)
    assert (saved.spacing, saved.origin) == (run.template.spacing, run.template.origin)
    metrics = json.loads((run.folder / "metrics.json").read_text())
    assert list(metrics) == ["recon"]
    assert set(metrics["recon"]) == {"psnr", "ssim", "inter_slice_error", "sharpness", "axial", "coronal", "sagittal"}
    assert metrics["recon"]["psnr"] == pytest.approx(40, abs=0.1)
    assert capsys.readouterr().out.splitlines()[-1] == str(run.folder)
    assert sorted(p.name for p in run.folder.iterdir()) == ["GT.nii.gz", "args.yaml", "metrics.json", "panel.png",
                                                            "recon.nii.gz", "report.html"]
    assert yaml.safe_load((run.folder / "args.yaml").read_text()) == run.settings


def test_no_report_where_none_is_wanted(make_run):
    with make_run(no_report=True) as run:
        run.save("recon", torch.rand(SHAPE))
        run.finish()
    assert sorted(p.name for p in run.folder.iterdir()) == ["args.yaml", "panel.png", "recon.nii.gz"]


@pytest.mark.parametrize("wanted", [False, True])
def test_intermediates_only_on_request(make_run, caplog, wanted):
    caplog.set_level("INFO")
    with make_run(save_intermediates=wanted) as run:
        run.begin(2, "noise levels")
        for level in range(2):
            run.estimate(level, torch.zeros(SHAPE), sigma=1 / (level + 1))
    found = sorted(p.name for p in run.folder.glob("level-*"))
    assert found == (["level-0001.nii.gz", "level-0002.nii.gz"] if wanted else [])
    assert "noise levels: 2 of 2, sigma 0.5" in caplog.text     # not a terminal: lines, no bar
    assert run.history == [{"level": 0, "sigma": 1.0}, {"level": 1, "sigma": 0.5}]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_run_ends_at_the_level_that_is_not_finite(make_run, value):
    x0 = torch.zeros(SHAPE)
    x0[3, 0, 5, 5] = value
    with pytest.raises(NotFinite, match="^the estimate of level 3 is not finite.*$") as caught, make_run() as run:
        run.begin(5, "noise levels")
        run.estimate(1, torch.full(SHAPE, 1e30))
        run.estimate(2, x0)
    assert not hasattr(caught.value, "run_folder")      # going on would end there again
    with pytest.raises(NotFinite, match="^SIRT of the views used is not finite"), make_run() as run:
        run.save("IR", x0)
    assert not (run.folder / "IR.nii.gz").exists()


def interrupted(make_run):
    """A run that ended after its second level; its state has level 2."""
    with pytest.raises(KeyboardInterrupt) as caught, make_run() as run:
        assert run.kept() is None
        run.begin(4, "noise levels")
        for level in range(2):
            run.estimate(level, torch.zeros(SHAPE), 0.5, 0.1)
            run.keep(lambda level=level: {"level": level + 1, "x": torch.ones(SHAPE)})
            run.state.due = 0
        raise KeyboardInterrupt
    assert caught.value.run_folder == run.folder
    return run


def test_a_run_goes_on_where_it_was_interrupted(make_run, caplog, capsys):
    caplog.set_level("INFO")
    first = interrupted(make_run)
    (first.folder / ".partial-1-recon.nii.gz").write_text("half")
    settings = (first.folder / "args.yaml").read_bytes()
    with make_run(resume=first.folder, source=first.folder / "args.yaml") as run:
        state = run.kept()
        assert run.folder == first.folder and not (run.folder / ".partial-1-recon.nii.gz").exists()
        assert list(state) == ["level", "x"] and state["level"] == 2 and torch.equal(state["x"], torch.ones(SHAPE))
        assert run.history == first.history and "going on at level 3" in caplog.text
        run.begin(4, "noise levels")
        run.estimate(2, torch.zeros(SHAPE), 0.5, 0.1)
        run.estimate(3, torch.zeros(SHAPE), 0.5, 0.1)
        run.save("recon", torch.rand(SHAPE))
        run.finish()
    assert len(run.history) == 4 and not (run.folder / "state.pt").exists()
    assert (run.folder / "args.yaml").read_bytes() == settings
    with pytest.raises(ValueError, match=f"^{run.folder}: that run is complete"):
        make_run(resume=run.folder)


def test_a_damaged_state_is_found_before_anything_is_computed(make_run):
    first = interrupted(make_run)
    state = torch.load(first.folder / "state.pt", weights_only=True)
    torch.save(state | {"level": 99}, first.folder / "state.pt")
    with pytest.raises(ValueError, match=f"^{first.folder}/state.pt: damaged"):
        make_run(resume=first.folder)


def test_a_second_process_in_a_folder_is_refused_and_the_folder_free_afterwards(make_run):
    first = interrupted(make_run)
    busy = pytest.raises(ValueError, match=f"^{first.folder}: another process is at work")
    with make_run(resume=first.folder), busy:
        make_run(resume=first.folder)
    with make_run(resume=first.folder) as run:
        assert run.kept() is not None


def test_an_error_after_the_end_does_not_ask_to_go_on(make_run):
    with pytest.raises(OSError) as caught, make_run() as run:
        run.save("recon", torch.rand(SHAPE))
        run.finish()
        raise OSError("a pipe that nobody reads")
    assert not hasattr(caught.value, "run_folder")


def test_the_options_are_not_changed(make_run, options):
    given = options()
    before = dict(vars(given))
    with make_run(options=given) as run:
        run.save("recon", torch.rand(SHAPE))
        run.finish()
    assert vars(given) == before
