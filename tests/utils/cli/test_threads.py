"""Threads: as many as the process may use, as many as are asked for, and asleep while they wait."""
import os
import subprocess
import sys

import pytest

from utils.cli import threads
from utils.cli.flags import ROOT
from utils.cli.threads import usable_cores, use_threads


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Four cores of two threads each, without a limit; returns the folder of its control groups."""
    for cpu in range(8):
        (tmp_path / f"cpu{cpu}/topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}/topology/thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    monkeypatch.setattr(threads, "CPUS", tmp_path)
    monkeypatch.setattr(threads, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(threads, "OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    (tmp_path / "own").write_text("0::/user/job\n")
    (tmp_path / "cgroup/user/job").mkdir(parents=True)
    return tmp_path / "cgroup"


def test_two_threads_of_a_core_count_once_and_other_cores_not_at_all(machine, monkeypatch):
    assert usable_cores() == 4
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 2, 5})
    assert usable_cores() == 2


@pytest.mark.parametrize("place, text, cores", [
    ("cpu.max", "150000 100000", 2), ("user/cpu.max", "50000 100000", 1), ("user/job/cpu.max", "300000 100000", 3),
    ("user/job/cpu.max", "max 100000", 4), ("user/job/cpu.max", "900000 100000", 4), ("user/job/cpu.max", "?", 4)])
def test_the_limit_of_a_container_counts_at_every_level(machine, place, text, cores):
    (machine / place).write_text(text + "\n")
    assert usable_cores() == cores


@pytest.mark.parametrize("quota, cores", [(200_000, 2), (-1, 4)])
def test_the_limit_of_an_older_container(machine, quota, cores):
    (machine / "cpu").mkdir()
    (machine / "cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
    (machine / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores() == cores


def test_a_system_that_does_not_say(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert usable_cores() is None


@pytest.mark.parametrize("given, variable, number", [(None, None, "4"), (None, "3", "3"), (2, "3", "2")])
def test_the_flag_comes_before_the_variable_and_that_before_the_cores(machine, monkeypatch, given, variable, number):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "torch")
    for name, value in (("OMP_NUM_THREADS", variable), ("OMP_WAIT_POLICY", None)):
        monkeypatch.setenv(name, value or "")
        if value is None:
            monkeypatch.delenv(name)
    use_threads(given)
    assert os.environ["OMP_NUM_THREADS"] == number and os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_pytorch_takes_it():
    code = "from utils.cli.threads import use_threads; use_threads(1); import torch; print(torch.get_num_threads())"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
                           env=os.environ | {"OMP_NUM_THREADS": "2"})
    assert found.stdout == "1\n"
