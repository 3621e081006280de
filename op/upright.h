// Joseph's cone-beam projector and its exact adjoint on a CUDA device for upright views (v step parallel to z): the
// weights of joseph.h, reached by detector columns. All rays of a column cross a plane at the same place, at slices
// that are a linear function of the row. So a warp takes 32 slices of a z-column of the volume (adjoint) or 32 rows
// of a detector column (projector): what happens in the plane is the same for all lanes, and neighbouring lanes read
// neighbouring numbers of a copy in which z, or v, runs fastest. FP64 is used once for each detector column.
// All terms of a result are added up by one thread, always in the same order.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "joseph.h"

namespace upright {

using joseph::Sizes;
using joseph::View;

constexpr int BATCH = 32;               // views a launch: they travel as arguments, which 4 KB may take
constexpr int LANES = 32, WARPS = 8;    // a block: 32 slices (rows) of 8 neighbouring columns
constexpr int PITCH = 36;               // of `tile`: 4 more than a warp keeps both ways free of bank conflicts

struct Views { View views[BATCH]; };

// Where a view sees the z-column at (x, y, 1), counted from the middle voxel: (column . point) / (depth . point).
// `view` is its index in the projections.
struct Fan { float column[3], depth[3], source_z; int view; };
struct Fans { Fan fans[BATCH]; };

// In plane p, away = p - middle_plane, a detector column is across + away * tilt from the middle voxel of the other
// in-plane axis; its row v at slice source_z + (v - centre) * (step + away * slope). Length of ray a plane:
// hypot(run, (v - centre) * rise).
struct alignas(16) Column { float across, tilt, step, slope, centre, run, rise; int axis; };

__global__ void trace_columns(Column* __restrict__ columns, Views views, Sizes n) {
    const int u = blockIdx.x * blockDim.x + threadIdx.x, width = int(n.right - n.left);
    if (u >= width) return;
    const View& view = views.views[blockIdx.z];
    const double x = view.first[0] + u * view.step_u[0], y = view.first[1] + u * view.step_u[1];
    const double step_z = view.step_v[2];
    const int axis = fabs(y) > joseph::TIE * fabs(x);
    const double each = 1 / (axis ? y : x), t = (joseph::middle_plane(n, axis) - view.source[axis]) * each;
    const double dx = x * n.voxel_x, dy = y * n.voxel_y;
    Column c;
    c.axis = axis;
    c.across = float(view.source[1 - axis] + t * (axis ? x : y) - joseph::middle_plane(n, 1 - axis));
    c.tilt = float((axis ? x : y) * each);
    c.step = float(t * step_z), c.slope = float(each * step_z);
    c.centre = float(-(view.first[2] + u * view.step_u[2]) / step_z);
    c.run = float(sqrt(dx * dx + dy * dy) * fabs(each)), c.rise = float(step_z * n.voxel_z * fabs(each));
    columns[int64_t(blockIdx.z) * width + u] = c;
}

__device__ float length(const Column& c, int row) {
    const float rise = (float(row) - c.centre) * c.rise;
    return sqrtf(c.run * c.run + rise * rise);
}

// weighted[view][u][v + 1] = projections[view][v][u] * length, of the window, with zeros at v = -1, rows and rows + 1.
__global__ void weigh(const float* __restrict__ projections, float* __restrict__ weighted,
                      const Column* __restrict__ columns, Fans fans, Sizes n) {
    __shared__ float tile[LANES][LANES + 1];
    const int width = int(n.right - n.left), height = int(n.bottom - n.top);
    const int first_u = blockIdx.x * LANES, first_v = blockIdx.y * LANES - 1, lane = threadIdx.x;
    const float* const from = projections + joseph::first_pixel(n, fans.fans[blockIdx.z].view);
    for (int k = threadIdx.y; k < LANES; k += WARPS)
        tile[k][lane] = first_u + lane < width && unsigned(first_v + k) < unsigned(height)
                            ? from[(first_v + k) * n.det_columns + first_u + lane] : 0.f;
    __syncthreads();
    for (int k = threadIdx.y; k < LANES; k += WARPS)
        if (first_u + k < width && first_v + lane < height + 2) {
            const int column = blockIdx.z * width + first_u + k;
            const int row = first_v + lane;
            weighted[column * (height + 3) + row + 1] = tile[lane][k] * length(columns[column], row);
        }
}

// What the rows of a detector column give to a voxel that lies at this row of it. Rows are `size` slices apart.
__device__ float two_rows(const float* __restrict__ weighted, int first, int height, float row, float size) {
    row = joseph::clamp(row, -1.f, float(height));          // zeros there
    const float below = floorf(row), down = row - below;
    const float* const at = weighted + (first + int(below));
    return __saturatef(1 - down * size) * at[0] + __saturatef(1 - (1 - down) * size) * at[1];
}

// The same where up to `pairs` rows on either side are less than a slice away.
__device__ float many_rows(const float* __restrict__ weighted, int first, int height, float row, float size,
                           int pairs) {
    row = joseph::clamp(row, float(-1 - pairs), float(height + pairs));
    const float below = floorf(row), down = row - below;
    const int k = int(below);
    float sum = 0;
#pragma unroll 1
    for (int pair = 0; pair < pairs; ++pair) {
        if (unsigned(k - pair) < unsigned(height))
            sum += __saturatef(1 - (float(pair) + down) * size) * weighted[first + k - pair];
        if (unsigned(k + 1 + pair) < unsigned(height))
            sum += __saturatef(1 - (float(pair + 1) - down) * size) * weighted[first + k + 1 + pair];
    }
    return sum;
}

// A thread adds up CHUNKS voxels of one z-column, 32 slices apart.
template <int CHUNKS>
__global__ void __launch_bounds__(LANES * WARPS)
backproject(const float* __restrict__ weighted, float* __restrict__ volume, const Column* __restrict__ columns,
            int views, bool add, Fans fans, Sizes n) {
    __shared__ float tile[WARPS][PITCH];
    const int width = int(n.right - n.left), height = int(n.bottom - n.top), slices = int(n.depth);
    const int first_x = blockIdx.x * WARPS, x = first_x + threadIdx.y, y = blockIdx.y;
    const int first_z = blockIdx.z * (LANES * CHUNKS), chunks = (slices - first_z + LANES - 1) / LANES;
    const float px = float(x - int(n.width / 2)), py = float(y - int(n.height / 2));
    float sum[CHUNKS] = {};
    for (int i = 0; i < views && x < n.width; ++i) {
        const Fan& f = fans.fans[i];
        // Columns that cross the planes of either axis within a voxel of the z-column, and few others.
        const float depth = f.depth[0] * px + f.depth[1] * py + f.depth[2];
        const float at = __fdividef(f.column[0] * px + f.column[1] * py + f.column[2], depth);
        const float side = fmaxf(fabsf(f.column[0] - at * f.depth[0]), fabsf(f.column[1] - at * f.depth[1]));
        const float reach = __fdividef(side, depth - fmaxf(fabsf(f.depth[0]), fabsf(f.depth[1]))) + 0.01f;
        int u = int(fmaxf(ceilf(at - reach), 0.f));
        int more = int(fminf(floorf(at + reach), float(width - 1))) - u;    // nvcc would work out a fixed bound anew
        const float z = float(first_z + int(threadIdx.x)) - f.source_z;
        for (; more >= 0; ++u, --more) {
            const Column c = columns[i * width + u];
            const float away = c.axis ? py : px, weight = 1 - fabsf(c.across + away * c.tilt - (c.axis ? px : py));
            if (weight <= 0) continue;                      // the same for all lanes
            const float step = c.step + away * c.slope, each = 1 / step, size = fabsf(step), row = z * each + c.centre;
            const int pairs = int(ceilf(fabsf(each))), first = (i * width + u) * (height + 3) + 1;
            if (pairs <= 1) {
#pragma unroll
                for (int chunk = 0; chunk < CHUNKS; ++chunk)
                    if (chunk < chunks) {
                        const float at_row = row + float(chunk * LANES) * each;
                        sum[chunk] += weight * two_rows(weighted, first, height, at_row, size);
                    }
            } else {
#pragma unroll
                for (int chunk = 0; chunk < CHUNKS; ++chunk)
                    if (chunk < chunks) {
                        const float at_row = row + float(chunk * LANES) * each;
                        sum[chunk] += weight * many_rows(weighted, first, height, at_row, size, pairs);
                    }
            }
        }
    }
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; ++chunk) {          // turned in shared memory: 8 voxels along x, 32 bytes
        __syncthreads();
        tile[threadIdx.y][threadIdx.x] = sum[chunk];
        __syncthreads();
        const int thread = threadIdx.y * LANES + threadIdx.x, dx = thread % WARPS;
        const int z = first_z + chunk * LANES + thread / WARPS;
        if (first_x + dx < n.width && z < n.depth) {
            float& voxel = volume[(z * n.height + y) * n.width + first_x + dx];
            voxel = (add ? voxel : 0.f) + tile[dx][thread / WARPS];
        }
    }
}

// lines[y + 1][x + 1][z + 1] = volume[z][y][x], with zeros around. Block z is y + 1.
__global__ void lay_along_z(const float* __restrict__ volume, float* __restrict__ lines, Sizes n) {
    __shared__ float tile[LANES][LANES + 1];
    const int first_x = blockIdx.x * LANES - 1, first_z = blockIdx.y * LANES - 1, y = int(blockIdx.z) - 1;
    const int lane = threadIdx.x;
    for (int k = threadIdx.y; k < LANES; k += WARPS) {
        const int x = first_x + lane, z = first_z + k;
        const bool inside = unsigned(x) < unsigned(n.width) && unsigned(y) < unsigned(n.height) &&
                            unsigned(z) < unsigned(n.depth);
        tile[k][lane] = inside ? volume[(z * n.height + y) * n.width + x] : 0.f;
    }
    __syncthreads();
    for (int k = threadIdx.y; k < LANES; k += WARPS)
        if (first_x + k <= n.width && first_z + lane <= n.depth)
            lines[((y + 1) * (n.width + 2) + first_x + k + 1) * (n.depth + 2) + first_z + lane + 1] = tile[lane][k];
}

// A thread adds up CHUNKS rays of one detector column, 32 rows apart.
template <int CHUNKS>
__global__ void __launch_bounds__(LANES * WARPS)
project(const float* __restrict__ lines, float* __restrict__ projections, const Column* __restrict__ columns,
        Fans fans, Sizes n) {
    __shared__ float tile[WARPS][PITCH];
    const int width = int(n.right - n.left), height = int(n.bottom - n.top), depth = int(n.depth);
    const int first_u = blockIdx.x * WARPS, u = first_u + threadIdx.y, first_v = blockIdx.y * (LANES * CHUNKS);
    const int view = blockIdx.z;
    float* const window = projections + joseph::first_pixel(n, fans.fans[blockIdx.z].view);
    float sum[CHUNKS] = {};
    Column c = {};
    if (u < width) {
        c = columns[view * width + u];
        const float source_z = fans.fans[view].source_z + 1;                            // `lines` begin at slice -1
        const float v = float(first_v + int(threadIdx.x)) - c.centre;
        const int count = joseph::planes(n, c.axis), middle = joseph::middle_plane(n, c.axis);
        const int breadth = joseph::planes(n, 1 - c.axis), across_middle = joseph::middle_plane(n, 1 - c.axis);
        const int line = depth + 2, wide = (int(n.width) + 2) * line;
        const int stride = c.axis ? line : wide;            // to the next z-column within a plane
        float low = float(-middle), high = float(count - 1 - middle);
        joseph::narrow(c.across + float(across_middle), c.tilt, float(breadth), low, high);
        for (int away = int(ceilf(fminf(low, float(count)))); away <= high; ++away) {
            const float across = joseph::clamp(c.across + float(away) * c.tilt, float(-1 - across_middle),
                                               float(breadth - across_middle)), low_column = floorf(across);
            const int i = min(int(low_column) + across_middle, breadth - 1) + 1;        // counted from z-column -1
            const float weight = across - float(i - 1 - across_middle), step = c.step + float(away) * c.slope;
            const float* const from = lines + int64_t(middle + away + 1) * (c.axis ? wide : line) + int64_t(i) * stride;
#pragma unroll
            for (int chunk = 0; chunk < CHUNKS; ++chunk) {
                if (first_v + chunk * LANES >= height) break;
                const float z = joseph::clamp((v + float(chunk * LANES)) * step + source_z, 0.f, float(depth + 1));
                const int k = min(int(z), depth);
                const float up = z - float(k), *const near = from + k, *const far = near + stride;
                const float below = near[0] + weight * (far[0] - near[0]);
                const float above = near[1] + weight * (far[1] - near[1]);
                sum[chunk] += below + up * (above - below);
            }
        }
    }
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; ++chunk) {
        __syncthreads();
        tile[threadIdx.y][threadIdx.x] = sum[chunk] * length(c, first_v + chunk * LANES + threadIdx.x);
        __syncthreads();
        const int thread = threadIdx.y * LANES + threadIdx.x, du = thread % WARPS;
        const int v = first_v + chunk * LANES + thread / WARPS;
        if (first_u + du < width && v < height)
            window[v * n.det_columns + first_u + du] = tile[du][thread / WARPS];
    }
}

inline unsigned blocks(int64_t size, int64_t threads) { return unsigned((size + threads - 1) / threads); }
inline bool is_upright(const View& view) { return view.step_v[0] == 0 && view.step_v[1] == 0; }

// Bytes of the columns of a batch; of the rest that a batch, or a volume, needs.
inline int64_t column_bytes(const Sizes& n) { return BATCH * (n.right - n.left) * int64_t(sizeof(Column)); }
inline int64_t weighted_bytes(const Sizes& n) { return BATCH * (n.right - n.left) * (n.bottom - n.top + 3) * 4; }
inline int64_t line_bytes(const Sizes& n) { return (n.depth + 2) * (n.height + 2) * (n.width + 2) * 4; }

// Bytes of device memory that `project_views` and `backproject_views` work in, 0 where the sizes are too large for them.
inline int64_t scratch_bytes(const Sizes& n) {
    for (int64_t size : {n.det_rows, n.det_columns, n.depth, n.height, n.width})
        if (size > 65533) return 0;
    if (weighted_bytes(n) / 4 > 0x7fffffff || (n.width + 2) * (n.depth + 2) > 0x7fffffff) return 0;
    return column_bytes(n) + std::max(weighted_bytes(n), line_bytes(n));
}

// Calls launch(number of views, fans) for BATCH upright views at a time, whose columns have been traced.
template <class Launch>
const char* for_each_batch(const View* all, const Sizes& n, Column* columns, cudaStream_t stream, Launch launch) {
    int64_t next = 0;
    while (next < n.views) {
        Views views = {};
        Fans fans = {};
        int count = 0;
        for (; next < n.views && count < BATCH; ++next) {
            if (!is_upright(all[next])) continue;
            const joseph::Camera c = joseph::camera(all[next], n);
            views.views[count] = all[next];
            fans.fans[count++] = {{c.column[0], c.column[1], c.column[3]}, {c.depth[0], c.depth[1], c.depth[3]},
                                  float(all[next].source[2]), int(next)};
        }
        if (count == 0) break;
        trace_columns<<<dim3(blocks(n.right - n.left, 64), 1, count), 64, 0, stream>>>(columns, views, n);
        launch(count, fans);
        const cudaError_t error = cudaGetLastError();
        if (error != cudaSuccess) return cudaGetErrorString(error);
    }
    return nullptr;
}

template <int CHUNKS>
void start_backproject(const float* weighted, float* volume, const Column* columns, int count, bool add,
                       const Fans& fans, const Sizes& n, cudaStream_t stream) {
    const dim3 grid(blocks(n.width, WARPS), n.height, blocks(n.depth, LANES * CHUNKS));
    backproject<CHUNKS><<<grid, dim3(LANES, WARPS), 0, stream>>>(weighted, volume, columns, count, add, fans, n);
}

template <int CHUNKS>
void start_project(const float* lines, float* projections, const Column* columns, int count, const Fans& fans,
                   const Sizes& n, cudaStream_t stream) {
    const dim3 grid(blocks(n.right - n.left, WARPS), blocks(n.bottom - n.top, LANES * CHUNKS), count);
    project<CHUNKS><<<grid, dim3(LANES, WARPS), 0, stream>>>(lines, projections, columns, fans, n);
}

// Projections of the upright views. Other views, and pixels outside of the window, stay as they are.
inline const char* project_views(const float* volume, float* projections, const View* views, const Sizes& n,
                                 void* scratch, cudaStream_t stream) {
    Column* const columns = static_cast<Column*>(scratch);
    float* const lines = reinterpret_cast<float*>(static_cast<char*>(scratch) + column_bytes(n));
    const dim3 grid(blocks(n.width + 2, LANES), blocks(n.depth + 2, LANES), n.height + 2);
    lay_along_z<<<grid, dim3(LANES, WARPS), 0, stream>>>(volume, lines, n);
    return for_each_batch(views, n, columns, stream, [&](int count, const Fans& fans) {
        const int64_t rows = n.bottom - n.top;
        (rows > 2 * LANES ? start_project<4> : rows > LANES ? start_project<2> : start_project<1>)(
            lines, projections, columns, count, fans, n, stream);
    });
}

// The adjoint: the volume from the projections of the upright views, of which there must be one.
inline const char* backproject_views(const float* projections, float* volume, const View* views, const Sizes& n,
                                     void* scratch, cudaStream_t stream) {
    Column* const columns = static_cast<Column*>(scratch);
    float* const weighted = reinterpret_cast<float*>(static_cast<char*>(scratch) + column_bytes(n));
    bool add = false;
    return for_each_batch(views, n, columns, stream, [&](int count, const Fans& fans) {
        const dim3 grid(blocks(n.right - n.left, LANES), blocks(n.bottom - n.top + 3, LANES), count);
        weigh<<<grid, dim3(LANES, WARPS), 0, stream>>>(projections, weighted, columns, fans, n);
        (n.depth > 2 * LANES ? start_backproject<4> : n.depth > LANES ? start_backproject<2> : start_backproject<1>)(
            weighted, volume, columns, count, add, fans, n, stream);
        add = true;
    });
}

}  // namespace upright
