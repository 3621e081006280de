"""Building on first use: where the library goes, who waits for whom, and what happens when it fails."""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from op import build
from op.upfirdn2d import upfirdn2d

ROOT = Path(__file__).resolve().parents[2]
COMPILER = os.environ.get("CXX", "c++")
needs_compiler = pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"no C++ compiler ({COMPILER})")
CPU = ("upfirdn2d_cpu", ["upfirdn2d.cpp"])


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, and a process that has loaded nothing yet."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "_libraries", {})
    return tmp_path / "cache"


def start(code, **environment):
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment},
                            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process):
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


@needs_compiler
def test_two_processes_build_at_once(cache, monkeypatch):
    left = cache / "upfirdn2d_cpu_left"  # a build that was killed leaves its folder: nobody waits for it
    (left / "lock").mkdir(parents=True)
    code = ("import os, sys, op.upfirdn2d; from op import build\n"
            "assert 'torch.utils.cpp_extension' not in sys.modules, 'the import builds'\n"
            f"assert build.load(*{CPU}) is not None")
    for process in [start(code), start(code)]:
        finish(process)
    (library,) = cache.glob("*.so")
    assert set(cache.iterdir()) == {library, left}

    monkeypatch.setattr(build, "_build", None)  # the next process takes what is there
    assert build.load(*CPU)._name == str(library)


@needs_compiler
def test_ninja_of_an_environment_that_is_not_activated(cache, monkeypatch, tmp_path):
    pytest.importorskip("ninja")
    tools = tmp_path / "tools"  # the search path as it is, without ninja
    tools.mkdir()
    for folder in filter(os.path.isdir, os.environ["PATH"].split(os.pathsep)):
        for tool in Path(folder).iterdir():
            if tool.name != "ninja" and not (tools / tool.name).is_symlink():
                (tools / tool.name).symlink_to(tool)
    monkeypatch.setenv("PATH", str(tools))
    assert build.load(*CPU) is not None
    assert os.environ["PATH"] == str(tools)


def falls_back_with_one_warning(match):
    image, kernel = torch.ones(1, 1, 4, 4), torch.ones(2, 2)
    with pytest.warns(RuntimeWarning, match=match) as warnings:
        sums = [upfirdn2d(image, kernel).sum() for _ in range(2)]
    assert sums == [36, 36] and len(warnings) == 1
    with pytest.raises(RuntimeError, match="no compiled version"):
        upfirdn2d(image, kernel, impl="compiled")


def test_failed_build_falls_back(cache, monkeypatch):
    monkeypatch.setenv("CXX", "/bin/false")
    falls_back_with_one_warning(r"C\+\+ compiler .* ninja")
    assert list(cache.iterdir()) == []


def test_cache_that_cannot_be_written_falls_back(cache, monkeypatch):
    cache.write_text("a file where the folder should be")
    falls_back_with_one_warning("TORCH_EXTENSIONS_DIR")


@needs_compiler
def test_warning_gives_the_compilers_words(cache, tmp_path):
    source = tmp_path / "broken.cpp"
    source.write_text("int f() { return nothing; }\n")
    with pytest.warns(RuntimeWarning, match="error: .nothing. was not declared|error: use of undeclared"):
        assert build.load("broken", [source]) is None


@needs_compiler
def test_a_changed_header_builds_anew(cache, tmp_path, monkeypatch):
    source, header = tmp_path / "answer.cpp", tmp_path / "answer.h"
    source.write_text('#include "answer.h"\nextern "C" int answer() { return ANSWER; }\n')
    for answer in (41, 42):
        header.write_text(f"#define ANSWER {answer}\n")
        monkeypatch.setattr(build, "_libraries", {})
        assert build.load("answer", [source], headers=[header]).answer() == answer


def test_headers_of_the_sources_are_known():
    """What a source of this folder includes is in its key: the calls of load() name all headers."""
    folder = ROOT / "op"
    for source in folder.glob("*.c*"):
        included = set(re.findall(r'#include "(.*)"', source.read_text()))
        assert included <= set(re.findall(r'"(\w+\.h)"', (folder / f"{source.stem}.py").read_text())), source


def test_key_follows_sources_and_flags(tmp_path):
    source = tmp_path / "source.cpp"
    source.write_text("int a;")
    key = build._key([source], ["-O3"], [], False)
    assert key == build._key([source], ["-O3"], [], False)
    assert key != build._key([source], ["-O2"], [], False)
    source.write_text("int b;")
    assert key != build._key([source], ["-O3"], [], False)


@needs_compiler
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no CUDA toolkit (nvcc)")
@pytest.mark.skipif(torch.version.cuda is None, reason="PyTorch without CUDA")
def test_cuda_sources_compile(cache):
    # nvcc may be a script that stands elsewhere than its toolkit: ask it.
    dry_run = subprocess.run(["nvcc", "--dryrun", "x.cu"], check=False, capture_output=True, text=True).stderr
    home = os.environ.get("CUDA_HOME") or str(Path(re.search(r"TOP=(.*)", dry_run)[1]).resolve())
    code = ("from op import cone_beam, upfirdn2d\n"
            "assert cone_beam._library('cuda') is not None and upfirdn2d._library('cuda') is not None")
    finish(start(code, TORCH_CUDA_ARCH_LIST="8.0;9.0", CUDA_HOME=home))
