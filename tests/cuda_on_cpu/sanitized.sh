#!/usr/bin/env bash
# The CUDA kernels on the CPU under AddressSanitizer and UBSan: sanitized.sh [pytest arguments].
# Python itself has no sanitizer, so its libraries come first; tensors then lie between red zones, too.
set -euo pipefail
cd "$(dirname "$0")/../.."
libraries=$(for name in libasan.so libubsan.so libstdc++.so; do "${CXX:-g++}" -print-file-name=$name; done | tr '\n' ' ')
# Kernels with barriers change stacks (ucontext): AddressSanitizer warns once that it cannot follow them.
# -s: pytest would keep the report of a run that is stopped.
CUDA_ON_CPU=sanitized ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0 UBSAN_OPTIONS=print_stacktrace=1 \
    LD_PRELOAD=$libraries exec python -m pytest -q -s -n 0 -p no:cacheprovider "$@" tests/op/test_cuda_on_cpu.py -k "not plain"
