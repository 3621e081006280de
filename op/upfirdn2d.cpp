// upfirdn2d on the CPU, behind a plain C interface: without PyTorch's headers it builds in about a second.
// Each function returns nullptr, or a message about what was wrong with its arguments.
//
// Along an axis, output o sums kernel[size - 1 - tap] * x[i] over the taps with
//     i * up = o * down + tap - before.
// Outputs that lie `phases` = up / gcd(up, down) apart use the same taps, on inputs that lie `step` =
// down / gcd apart. With the inputs of a row sorted by i modulo `step` and its outputs by o modulo `phases`
// every tap is one multiply-add of contiguous rows, and zeros around the inputs save tests for the border.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

namespace {

constexpr int64_t BLOCK = 16;  // weighted_sum works on whole blocks of elements, which stay in registers
constexpr int64_t NONE = std::numeric_limits<int64_t>::min();

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t whole_blocks(int64_t size) { return divide_up(size, BLOCK) * BLOCK; }

template <typename T>
struct Term {
    const T* x;
    T factor;
};

// The input i that an output meets at a tap [outputs, taps], or NONE; i may lie outside the image.
std::vector<int64_t> find_inputs(int64_t outputs, int64_t taps, int64_t up, int64_t down, int64_t before) {
    std::vector<int64_t> inputs(outputs * taps, NONE);
    for (int64_t o = 0; o < outputs; ++o)
        for (int64_t tap = 0; tap < taps; ++tap) {
            const int64_t at = o * down + tap - before;
            if (at % up == 0) inputs[o * taps + tap] = at / up;
        }
    return inputs;
}

// y = sum of factor * x over the terms
template <typename T>
void weighted_sum(T* y, const std::vector<Term<T>>& terms, int64_t num_terms, int64_t size) {
    for (int64_t start = 0; start < size; start += BLOCK) {
        T sum[BLOCK] = {};
        for (int64_t t = 0; t < num_terms; ++t)
            for (int64_t i = 0; i < BLOCK; ++i) sum[i] += terms[t].factor * terms[t].x[start + i];
        for (int64_t i = 0; i < BLOCK; ++i) y[start + i] = sum[i];
    }
}

// sorted[(i + left) % step][(i + left) / step] = x[i]; 1 and 2, the usual steps, become vector code
template <typename T>
void sort_inputs(T* sorted, const T* x, int64_t size, int64_t left, int64_t step, int64_t stride) {
    for (int64_t r = 0; r < step; ++r) {
        T* __restrict row = sorted + (left + r) % step * stride + (left + r) / step;
        const int64_t count = divide_up(size - r, step);
        if (step == 1) std::copy(x, x + size, row);
        else if (step == 2) for (int64_t i = 0; i < count; ++i) row[i] = x[2 * i + r];
        else for (int64_t i = 0; i < count; ++i) row[i] = x[step * i + r];
    }
}

// y[o] = sorted[o % phases][o / phases]
template <typename T>
void merge_outputs(T* __restrict y, const T* sorted, int64_t size, int64_t phases, int64_t stride) {
    if (phases == 1) {
        std::copy(sorted, sorted + size, y);
    } else if (phases == 2) {
        for (int64_t i = 0; i < size / 2; ++i) y[2 * i] = sorted[i], y[2 * i + 1] = sorted[stride + i];
        if (size % 2 == 1) y[size - 1] = sorted[size / 2];
    } else {
        for (int64_t o = 0; o < size; ++o) y[o] = sorted[o % phases * stride + o / phases];
    }
}

// The kernel, flipped, as a product columns [kh, rank] x rows [rank, kw]: of rank 1 where it is separable.
template <typename T>
struct Factors {
    int64_t rank;
    std::vector<T> columns, rows;

    Factors(const T* kernel, int64_t kh, int64_t kw) {
        std::vector<T> flipped(kernel, kernel + kh * kw);
        std::reverse(flipped.begin(), flipped.end());
        const auto smaller = [](T a, T b) { return std::abs(a) < std::abs(b); };
        const int64_t largest = std::max_element(flipped.begin(), flipped.end(), smaller) - flipped.begin();
        const T pivot = flipped[largest], tolerance = 4 * std::numeric_limits<T>::epsilon() * std::abs(pivot);
        rank = 1;
        rows.assign(&flipped[largest / kw * kw], &flipped[largest / kw * kw] + kw);
        for (int64_t ky = 0; ky < kh; ++ky) {
            columns.push_back(pivot == 0 ? T(0) : flipped[ky * kw + largest % kw] / pivot);
            for (int64_t kx = 0; kx < kw; ++kx)
                if (!(std::abs(flipped[ky * kw + kx] - columns[ky] * rows[kx]) <= tolerance)) rank = kh;
        }
        if (rank == 1) return;
        rows = flipped;
        columns.assign(kh * kh, T(0));
        for (int64_t ky = 0; ky < kh; ++ky) columns[ky * kh + ky] = T(1);
    }
};

template <typename T>
const char* upfirdn2d(const T* x, const T* kernel, T* y, int64_t planes, int64_t h, int64_t w, int64_t kh,
                      int64_t kw, int64_t up, int64_t down, int64_t before_y, int64_t before_x, int64_t oh,
                      int64_t ow) {
    if (!kernel || (planes > 0 && (!x || !y))) return "null pointer";
    if (planes < 0 || h < 1 || w < 1 || oh < 1 || ow < 1) return "image sizes must be positive";
    if (kh < 1 || kw < 1) return "the kernel must not be empty";
    if (up < 1 || down < 1) return "up and down must be at least 1";

    const Factors<T> factors(kernel, kh, kw);
    const int64_t rank = factors.rank;
    const int64_t gcd = std::gcd(up, down), phases = std::min(up / gcd, ow), step = down / gcd;
    const int64_t left = std::max<int64_t>(0, divide_up(before_x, up));
    const auto phase_size = [&](int64_t p) { return divide_up(ow - p, phases); };
    const std::vector<int64_t> input_rows = find_inputs(oh, kh, up, down, before_y);
    std::vector<int64_t> columns = find_inputs(phases, kw, up, down, before_x);
    int64_t padded = left + w;
    for (int64_t p = 0; p < phases; ++p)
        for (int64_t tap = 0; tap < kw; ++tap)
            if (columns[p * kw + tap] != NONE)
                padded = std::max(padded, left + columns[p * kw + tap] + step * whole_blocks(phase_size(p)));
    const int64_t in_stride = divide_up(padded, step), out_stride = whole_blocks(phase_size(0));
    const int64_t row_size = phases * out_stride;
    for (int64_t& i : columns)  // from here on: where the sorted row holds it
        if (i != NONE) i = (i + left) % step * in_stride + (i + left) / step;

    #pragma omp parallel if (planes * oh * ow >= 32768)  // below, waking the threads takes longer
    {
        std::vector<T> input(step * in_stride), filtered(h * rank * row_size), output(row_size);
        std::vector<Term<T>> terms(std::max(kw, kh));
        #pragma omp for
        for (int64_t plane = 0; plane < planes; ++plane) {
            for (int64_t i = 0; i < h; ++i) {  // along the rows
                sort_inputs(input.data(), x + (plane * h + i) * w, w, left, step, in_stride);
                for (int64_t r = 0; r < rank; ++r) {
                    T* const row = &filtered[(i * rank + r) * row_size];
                    for (int64_t p = 0; p < phases; ++p) {
                        int64_t n = 0;
                        for (int64_t tap = 0; tap < kw; ++tap) {
                            if (columns[p * kw + tap] == NONE) continue;
                            terms[n].x = &input[columns[p * kw + tap]];
                            terms[n++].factor = factors.rows[r * kw + tap];
                        }
                        weighted_sum(row + p * out_stride, terms, n, phase_size(p));
                    }
                }
            }
            for (int64_t o = 0; o < oh; ++o) {  // along the columns
                int64_t n = 0;
                for (int64_t tap = 0; tap < kh; ++tap) {
                    const int64_t i = input_rows[o * kh + tap];
                    if (i < 0 || i >= h) continue;  // NONE is negative too
                    for (int64_t r = 0; r < rank; ++r) {
                        if (factors.columns[tap * rank + r] == 0) continue;
                        terms[n].x = &filtered[(i * rank + r) * row_size];
                        terms[n++].factor = factors.columns[tap * rank + r];
                    }
                }
                weighted_sum(output.data(), terms, n, row_size);
                merge_outputs(y + (plane * oh + o) * ow, output.data(), ow, phases, out_stride);
            }
        }
    }
    return nullptr;
}

}  // namespace

#define EXPORT(NAME, T)                                                                                     \
    extern "C" const char* NAME(const T* x, const T* kernel, T* y, int64_t planes, int64_t h, int64_t w,    \
                                int64_t kh, int64_t kw, int64_t up, int64_t down, int64_t before_y,         \
                                int64_t before_x, int64_t oh, int64_t ow) {                                 \
        return upfirdn2d(x, kernel, y, planes, h, w, kh, kw, up, down, before_y, before_x, oh, ow);         \
    }

EXPORT(upfirdn2d_float32, float)
EXPORT(upfirdn2d_float64, double)
