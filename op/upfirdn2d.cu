// upfirdn2d on a CUDA device, behind a plain C interface (no PyTorch headers: they take minutes to compile).
// The functions work on the current device and the given stream, and return nullptr or an error message.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

namespace {

// Planes [h, w, inner] of numbers that lie side by side and have the same taps: 1, or all channels.
struct Sizes {
    int64_t planes, inner, h, w, kh, kw, up, down, before_y, before_x, oh, ow;
};

// Output o reads the inputs i with  i * up = o * down + tap - before : the first such tap with i >= 0. The
// others follow `up` apart, their inputs one after the other.
__device__ int find_tap(int o, int up, int down, int before) {
    const int at = o * down - before;
    return at <= 0 ? -at : (up - at % up) % up;
}

// A thread for each number of the output plane, which then steps through the planes. Sums of halves are in float.
template <typename T, typename Sum>
__global__ void upfirdn2d(const T* __restrict__ x, const Sum* __restrict__ kernel, T* __restrict__ y, Sizes s) {
    const int h = s.h, w = s.w, kh = s.kh, kw = s.kw, up = s.up, down = s.down, inner = s.inner;
    const int at = blockIdx.x * blockDim.x + threadIdx.x, oy = blockIdx.y * blockDim.y + threadIdx.y;
    if (at >= s.ow * inner || oy >= s.oh) return;
    const int ox = at / inner, channel = at % inner;
    const int tap_x = find_tap(ox, up, down, s.before_x), ix = (ox * down + tap_x - int(s.before_x)) / up;
    const int tap_y = find_tap(oy, up, down, s.before_y), iy = (oy * down + tap_y - int(s.before_y)) / up;
    for (int64_t plane = blockIdx.z; plane < s.planes; plane += gridDim.z) {
        const T* const image = x + plane * h * w * inner + channel;
        Sum sum = 0;
        for (int ky = tap_y, i = iy; ky < kh && i < h; ky += up, ++i)
            for (int kx = tap_x, j = ix; kx < kw && j < w; kx += up, ++j)
                sum += kernel[(kh - 1 - ky) * kw + kw - 1 - kx] * Sum(image[(int64_t(i) * w + j) * inner]);  // flipped
        y[(plane * s.oh + oy) * s.ow * inner + at] = T(sum);
    }
}

template <typename T, typename Sum>
const char* launch(const T* x, const Sum* kernel, T* y, const Sizes& s, void* stream) {
    if (!kernel || (s.planes > 0 && (!x || !y))) return "null pointer";
    if (s.planes < 0 || s.inner < 1 || s.h < 1 || s.w < 1 || s.oh < 1 || s.ow < 1) return "image sizes must be positive";
    if (s.kh < 1 || s.kw < 1) return "the kernel must not be empty";
    if (s.up < 1 || s.down < 1) return "up and down must be at least 1";
    constexpr int64_t most = 1 << 29;
    for (int64_t size : {s.inner, s.h, s.w, s.oh, s.ow, s.kh, s.kw, s.up, s.down})      // before their products
        if (size > most) return "image, kernel or factor is too large";
    for (int64_t size : {s.h * s.up, s.w * s.up, s.oh * s.down, s.ow * s.down, s.ow * s.inner, s.kh * s.kw, s.before_y,
                         -s.before_y, s.before_x, -s.before_x})
        if (size > most) return "image, kernel, factor or padding is too large";
    if (s.planes == 0) return nullptr;
    const dim3 threads(32, 8);
    const dim3 blocks((s.ow * s.inner + 31) / 32, (s.oh + 7) / 8, std::min<int64_t>(s.planes, 65535));
    if (blocks.y > 65535) return "the image is too high";
    upfirdn2d<<<blocks, threads, 0, static_cast<cudaStream_t>(stream)>>>(x, kernel, y, s);
    const cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace

#define EXPORT(NAME, T, SUM)                                                                                       \
    extern "C" const char* NAME(const T* x, const SUM* kernel, T* y, int64_t planes, int64_t inner, int64_t h,     \
                                int64_t w, int64_t kh, int64_t kw, int64_t up, int64_t down, int64_t before_y,     \
                                int64_t before_x, int64_t oh, int64_t ow, void* stream) {                          \
        return launch(x, kernel, y, {planes, inner, h, w, kh, kw, up, down, before_y, before_x, oh, ow}, stream);  \
    }

EXPORT(upfirdn2d_float32, float, float)
EXPORT(upfirdn2d_float64, double, double)
EXPORT(upfirdn2d_float16, __half, float)
EXPORT(upfirdn2d_bfloat16, __nv_bfloat16, float)
