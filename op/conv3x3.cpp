// 3 x 3 convolution of stride 1 on the CPU, float32, channels last, by Winograd's minimal filtering F(4 x 4, 3 x 3).
// See conv3x3.py.
//
// 4 x 4 outputs of a channel come from 6 x 6 inputs. Both are polynomials' values at 36 pairs of points, where the
// convolution is a product: 36 multiplications for 16 outputs, in place of 144. The products of all channels are 36
// matrix products over a block of tiles; lanes run along channels.
#include "lanes.h"

namespace {

constexpr int OUT = 4, IN = 6, POINTS = IN * IN;
constexpr int ROWS = 6, COLUMNS = 2 * LANES;        // of a product that stays in registers
constexpr int64_t TILES = 4 * ROWS;                 // of a block; its values stay near

// Values at the points 0, 1, -1, 2, -2 and infinity: of 6 inputs (B^T d), of 3 taps (G g); and 4 outputs (A^T m).
inline void of_inputs(const Floats* d, int step, Floats* to) {
    const Floats d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step];
    const Floats even = d4 - 4 * d2, odd = d3 - 4 * d1, near = d4 - d2, far = 2 * (d3 - d1);
    to[0] = 4 * d[0] - 5 * d2 + d4;
    to[1] = even + odd, to[2] = even - odd;
    to[3] = near + far, to[4] = near - far;
    to[5] = 4 * d1 - 5 * d3 + d[5 * step];
}
inline void of_taps(const Floats* g, int step, Floats* to) {
    const Floats ends = (g[0] + g[2 * step]) / 6, middle = g[step] / 6;
    const Floats far_ends = g[0] / 24 + g[2 * step] / 6, far_middle = g[step] / 12;
    to[0] = g[0] / 4;
    to[1] = -ends - middle, to[2] = middle - ends;
    to[3] = far_ends + far_middle, to[4] = far_ends - far_middle;
    to[5] = g[2 * step];
}
inline void to_outputs(const Floats* m, int step, Floats* to) {
    const Floats sum = m[step] + m[2 * step], difference = m[step] - m[2 * step];
    const Floats far_sum = m[3 * step] + m[4 * step], far_difference = m[3 * step] - m[4 * step];
    to[0] = m[0] + sum + far_sum;
    to[1] = difference + 2 * far_difference;
    to[2] = sum + 4 * far_sum;
    to[3] = difference + 8 * far_difference + m[5 * step];
}

// The weights [out, in, 3, 3] at the points: [points, out / COLUMNS, in, COLUMNS].
void transform_weights(const float* weights, int64_t out, int64_t in, float* to, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t o = 0; o < out; o += LANES)
        for (int64_t c = 0; c < in; ++c) {
            Floats taps[9], half[3 * IN], whole[IN];
            for (int tap = 0; tap < 9; ++tap)
                for (int lane = 0; lane < LANES; ++lane) taps[tap][lane] = weights[((o + lane) * in + c) * 9 + tap];
            for (int j = 0; j < 3; ++j) of_taps(taps + j, 3, half + j * IN);
            for (int p = 0; p < IN; ++p) {
                of_taps(half + p, IN, whole);
                for (int q = 0; q < IN; ++q)
                    store(to + ((p * IN + q) * out + o / COLUMNS * COLUMNS) * in + c * COLUMNS + o % COLUMNS, whole[q]);
            }
        }
}

// to [ROWS, COLUMNS] = a [ROWS, in] b [in, COLUMNS]; rows of `to` are `pitch` apart.
inline void multiply(const float* a, const float* b, int64_t in, float* to, int64_t pitch) {
    Floats sum[ROWS][2] = {};
    for (int64_t k = 0; k < in; ++k) {
        const Floats left = load(b + k * COLUMNS), right = load(b + k * COLUMNS + LANES);
#pragma GCC unroll 6
        for (int row = 0; row < ROWS; ++row) {
            const Floats value = a[row * in + k] + Floats{};
            sum[row][0] += value * left, sum[row][1] += value * right;
        }
    }
    for (int row = 0; row < ROWS; ++row)
        store(to + row * pitch, sum[row][0]), store(to + row * pitch + LANES, sum[row][1]);
}

struct Tile { int64_t image, top, left; };

inline Tile tile_of(int64_t index, int64_t height, int64_t width) {
    const int64_t across = (width + OUT - 1) / OUT, down = (height + OUT - 1) / OUT;
    return {index / (across * down), index / across % down * OUT, index % across * OUT};
}

}  // namespace

// y [images, height, width, out] = scale (conv(x [images, height, width, in]) + bias + residual); zeros around x.
extern "C" const char* conv3x3(const float* x, const float* weights, const float* bias, const float* residual, float* y,
                               int64_t images, int64_t height, int64_t width, int64_t in, int64_t out, double scale_,
                               int threads) {
    if (in % LANES || out % COLUMNS) return "channels must be multiples of 8 and 16";
    const int64_t tiles = images * ((width + OUT - 1) / OUT) * ((height + OUT - 1) / OUT);
    const float scale = float(scale_);
    const Scratch transformed(POINTS * out * in), zeros(in);
    if (!transformed.data || !zeros.data) return "DefaultCPUAllocator: not enough memory";
    std::memset(zeros.data, 0, in * sizeof(float));
    transform_weights(weights, out, in, transformed.data, threads);
    bool failed = false;
#pragma omp parallel num_threads(threads)
    {
        // 16 more: points that lie a power of two apart would share few places in the cache.
        const int64_t from_pitch = TILES * in + 16, to_pitch = TILES * out + 16;
        const Scratch from(POINTS * from_pitch), to(POINTS * to_pitch);
        if (!from.data || !to.data) failed = true;
#pragma omp for schedule(static)
        for (int64_t first = 0; first < tiles; first += TILES) {
            if (failed) continue;
            const int64_t count = std::min(TILES, tiles - first);
            for (int64_t t = 0; t < count; ++t) {
                const Tile tile = tile_of(first + t, height, width);
                const float* pixels[POINTS];
                for (int i = 0; i < POINTS; ++i) {
                    const int64_t row = tile.top + i / IN - 1, column = tile.left + i % IN - 1;
                    const bool inside = row >= 0 && row < height && column >= 0 && column < width;
                    pixels[i] = inside ? x + ((tile.image * height + row) * width + column) * in : zeros.data;
                }
                for (int64_t c = 0; c < in; c += LANES) {
                    Floats line[IN], half[POINTS], whole[IN];
                    for (int j = 0; j < IN; ++j) {
                        for (int i = 0; i < IN; ++i) line[i] = load(pixels[i * IN + j] + c);
                        of_inputs(line, 1, half + j * IN);
                    }
                    for (int p = 0; p < IN; ++p) {
                        of_inputs(half + p, IN, whole);
                        for (int q = 0; q < IN; ++q) store(from.data + (p * IN + q) * from_pitch + t * in + c, whole[q]);
                    }
                }
            }
            for (int point = 0; point < POINTS; ++point)
                for (int64_t o = 0; o < out; o += COLUMNS)
                    for (int64_t t = 0; t < count; t += ROWS)       // rows beyond `count` are whatever they were
                        multiply(from.data + point * from_pitch + t * in, transformed.data + (point * out + o) * in, in,
                                 to.data + point * to_pitch + t * out + o, out);
            for (int64_t t = 0; t < count; ++t) {
                const Tile tile = tile_of(first + t, height, width);
                const int rows = int(std::min<int64_t>(OUT, height - tile.top));
                const int columns = int(std::min<int64_t>(OUT, width - tile.left));
                for (int64_t o = 0; o < out; o += LANES) {
                    const Floats offset = load(bias + o);
                    Floats line[IN], half[IN * OUT], whole[OUT];
                    for (int q = 0; q < IN; ++q) {
                        for (int p = 0; p < IN; ++p) line[p] = load(to.data + (p * IN + q) * to_pitch + t * out + o);
                        to_outputs(line, 1, half + q * OUT);
                    }
                    for (int i = 0; i < rows; ++i) {
                        to_outputs(half + i, OUT, whole);
                        const int64_t at = ((tile.image * height + tile.top + i) * width + tile.left) * out + o;
                        for (int j = 0; j < columns; ++j) {
                            const Floats sum = whole[j] + offset;
                            store(y + at + j * out, scale * (residual ? sum + load(residual + at + j * out) : sum));
                        }
                    }
                }
            }
        }
    }
    return failed ? "DefaultCPUAllocator: not enough memory" : nullptr;
}
