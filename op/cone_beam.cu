// Joseph's cone-beam projector and its exact adjoint on a CUDA device, float32, behind a plain C interface (no
// PyTorch headers: they take minutes to compile). A thread for each ray and, in the adjoint, for each voxel: all
// terms of a result are added up by one thread, always in the same order. See joseph.h for the arithmetic.
// The functions work on the current device and the given stream, and return nullptr or an error message.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "joseph.h"

namespace {

using joseph::Sizes;

constexpr int BATCH = 16;   // views a launch: they travel as arguments, which 4 KB may take

struct Views { joseph::View views[BATCH]; };
struct Cameras { joseph::Camera cameras[BATCH]; };

// Block z is the view; projections begin with the first of the views.
__global__ void project(const float* __restrict__ volume, float* __restrict__ projections, Views views, Sizes n) {
    const int u = blockIdx.x * blockDim.x + threadIdx.x, v = blockIdx.y * blockDim.y + threadIdx.y;
    if (u >= n.right - n.left || v >= n.bottom - n.top) return;
    const joseph::Ray ray = joseph::trace(views.views[blockIdx.z], n, v, u);
    projections[joseph::first_pixel(n, blockIdx.z) + v * n.det_columns + u] = joseph::integrate(volume, ray, n);
}

// A thread goes through the slices z = block z, block z + blocks, ...
__global__ void backproject(const float* __restrict__ projections, float* __restrict__ volume, int count, bool add,
                            Views views, Cameras cameras, Sizes n) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= n.width || y >= n.height) return;
    for (int z = blockIdx.z; z < n.depth; z += gridDim.z) {
        float sum = 0;
        for (int i = 0; i < count; ++i) {
            const float* const view = projections + joseph::first_pixel(n, i);
            const joseph::Pixels near = joseph::pixels_near(cameras.cameras[i], n, x, y, z);
            for (int v = near.top; v < near.bottom; ++v)
                for (int u = near.left; u < near.right; ++u)
                    sum += joseph::weight(joseph::trace(views.views[i], n, v, u), n, x, y, z) *
                           view[v * n.det_columns + u];
        }
        float& voxel = volume[(z * n.height + y) * n.width + x];
        voxel = add ? voxel + sum : sum;
    }
}

const char* check(const Sizes& n) {
    for (int64_t size : {n.det_rows, n.det_columns, n.depth, n.height, n.width})
        if (size < 1 || size > 8 * 65535) return "sides must be from 1 to 524280";   // 65535 blocks of 8
    return nullptr;
}

// Calls launch(first view, number of views, views) for BATCH views at a time.
template <class Launch> const char* for_each_batch(const joseph::View* all, const Sizes& n, Launch launch) {
    for (int64_t first = 0; first < n.views; first += BATCH) {
        const int count = int(std::min<int64_t>(BATCH, n.views - first));
        Views views = {};
        std::copy(all + first, all + first + count, views.views);
        launch(first, count, views);
        const cudaError_t error = cudaGetLastError();
        if (error != cudaSuccess) return cudaGetErrorString(error);
    }
    return nullptr;
}

unsigned blocks(int64_t size, int64_t threads) { return unsigned((size + threads - 1) / threads); }

}  // namespace

// Pixels outside of the window of rows and columns stay as they are. `views` is on the host.
extern "C" const char* cone_beam_project(const float* volume, float* projections, const joseph::View* views,
                                         const Sizes* sizes, void* stream) {
    const Sizes n = *sizes;
    if (const char* message = check(n)) return message;
    if (n.bottom <= n.top || n.right <= n.left) return nullptr;
    return for_each_batch(views, n, [&](int64_t first, int count, const Views& batch) {
        const dim3 threads(32, 8), grid(blocks(n.right - n.left, 32), blocks(n.bottom - n.top, 8), count);
        project<<<grid, threads, 0, static_cast<cudaStream_t>(stream)>>>(
            volume, projections + first * n.det_rows * n.det_columns, batch, n);
    });
}

extern "C" const char* cone_beam_backproject(const float* projections, float* volume, const joseph::View* views,
                                             const Sizes* sizes, void* stream) {
    const Sizes n = *sizes;
    if (const char* message = check(n)) return message;
    return for_each_batch(views, n, [&](int64_t first, int count, const Views& batch) {
        Cameras cameras = {};
        for (int i = 0; i < count; ++i) cameras.cameras[i] = joseph::camera(batch.views[i], n);
        const dim3 threads(32, 8), grid(blocks(n.width, 32), blocks(n.height, 8), std::min<int64_t>(n.depth, 65535));
        backproject<<<grid, threads, 0, static_cast<cudaStream_t>(stream)>>>(
            projections + first * n.det_rows * n.det_columns, volume, count, first > 0, batch, cameras, n);
    });
}
