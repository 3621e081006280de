// CUDA's words for g++, so that kernels run on the CPU: a launch is a loop over blocks and threads, one after the
// other. It stands in for the toolkit's cuda_runtime.h (put this folder first on the include path); emulate.py turns
// kernel<<<grid, block>>>(arguments) into CUDA_ON_CPU(kernel, grid, block)(arguments).
//
// What it checks at a launch: what a device checks (sides of grid and block, size of arguments and shared memory).
// What it has: threads that wait at __syncthreads (each then gets a stack of its own), static __shared__ arrays,
// atomicAdd. What it has not: warps (shuffles, votes), streams (a launch ends before the next begins), `extern
// __shared__`, textures, races. Shared memory is zero at first and keeps what the block before left.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <tuple>
#include <vector>

#define CUDA_ON_CPU_ACTIVE 1
#define __global__ [[maybe_unused]] static
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint3 { unsigned x, y, z; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorMemoryAllocation = 2, cudaErrorInvalidConfiguration = 9 };

namespace cuda_on_cpu {

inline uint3 thread_index{}, block_index{};
inline dim3 block_size, grid_size;
inline cudaError_t last_error = cudaSuccess;
inline long launches = 0, barriers = 0;                     // for tests: what has run

// Runs the threads of a block. They share a stack until one of them waits: it keeps that stack, the next ones get
// another. A kernel without barriers thus runs as a plain loop.
class Block {
    static constexpr std::size_t STACK = 256 << 10;
    struct Fiber { ucontext_t context; std::unique_ptr<char[]> stack; unsigned thread; };
    std::vector<std::unique_ptr<Fiber>> all;
    std::vector<Fiber*> idle, waiting;
    Fiber* current = nullptr;
    ucontext_t scheduler{};
    unsigned next = 0, count = 0;
    void (*body)(void*) = nullptr;
    void* arguments = nullptr;

    void place(unsigned thread) {
        thread_index = {thread % block_size.x, thread / block_size.x % block_size.y,
                        thread / (block_size.x * block_size.y)};
    }
    static void enter();
    void loop() {
        while (next < count) {
            current->thread = next;
            place(next++);
            body(arguments);
        }
        idle.push_back(current);
    }
    void resume(Fiber* fiber) {
        current = fiber;
        swapcontext(&scheduler, &fiber->context);
        current = nullptr;
    }

public:
    void run(void (*kernel)(void*), void* with) {
        body = kernel, arguments = with, next = 0, count = block_size.x * block_size.y * block_size.z;
        while (next < count) {
            if (idle.empty()) {
                all.push_back(std::make_unique<Fiber>());
                all.back()->stack = std::make_unique<char[]>(STACK);
                idle.push_back(all.back().get());
            }
            Fiber* const fiber = idle.back();
            idle.pop_back();
            getcontext(&fiber->context);
            fiber->context.uc_stack.ss_sp = fiber->stack.get(), fiber->context.uc_stack.ss_size = STACK;
            fiber->context.uc_link = &scheduler;
            makecontext(&fiber->context, enter, 0);
            resume(fiber);
        }
        while (!waiting.empty()) {                          // all have reached the barrier, or ended
            std::vector<Fiber*> ready;
            ready.swap(waiting);
            for (Fiber* fiber : ready) {
                place(fiber->thread);
                resume(fiber);
            }
        }
    }
    void wait() {
        Fiber* const self = current;
        waiting.push_back(self);
        ++barriers;
        swapcontext(&self->context, &scheduler);
    }
};

inline Block block;
inline void Block::enter() { block.loop(); }

template <class Kernel> struct Launch {
    Kernel kernel;
    dim3 grid, threads;
    std::size_t shared;

    template <class... Arguments> void operator()(Arguments... arguments) {
        const std::size_t bytes = (0 + ... + sizeof(Arguments));
        const auto outside = [](unsigned size, unsigned most) { return size < 1 || size > most; };
        ++launches;
        if (outside(grid.x, 0x7fffffff) || outside(grid.y, 65535) || outside(grid.z, 65535) ||
            outside(threads.x, 1024) || outside(threads.y, 1024) || outside(threads.z, 64) ||
            std::uint64_t(threads.x) * threads.y * threads.z > 1024 || shared > 48 << 10 || bytes > 4096) {
            last_error = cudaErrorInvalidConfiguration;
            return;
        }
        auto call = [&] { kernel(arguments...); };
        grid_size = grid, block_size = threads;
        for (unsigned z = 0; z < grid.z; ++z)
            for (unsigned y = 0; y < grid.y; ++y)
                for (unsigned x = 0; x < grid.x; ++x) {
                    block_index = {x, y, z};
                    block.run([](void* c) { (*static_cast<decltype(call)*>(c))(); }, &call);
                }
    }
};

template <class Kernel>
Launch<Kernel> launch(Kernel kernel, dim3 grid, dim3 threads, std::size_t shared = 0, cudaStream_t = nullptr) {
    return {kernel, grid, threads, shared};
}

}  // namespace cuda_on_cpu

// A kernel may be a template: the lambda finds it by its arguments, as a launch does.
#define CUDA_ON_CPU(KERNEL, ...) \
    cuda_on_cpu::launch([](const auto&... arguments) { KERNEL(arguments...); }, __VA_ARGS__)

#define threadIdx (cuda_on_cpu::thread_index)
#define blockIdx (cuda_on_cpu::block_index)
#define blockDim (cuda_on_cpu::block_size)
#define gridDim (cuda_on_cpu::grid_size)

using std::max;
using std::min;
inline void __syncthreads() { cuda_on_cpu::block.wait(); }
template <class T> T __ldg(const T* from) { return *from; }
template <class T> T atomicAdd(T* to, T value) { const T old = *to; *to += value; return old; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1 / a; }
inline float __saturatef(float a) { return std::fmin(std::fmax(a, 0.f), 1.f); }
inline float rsqrtf(float a) { return 1 / std::sqrt(a); }

inline cudaError_t cudaGetLastError() {
    const cudaError_t error = cuda_on_cpu::last_error;
    cuda_on_cpu::last_error = cudaSuccess;
    return error;
}
inline const char* cudaGetErrorString(cudaError_t error) {
    return error == cudaSuccess ? "no error" : error == cudaErrorInvalidConfiguration
        ? "invalid configuration argument" : "out of memory";
}
inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t = nullptr) {
    std::memset(to, value, bytes);
    return cudaSuccess;
}
