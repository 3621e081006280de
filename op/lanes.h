// Eight floats at a time, in the vector types of GCC and Clang, and memory for them.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#ifdef __AVX2__
#include <immintrin.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace {

constexpr int LANES = 8;
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
const Floats LANE = {0, 1, 2, 3, 4, 5, 6, 7};

inline Floats load(const float* from) {
    Floats values;
    std::memcpy(&values, from, sizeof values);
    return values;
}
inline void store(float* to, Floats values) { std::memcpy(to, &values, sizeof values); }
inline Ints whole(Floats values) { return __builtin_convertvector(values, Ints); }
inline Floats floats(Ints values) { return __builtin_convertvector(values, Floats); }
inline Floats clamp(Floats values, float low, float high) {
    values = values > low ? values : low + Floats{};
    return values < high ? values : high + Floats{};
}

// from[index]. NEAR says that all indices are from 0 to 15: permutations are much faster than gathering.
template <bool NEAR> inline Floats pick(const float* from, Ints index) {
#ifdef __AVX2__
    if (!NEAR) return (Floats)_mm256_i32gather_ps(from, (__m256i)index, 4);
    const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(from), (__m256i)index);
    const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(from + LANES), (__m256i)index);
    return (Floats)_mm256_blendv_ps(low, high, (__m256)(index >= LANES));
#else
    Floats values;
    for (int lane = 0; lane < LANES; ++lane) values[lane] = from[index[lane]];
    return values;
#endif
}

inline int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// Numbers without initial values; in huge pages where the system has them, which saves thousands of page faults.
struct Scratch {
    float* data;
    explicit Scratch(int64_t size) {
        const int64_t page = size < 1 << 20 ? 64 : 1 << 21, bytes = round_up(std::max<int64_t>(4 * size, 1), page);
        data = static_cast<float*>(std::aligned_alloc(page, bytes));
#ifdef __linux__
        if (data && page > 64) madvise(data, bytes, MADV_HUGEPAGE);
#endif
    }
    Scratch(const Scratch&) = delete;
    ~Scratch() { std::free(data); }
};

}  // namespace
