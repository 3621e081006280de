"""The state of an interrupted run: kept rarely enough, given back whole, refused when it is not what was kept."""
import pytest
import torch

from utils.run import resume
from utils.run.resume import StateFile

STATE = {"level": 3, "x": torch.arange(24.0).reshape(2, 1, 3, 4), "generator": torch.Generator().get_state(),
         "data_step": {"split": None, "mask": torch.ones(2, dtype=torch.bool)}, "history": [{"level": 0, "sigma": 0.5}]}


def same(a, b):
    if torch.is_tensor(a):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return a == b


def test_a_state_comes_back_as_it_was(tmp_path):
    file = StateFile(tmp_path / "state.pt", "the run")
    assert file.read() is None
    file.keep(lambda: STATE)
    assert same(file.read(), STATE) and same(StateFile(tmp_path / "state.pt", "the run").read(), STATE)
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def changed(**values):
    return lambda state: state.update(values)


@pytest.mark.parametrize("damage", [
    lambda state: state.pop("x"), lambda state: state.pop("generator"), lambda state: state.pop("digest"),
    changed(level=99), changed(level="3"), changed(x=STATE["x"][:1]), changed(x=STATE["x"].reshape(1, 2, 3, 4)),
    changed(x=torch.full((2, 1, 3, 4), torch.nan)), changed(x=STATE["x"].double()), changed(x=None), changed(history=3),
    changed(data_step={"split": torch.zeros(1)}), changed(digest=None), changed(more=1)])
def test_a_state_that_is_not_what_was_kept_is_refused(tmp_path, damage):
    path = tmp_path / "state.pt"
    StateFile(path, "the run").keep(lambda: STATE)
    state = torch.load(path, weights_only=True)
    damage(state)
    torch.save(state, path)
    with pytest.raises(ValueError, match=f"^{path}: damaged") as caught:
        StateFile(path, "the run").read()
    assert "\n" not in str(caught.value)


def test_the_state_of_another_run_is_refused(tmp_path):
    StateFile(tmp_path / "state.pt", "the run").keep(lambda: STATE)
    with pytest.raises(ValueError, match="state.pt: damaged, or not the state of this run"):
        StateFile(tmp_path / "state.pt", "another run").read()


@pytest.mark.parametrize("cut", [0, 1, 100, 0.5, 0.99])
def test_a_file_that_is_cut_is_refused(tmp_path, cut):
    path = tmp_path / "state.pt"
    StateFile(path, "the run").keep(lambda: STATE)
    content = path.read_bytes()
    path.write_bytes(content[:cut if isinstance(cut, int) else int(cut * len(content))])
    with pytest.raises(ValueError, match="state.pt"):
        StateFile(path, "the run").read()


def test_keeping_the_state_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    """Levels of a second, and a disk that takes 0.09 s for a state."""
    clock, kept = [0.0], []

    def slow_disk(path, content):
        clock[0] += 0.09
        kept.append(content["level"])

    monkeypatch.setattr(resume, "save_tensors", slow_disk)
    monkeypatch.setattr(resume.time, "perf_counter", lambda: clock[0])
    file, made = StateFile(tmp_path / "state.pt", ""), []
    for level in range(1, 17):
        clock[0] += 1
        file.keep(lambda level=level: made.append(level) or STATE | {"level": level})
    assert kept == made == [1, 6, 11, 16]
