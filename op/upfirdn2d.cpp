// upfirdn2d on the CPU, float32, channels last: lanes run along the channels. See upfirdn2d.py.
#include <vector>

#include "lanes.h"

namespace {

// Output o reads the inputs i with  i * up = o * down + tap - before : the first such tap with i >= 0. The others
// follow `up` apart, their inputs one after the other.
inline int64_t find_tap(int64_t o, int64_t up, int64_t down, int64_t before) {
    const int64_t at = o * down - before;
    return at <= 0 ? -at : (up - at % up) % up;
}

}  // namespace

// y [images, oh, ow, channels] of x [images, h, w, channels] and the kernel [kh, kw], which is flipped.
extern "C" const char* upfirdn2d_float32(const float* x, const float* kernel, float* y, int64_t images, int64_t channels,
                                         int64_t h, int64_t w, int64_t kh, int64_t kw, int64_t up, int64_t down,
                                         int64_t before_y, int64_t before_x, int64_t oh, int64_t ow, int threads) {
    if (channels % LANES) return "channels must be a multiple of 8";
#pragma omp parallel num_threads(threads)
    {
        std::vector<const float*> pixels(kh * kw);
        std::vector<float> weights(kh * kw);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < images * oh; ++row) {
            const int64_t oy = row % oh, tap_y = find_tap(oy, up, down, before_y);
            const float* const image = x + row / oh * h * w * channels;
            for (int64_t ox = 0; ox < ow; ++ox) {
                const int64_t tap_x = find_tap(ox, up, down, before_x);
                int count = 0;
                for (int64_t ky = tap_y, i = (oy * down + tap_y - before_y) / up; ky < kh && i < h; ky += up, ++i)
                    for (int64_t kx = tap_x, j = (ox * down + tap_x - before_x) / up; kx < kw && j < w; kx += up, ++j) {
                        weights[count] = kernel[(kh - 1 - ky) * kw + kw - 1 - kx];
                        pixels[count++] = image + (i * w + j) * channels;
                    }
                float* const to = y + (row * ow + ox) * channels;
                for (int64_t c = 0; c < channels; c += LANES) {
                    Floats sum = {};
                    for (int tap = 0; tap < count; ++tap) sum += weights[tap] * load(pixels[tap] + c);
                    store(to + c, sum);
                }
            }
        }
    }
    return nullptr;
}
