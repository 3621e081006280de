"""Compile the C++ and CUDA sources of this folder on first use, never at import; choose between them; call them.

The sources have a plain C interface and include none of PyTorch's headers, so that a build takes seconds: two calls
of the compiler, which know nothing of the shell and take any path.
"""
import ctypes
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

FOLDER = Path(__file__).resolve().parent
SOURCES = {"cpu": ".cpp", "cuda": ".cu"}
_libraries: dict[tuple[Path, ...], ctypes.CDLL | None] = {}    # by their sources; None where it could not be built
_lock = threading.Lock()


class NotCompiled(RuntimeError):
    """The compiled code was asked for, and is not available for these tensors or on this machine."""


@dataclass(frozen=True)
class Compiled:
    """The compiled code of one operation: functions in NAME.cpp (CPU), NAME.cu (CUDA), or both, of this folder.

    Each returns nullptr or a message, and takes after its own arguments the number of threads (int, CPU) or the
    stream (void*, CUDA).
    """
    name: str
    cuda: tuple = (torch.float32,)      # types of numbers that the CUDA code has; C++ has float32

    def choose(self, impl: str | None, *tensors: torch.Tensor) -> bool:
        """Whether the compiled code does the work.

        Args:
            impl: "reference", "compiled", or None: compiled where it is possible.
            tensors: the floating point tensors that it would work on.

        Raises:
            ValueError: another `impl`.
            NotCompiled: "compiled", and no code for these tensors, or it cannot be built here.
        """
        if impl not in (None, "reference", "compiled"):
            raise ValueError(f"impl: expected 'reference', 'compiled' or None, found {impl!r}")
        if impl == "reference":
            return False
        (dtype, device), *others = {(tensor.dtype, tensor.device) for tensor in tensors}
        dtypes, source = self.cuda if device.type == "cuda" else (torch.float32,), self._source(device.type)
        if not others and dtype in dtypes and source.is_file() and load(self.name, [source]) is not None:
            return True
        if impl == "compiled":
            raise NotCompiled(f"{self.name}: no compiled code for {dtype} on {device}, or it could not be built here")
        return False

    def call(self, function: str, *arguments: Any) -> None:
        """Run a function of the code on the device of the first tensor, where `choose` has said so.

        Args:
            function: its name.
            arguments: dense tensors, NumPy arrays and structures go by their address, None as a null pointer; whole
                numbers as int64_t, others as double.

        Raises:
            RuntimeError: with the function's own message.
        """
        device = next(argument.device for argument in arguments if isinstance(argument, torch.Tensor))
        run = getattr(load(self.name, [self._source(device.type)]), function)
        run.restype = ctypes.c_char_p
        passed = [_as_c(argument) for argument in arguments]
        if device.type == "cuda":
            with torch.cuda.device(device):
                message = run(*passed, ctypes.c_void_p(torch.cuda.current_stream().cuda_stream))
        else:
            message = run(*passed, torch.get_num_threads())
        if message is not None:
            raise RuntimeError(f"{self.name}: {message.decode()}")

    def has(self, function: str, x: torch.Tensor) -> bool:
        """Whether the code for a tensor's device, where `choose` has said that it is there, has such a function."""
        return hasattr(load(self.name, [self._source(x.device.type)]), function)

    def _source(self, device_type):
        return FOLDER / f"{self.name}{SOURCES.get(device_type, '.none')}"


def _as_c(argument):
    if argument is None:
        return ctypes.c_void_p()
    if isinstance(argument, torch.Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, np.ndarray):
        return ctypes.c_void_p(argument.ctypes.data)
    if isinstance(argument, (ctypes.Structure, ctypes.Array)):
        return ctypes.byref(argument)
    return ctypes.c_int64(argument) if isinstance(argument, (int, np.integer)) else ctypes.c_double(argument)


def load(name: str, sources: Sequence[str | Path]) -> ctypes.CDLL | None:
    """Build a shared library once and open it with ctypes.

    The library is kept in `$TORCH_EXTENSIONS_DIR` (default `~/.cache/torch_extensions`) under a digest of sources,
    headers, flags, versions and the processor or GPU that it was built for, and a digest of its own content: a damaged
    file is passed over and built again. Each process builds in a folder of its own and moves the finished file into
    place, so processes neither wait for nor disturb each other.

    Args:
        name: file name of the library, without folder and ending.
        sources: paths, all C++ (.cpp) or all CUDA (.cu); relative ones start in this folder. The headers (.h) that lie
            beside them count as parts of them.

    Returns:
        The library, or None when it cannot be built or opened: then one RuntimeWarning says why and what to install,
        and the later calls are silent.
    """
    paths = tuple(FOLDER / source for source in sources)
    with _lock:
        if paths not in _libraries:
            _libraries[paths] = _load(name, paths)
        return _libraries[paths]


def _load(name, sources):
    cuda = sources[0].suffix == ".cu"
    try:
        if sys.platform == "win32":
            raise RuntimeError("builds are for Linux and macOS")
        compiler, compiling, linking = _nvcc() if cuda else _cxx()
        folder, stem = _cache_folder(), f"{name}_{_key(sources, [*compiler, *compiling, *linking])}"
        found = next((path for path in folder.glob(f"{stem}_*.so") if path.stem.endswith(_digest(path))), None)
        return ctypes.CDLL(str(found or _build(folder, stem, sources, compiler, compiling, linking)))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        needs = "a C++ compiler (Debian, Ubuntu: apt install g++)"
        if cuda:
            needs += f", the CUDA {torch.version.cuda} toolkit (nvcc; CUDA_HOME says where it is)"
        warnings.warn(
            f"op/{name} could not be built; PyTorch does its work, more slowly. The build needs {needs} "
            f"and a writable cache folder (TORCH_EXTENSIONS_DIR). The error was: {_reason(error)}",
            RuntimeWarning, stacklevel=4)
        return None


def _build(folder, stem, sources, compiler, compiling, linking):
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f"{stem}_") as scratch:
        objects = [str(Path(scratch) / f"{source.stem}.o") for source in sources]
        library = Path(scratch) / "library.so"
        commands = [[*compiler, *compiling, "-c", str(source), "-o", made] for source, made in zip(sources, objects)]
        for command in (*commands, [*compiler, "-shared", *objects, *linking, "-o", str(library)]):
            subprocess.run(command, check=True, capture_output=True, text=True, errors="replace")
        path = folder / f"{stem}_{_digest(library)}.so"
        os.replace(library, path)
    return path


def _cxx():
    """The C++ compiler, its flags, and the linker's."""
    # The part of -ffast-math that min, max and rounding need to vectorise; the whole of it may switch off
    # denormals for the process.
    flags = ["-std=c++17", "-fPIC", *_cpu_flags(), "-ffinite-math-only", "-fno-signed-zeros", "-fno-trapping-math",
             "-fno-math-errno"]
    libraries = [f"-L{Path(torch.__file__).parent / 'lib'}", "-lc10", "-ltorch_cpu"]
    # OpenMP is compiled in but not linked: its functions are then found in the copy that PyTorch has loaded
    # (PyTorch's own libraries are linked for that), and both share one pool of threads.
    linking = ["-Wl,--no-as-needed", *libraries] if sys.platform == "linux" else ["-undefined", "dynamic_lookup"]
    return shlex.split(os.environ.get("CXX") or "c++"), flags, linking


def _nvcc():
    """The same of CUDA, for the GPUs of this machine, or those of TORCH_CUDA_ARCH_LIST ("8.0;9.0+PTX")."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    found = shutil.which("nvcc", path=str(Path(home) / "bin") if home else None)
    nvcc = found or shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    wanted = re.findall(r"(\d+)\.(\d+a?)(\+PTX)?", os.environ.get("TORCH_CUDA_ARCH_LIST", ""))
    gpus = wanted or sorted({(*torch.cuda.get_device_capability(i), "") for i in range(torch.cuda.device_count())})
    flags = ["-O3", "-std=c++17", "--expt-relaxed-constexpr", "-Xcompiler", "-fPIC"]
    for major, minor, ptx in gpus:
        flags += ["-gencode", f"arch=compute_{major}{minor},code=sm_{major}{minor}"]
        flags += ["-gencode", f"arch=compute_{major}{minor},code=compute_{major}{minor}"] if ptx else []
    return [nvcc], flags, ["-cudart", "shared"]


def _cpu_flags():
    flags = ["-O3"]
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        flags += ["-mavx2", "-mfma"]
    if sys.platform != "darwin":  # Apple's compiler comes without OpenMP
        flags += ["-fopenmp"]
    return flags


def _key(sources, command):
    digest = hashlib.sha256(repr([torch.__version__, sys.platform, platform.machine(), command]).encode())
    for file in (*sources, *sorted(sources[0].parent.glob("*.h"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _cache_folder():
    folder = os.environ.get("TORCH_EXTENSIONS_DIR")
    return Path(folder).absolute() if folder else Path.home() / ".cache" / "torch_extensions"


def _reason(error):
    """The line of a compiler's output that tells most."""
    words = str(error)
    if isinstance(error, subprocess.CalledProcessError):
        words = error.stderr.strip() or f"{error.cmd[0]}: status {error.returncode}"
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower() or "not found" in line]
    return (telling or lines[-1:] or [type(error).__name__])[0]
