// Joseph's cone-beam projector and its exact adjoint on a CUDA device, float32, behind a plain C interface (no
// PyTorch headers: they take minutes to compile). Upright views go the fast way of upright.h. For the others a thread
// takes a ray or, in the adjoint, a voxel: all terms of a result are added up by one thread, always in the same order.
// See joseph.h for the arithmetic. The functions work on the current device and the given stream, and return nullptr or
// an error message.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "joseph.h"
#include "upright.h"

namespace {

using joseph::Sizes;

constexpr int BATCH = 16;   // views a launch: they travel as arguments, which 4 KB may take

struct Views { joseph::View views[BATCH]; int index[BATCH]; };      // and where they are among the projections
struct Cameras { joseph::Camera cameras[BATCH]; };

// Block z is the view.
__global__ void project(const float* __restrict__ volume, float* __restrict__ projections, Views views, Sizes n) {
    const int u = blockIdx.x * blockDim.x + threadIdx.x, v = blockIdx.y * blockDim.y + threadIdx.y;
    if (u >= n.right - n.left || v >= n.bottom - n.top) return;
    const joseph::Ray ray = joseph::trace(views.views[blockIdx.z], n, v, u);
    projections[joseph::first_pixel(n, views.index[blockIdx.z]) + v * n.det_columns + u] = joseph::integrate(volume, ray, n);
}

// A thread goes through the slices z = block z, block z + blocks, ...
__global__ void backproject(const float* __restrict__ projections, float* __restrict__ volume, int count, bool add,
                            Views views, Cameras cameras, Sizes n) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= n.width || y >= n.height) return;
    for (int z = blockIdx.z; z < n.depth; z += gridDim.z) {
        float sum = 0;
        for (int i = 0; i < count; ++i) {
            const float* const view = projections + joseph::first_pixel(n, views.index[i]);
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

// Calls launch(number of views, views) for BATCH views at a time, all or those that are not upright.
template <class Launch>
const char* for_each_batch(const joseph::View* all, const Sizes& n, bool every, Launch launch) {
    int64_t next = 0;
    while (next < n.views) {
        Views views = {};
        int count = 0;
        for (; next < n.views && count < BATCH; ++next)
            if (every || !upright::is_upright(all[next])) views.views[count] = all[next], views.index[count++] = int(next);
        if (count == 0) break;
        launch(count, views);
        const cudaError_t error = cudaGetLastError();
        if (error != cudaSuccess) return cudaGetErrorString(error);
    }
    return nullptr;
}

unsigned blocks(int64_t size, int64_t threads) { return unsigned((size + threads - 1) / threads); }

bool any_upright(const joseph::View* views, const Sizes& n) {
    return upright::scratch_bytes(n) && std::any_of(views, views + n.views, upright::is_upright);
}

}  // namespace

// How many bytes `scratch` must have in the two functions below: device memory to work in. `volume` is not used.
extern "C" const char* cone_beam_scratch(const float* volume, int64_t* bytes, const joseph::View* views,
                                         const Sizes* sizes, void* stream) {
    (void)volume, (void)stream;
    *bytes = any_upright(views, *sizes) ? upright::scratch_bytes(*sizes) : 0;
    return nullptr;
}

// Pixels outside of the window of rows and columns stay as they are. `views` is on the host.
extern "C" const char* cone_beam_project(const float* volume, float* projections, const joseph::View* views,
                                         const Sizes* sizes, void* scratch, void* stream_) {
    const Sizes n = *sizes;
    const cudaStream_t stream = static_cast<cudaStream_t>(stream_);
    if (const char* message = check(n)) return message;
    if (n.bottom <= n.top || n.right <= n.left) return nullptr;
    const bool fast = any_upright(views, n);
    if (fast)
        if (const char* message = upright::project_views(volume, projections, views, n, scratch, stream)) return message;
    return for_each_batch(views, n, !fast, [&](int count, const Views& batch) {
        const dim3 threads(32, 8), grid(blocks(n.right - n.left, 32), blocks(n.bottom - n.top, 8), count);
        project<<<grid, threads, 0, stream>>>(volume, projections, batch, n);
    });
}

extern "C" const char* cone_beam_backproject(const float* projections, float* volume, const joseph::View* views,
                                             const Sizes* sizes, void* scratch, void* stream_) {
    const Sizes n = *sizes;
    const cudaStream_t stream = static_cast<cudaStream_t>(stream_);
    if (const char* message = check(n)) return message;
    if (n.views < 1 || n.bottom <= n.top || n.right <= n.left) {
        const cudaError_t error = cudaMemsetAsync(volume, 0, 4 * n.depth * n.height * n.width, stream);
        return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
    }
    const bool fast = any_upright(views, n);
    bool add = fast;
    if (fast)
        if (const char* message = upright::backproject_views(projections, volume, views, n, scratch, stream))
            return message;
    return for_each_batch(views, n, !fast, [&](int count, const Views& batch) {
        Cameras cameras = {};
        for (int i = 0; i < count; ++i) cameras.cameras[i] = joseph::camera(batch.views[i], n);
        const dim3 threads(32, 8), grid(blocks(n.width, 32), blocks(n.height, 8), std::min<int64_t>(n.depth, 65535));
        backproject<<<grid, threads, 0, stream>>>(projections, volume, count, add, batch, cameras, n);
        add = true;
    });
}
