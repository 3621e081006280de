"""Which device computes, and where the volumes stay."""
import pytest
import torch

from utils.run.device import choose_device, compiler, peak_memory, volumes_device


@pytest.mark.parametrize("name", ["tpu", "cuda:x", "cuda:-1", "cuda:", "cuda:99", "cuda:²", "CPU", ""])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(ValueError, match=f"device '{name}'"):
        choose_device(name)


@pytest.mark.parametrize("found, expected", [(False, "cpu"), (True, "cuda:3")])
def test_auto_takes_cuda_where_it_is(monkeypatch, found, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4 * found)
    assert choose_device("auto", 3) == torch.device(expected)
    assert choose_device("cpu", 3) == torch.device("cpu")


@pytest.mark.parametrize("free, expected", [(8000, "cuda:1"), (7999, "cpu")])
def test_volumes_that_would_fill_a_gpu_stay_on_the_host(monkeypatch, caplog, free, expected):
    """1000 numbers are 4000 bytes: they may take half of what is free."""
    caplog.set_level("INFO")
    asked = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: asked.append(device) or (free, 10**6))
    assert volumes_device(torch.device("cuda:1"), 1000) == torch.device(expected)
    assert asked == [torch.device("cuda:1")]
    assert ("volumes stay in the host's memory" in caplog.text) == (expected == "cpu")
    assert volumes_device(torch.device("cpu"), 10**15) == torch.device("cpu")


def test_the_peak_of_memory_is_in_words():
    assert peak_memory().endswith(" GB") and 0.05 < float(peak_memory().split()[0]) < 1000


def test_what_a_compiler_of_the_network_lacks_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(ValueError, match=r"there is no no-such-compiler \(or CXX\)"):
        compiler(torch.device("cpu"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package triton"):
        compiler(torch.device("cuda"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("shutil.which", lambda name: name)
    assert compiler(torch.device("cpu")) == compiler(torch.device("cuda")) == "inductor"
