// bfloat16 in place of CUDA's: the upper half of a float, rounded to nearest even. Not a number becomes none other.
#pragma once
#include <cstdint>
#include <cstring>

struct __nv_bfloat16 {
    std::uint16_t bits;
    __nv_bfloat16() = default;
    explicit __nv_bfloat16(float value) {
        std::uint32_t all;
        std::memcpy(&all, &value, 4);
        bits = std::uint16_t(value != value ? 0x7fc0 : (all + 0x7fff + (all >> 16 & 1)) >> 16);
    }
    explicit operator float() const {
        const std::uint32_t all = std::uint32_t(bits) << 16;
        float value;
        std::memcpy(&value, &all, 4);
        return value;
    }
};
