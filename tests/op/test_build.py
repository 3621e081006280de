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
from op.cone_beam import project, trace

ROOT = Path(__file__).resolve().parents[2]
COMPILER = os.environ.get("CXX", "c++")
needs_compiler = pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"no C++ compiler ({COMPILER})")
CPU = ("fdk_backproject", ["fdk_backproject.cpp"])


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
    left = cache / "fdk_backproject_left"  # a build that was killed leaves its folder: nobody waits for it
    (left / "lock").mkdir(parents=True)
    code = ("import op.fdk_backproject; from op import build\n"
            "assert not build._libraries, 'the import builds'\n"
            f"assert build.load(*{CPU}) is not None")
    for process in [start(code), start(code)]:
        finish(process)
    (library,) = cache.glob("*.so")
    assert set(cache.iterdir()) == {library, left}

    monkeypatch.setattr(build, "_build", None)  # the next process takes what is there
    assert build.load(*CPU)._name == str(library)


@pytest.fixture
def answer(tmp_path):
    """A folder that a shell would read otherwise, with a source in it."""
    folder = tmp_path / "$HOME of ${you} & 'me'"
    folder.mkdir()
    (folder / "answer.cpp").write_text('extern "C" int answer() { return 42; }\n')
    return folder / "answer.cpp"


@needs_compiler
def test_a_damaged_library_is_built_again(cache, monkeypatch, answer):
    opened = []         # to open a truncated library would be a bus error
    monkeypatch.setattr(build.ctypes, "CDLL", lambda path: opened.append(Path(path).read_bytes()) or path)
    library = Path(build.load("answer", [answer]))
    for damage in (lambda content: content[:len(content) // 2], lambda content: b"", bytes.swapcase,
                   lambda content: b"\x7fELF" + bytes(5000)):
        library.write_bytes(damage(opened[0]))
        monkeypatch.setattr(build, "_libraries", {})
        build.load("answer", [answer])
        assert opened.pop() == opened[0]


@needs_compiler
def test_a_cache_folder_relative_to_where_the_process_is(tmp_path, monkeypatch, answer):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", ".")
    assert build.load("answer", [answer]).answer() == 42 and list(tmp_path.glob("*.so"))


@needs_compiler
def test_paths_that_a_shell_would_expand(monkeypatch, answer):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(answer.parent))
    assert build.load("answer", [answer]).answer() == 42


@needs_compiler
def test_nothing_is_written_beside_the_sources(cache, answer):
    assert build.load("answer", [answer]).answer() == 42 and list(answer.parent.iterdir()) == [answer]


def falls_back_with_one_warning(match):
    rays, volume = trace([[0, -30, 0, 0, 20, 0, 1, 0, 0, 0, 0, 1]], (1, 1), (3, 4, 5)), torch.ones(3, 4, 5)
    with pytest.warns(RuntimeWarning, match=match) as warnings:
        sums = [project(volume, rays).sum() for _ in range(2)]
    assert sums == [4, 4] and len(warnings) == 1
    with pytest.raises(build.NotCompiled, match="could not be built"):
        project(volume, rays, impl="compiled")


def test_failed_build_falls_back(cache, monkeypatch):
    monkeypatch.setenv("CXX", "/bin/false")
    falls_back_with_one_warning(r"C\+\+ compiler .*TORCH_EXTENSIONS_DIR.*/bin/false: status 1")
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
        assert build.load("answer", [source]).answer() == answer


def test_key_follows_sources_and_flags(tmp_path):
    source = tmp_path / "source.cpp"
    source.write_text("int a;")
    key = build._key([source], ["c++", "-O3"])
    assert key == build._key([source], ["c++", "-O3"])
    assert key != build._key([source], ["c++", "-O2"])
    source.write_text("int b;")
    assert key != build._key([source], ["c++", "-O3"])


def test_choice_of_implementation(monkeypatch):
    code, x = build.Compiled("cone_beam"), torch.zeros(2)
    assert not code.choose("reference", x) and not code.choose(None, x.double()) and not code.choose(None, x.to("meta"))
    with pytest.raises(ValueError, match="impl: expected .*'fast'"):
        code.choose("fast", x)
    for tensors in ([x.double()], [x.to("meta")], [x, x.double()]):
        with pytest.raises(build.NotCompiled, match="cone_beam: no compiled code for"):
            code.choose("compiled", *tensors)


@needs_compiler
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no CUDA toolkit (nvcc)")
@pytest.mark.skipif(torch.version.cuda is None, reason="PyTorch without CUDA")
def test_cuda_sources_compile(cache):
    # nvcc may be a script that stands elsewhere than its toolkit: ask it.
    dry_run = subprocess.run(["nvcc", "--dryrun", "x.cu"], check=False, capture_output=True, text=True).stderr
    home = os.environ.get("CUDA_HOME") or str(Path(re.search(r"TOP=(.*)", dry_run)[1]).resolve())
    code = ("from op import build\n"
            "assert all(build.load(name, [name + '.cu']) is not None for name in ('cone_beam', 'upfirdn2d'))")
    finish(start(code, TORCH_CUDA_ARCH_LIST="8.0;9.0", CUDA_HOME=home))
