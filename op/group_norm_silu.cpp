// Group normalisation and SiLU on the CPU, float32, channels last. See group_norm_silu.py.
#include <cmath>
#include <vector>

#include "lanes.h"

namespace {

constexpr int64_t CHUNK = 256;      // pixels whose sums are taken in float before they are added up in double

inline Floats silu(Floats x) {
    // exp(-x) as 2^n exp(r) with |r| <= ln(2) / 2; the polynomial is Cephes' (Moshier 1989), for 2e-7.
    const Floats y = clamp(-x, -87.f, 87.f), t = y * 1.44269504f;
    const Ints n = whole(t + (t > 0 ? 0.5f + Floats{} : -0.5f + Floats{}));
    const Floats r = y - floats(n) * 0.693359375f + floats(n) * 2.12194440e-4f;
    Floats p = 1.9875691500e-4f + Floats{};
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    const Floats power = (Floats)((n + 127) << 23);
    return x / (1 + (p * r * r + r + 1) * power);
}

}  // namespace

// y = silu(normalised(x + shift) * weight + bias), x and y [images, pixels, channels]; shift [images, channels] or null.
extern "C" const char* group_norm_silu(const float* x, const float* shift, const float* weight, const float* bias,
                                       float* y, int64_t images, int64_t pixels, int64_t channels, int64_t groups,
                                       double eps, int threads) {
    if (channels % LANES || channels % groups) return "channels must be a multiple of 8 and of the groups";
    const int64_t chunks = (pixels + CHUNK - 1) / CHUNK, each = channels / groups;
    // By chunk and channel: sum and sum of squares of the differences to the image's first pixel.
    std::vector<float> sums(images * chunks * 2 * channels), scale(images * channels), offset(images * channels);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < images * chunks; ++i) {
        const float* const image = x + i / chunks * pixels * channels;
        const int64_t begin = i % chunks * CHUNK, end = std::min(begin + CHUNK, pixels);
        for (int64_t c = 0; c < channels; c += LANES) {
            const Floats first = load(image + c);
            Floats sum = {}, squares = {};
            for (int64_t p = begin; p < end; ++p) {
                const Floats difference = load(image + p * channels + c) - first;
                sum += difference, squares += difference * difference;
            }
            store(&sums[i * 2 * channels + c], sum), store(&sums[(i * 2 + 1) * channels + c], squares);
        }
    }
    for (int64_t image = 0; image < images; ++image)
        for (int64_t group = 0; group < groups; ++group) {
            double mean = 0, square = 0, anchor = 0;     // of the group, as differences to its first channel
            for (int64_t c = group * each; c < (group + 1) * each; ++c) {
                double sum = 0, squares = 0;
                for (int64_t chunk = 0; chunk < chunks; ++chunk) {
                    const float* const found = &sums[(image * chunks + chunk) * 2 * channels + c];
                    sum += found[0], squares += found[channels];
                }
                const double at = double(x[image * pixels * channels + c]) + (shift ? shift[image * channels + c] : 0.f);
                if (c == group * each) anchor = at;
                const double more = at - anchor, own = sum / pixels;
                mean += (own + more) / each;
                square += (squares / pixels + 2 * own * more + more * more) / each;
            }
            const double deviation = std::max(square - mean * mean, 0.0) + eps;
            for (int64_t c = group * each; c < (group + 1) * each; ++c) {
                const double factor = weight[c] / std::sqrt(deviation);
                scale[image * channels + c] = float(factor);
                offset[image * channels + c] =
                    float(bias[c] + ((shift ? shift[image * channels + c] : 0.f) - mean - anchor) * factor);
            }
        }
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < images * chunks; ++i) {
        const int64_t image = i / chunks, begin = i % chunks * CHUNK, end = std::min(begin + CHUNK, pixels);
        const float *const a = &scale[image * channels], *const b = &offset[image * channels];
        for (int64_t p = begin; p < end; ++p) {
            const int64_t at = (image * pixels + p) * channels;
            for (int64_t c = 0; c < channels; c += LANES)
                store(y + at + c, silu(load(x + at + c) * load(a + c) + load(b + c)));
        }
    }
    return nullptr;
}
