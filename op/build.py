"""Compile the C++ and CUDA sources of this folder on first use, never at import.

The sources have a plain C interface and include none of PyTorch's headers, so that a build takes seconds.
"""
import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path

import torch

_libraries = {}  # arguments of load() -> library, or None where it could not be built
_lock = threading.Lock()


def load(name, sources, headers=(), extra_cflags=(), extra_cuda_cflags=(), with_cuda=False):
    """Build a shared library once and open it with ctypes.

    The library is kept in `$TORCH_EXTENSIONS_DIR` (default `~/.cache/torch_extensions`) under a hash of the
    sources and headers, the flags, the versions and the processor or GPU that it was built for. Each process
    builds in a folder of its own and moves the finished file into place, so processes neither wait for nor
    disturb each other.

    Args:
        name: file name of the library, without folder and ending.
        sources: paths of the sources; relative ones start in this folder.
        headers: paths, likewise, of what the sources include.
        extra_cflags: flags for the C++ compiler, added to -O3, the vector instructions and OpenMP.
        extra_cuda_cflags: flags for nvcc, added to -O3.
        with_cuda: whether there are CUDA sources.

    Returns:
        ctypes.CDLL, or None when it cannot be built or opened: then one RuntimeWarning says why and what to
        install, and the later calls are silent.
    """
    arguments = (name, tuple(map(str, sources)), tuple(map(str, headers)), tuple(extra_cflags),
                 tuple(extra_cuda_cflags), with_cuda)
    with _lock:
        if arguments not in _libraries:
            _libraries[arguments] = _load(*arguments)
        return _libraries[arguments]


def _load(name, sources, headers, extra_cflags, extra_cuda_cflags, with_cuda):
    folder = Path(__file__).resolve().parent
    sources, headers = [folder / source for source in sources], [folder / header for header in headers]
    cflags = [*_cpu_flags(), *extra_cflags]
    cuda_cflags = ["-O3", *extra_cuda_cflags]
    try:
        if sys.platform == "win32":
            raise RuntimeError("builds are for Linux and macOS")
        path = _cache_folder() / f"{name}_{_key(sources + headers, cflags, cuda_cflags, with_cuda)}.so"
        if not path.exists():
            _build(path, name, sources, cflags, cuda_cflags, with_cuda)
        return ctypes.CDLL(str(path))
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        needs = "a C++ compiler (Debian, Ubuntu: apt install g++) and ninja (pip install ninja)"
        if with_cuda:
            needs += f" and the CUDA {torch.version.cuda} toolkit (nvcc; CUDA_HOME says where it is)"
        warnings.warn(
            f"op/{name} could not be built; PyTorch does its work, more slowly. The build needs {needs} "
            f"and a writable cache folder (TORCH_EXTENSIONS_DIR). The error was: {_reason(error)}",
            RuntimeWarning, stacklevel=3)
        return None


def _build(path, name, sources, cflags, cuda_cflags, with_cuda):
    # Its notices about compilers and missing GPUs would come on top of our one warning.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils import cpp_extension  # slow to import, and not needed once the library is there

    path.parent.mkdir(parents=True, exist_ok=True)
    # OpenMP is compiled in but not linked: its functions are then found in the copy that PyTorch has loaded
    # (PyTorch's own libraries are linked for that), and both share one pool of threads.
    ldflags = ["-Wl,--no-as-needed"] if sys.platform == "linux" else []
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{name}_") as folder, _ninja_on_path():
        cpp_extension.load(name, [str(source) for source in sources], extra_cflags=cflags,
                           extra_cuda_cflags=cuda_cflags, extra_ldflags=ldflags, build_directory=folder,
                           with_cuda=with_cuda, is_python_module=False)
        for library in Path(folder).glob("*.so"):  # one; a name built before in this process gets a suffix
            os.replace(library, path)


def _cpu_flags():
    flags = ["-O3"]
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        flags += ["-mavx2", "-mfma"]
    if sys.platform != "darwin":  # Apple's compiler comes without OpenMP
        flags += ["-fopenmp"]
    return flags


def _key(files, cflags, cuda_cflags, with_cuda):
    parts = [torch.__version__, sys.platform, platform.machine(), os.environ.get("CXX"), cflags]
    if with_cuda:
        gpus = [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]
        parts += [cuda_cflags, os.environ.get("TORCH_CUDA_ARCH_LIST"), gpus]
    digest = hashlib.sha256(repr(parts).encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _cache_folder():
    folder = os.environ.get("TORCH_EXTENSIONS_DIR")
    return Path(folder) if folder else Path.home() / ".cache" / "torch_extensions"


class _ninja_on_path:
    """Makes the program of the `ninja` package known where its environment is not activated."""

    def __enter__(self):
        self.path = os.environ.get("PATH", "")
        if shutil.which("ninja") is None:
            import ninja

            os.environ["PATH"] = os.pathsep.join([ninja.BIN_DIR, self.path])

    def __exit__(self, *error):
        os.environ["PATH"] = self.path


def _reason(error):
    """The line of a compiler's output that tells most; the first one repeats its command."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    telling = [line for line in lines[1:] if "error" in line.lower() or "not found" in line]
    return (telling or lines[-1:])[0]
