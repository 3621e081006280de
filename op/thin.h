// Volumes of few slices: eight neighbouring rays at a time, which meet a plane at neighbouring voxels. The work is
// that of the voxels that are there; by whole z-columns, as in cone_beam.cpp, sixteen slices would cost the same.
#pragma once
#include <vector>

#include "joseph.h"
#include "lanes.h"

namespace thin {

using joseph::Ray;
using joseph::Sizes;
using joseph::View;

constexpr int64_t MOST_SLICES = 6, MOST_ROWS = 16;
constexpr int BLOCK = 16;       // planes of the adjoint that stay in the cache

// Lines of the volume along one in-plane axis with zeros around, [slice, plane, across], and back; zeros at first.
struct Lines {
    int planes, middle, breadth;        // planes, the middle one, voxels of a line
    int64_t stride, size;               // floats of a line, floats of a slice
    bool turned;
    Scratch scratch;                    // without data where there is no memory for it

    Lines(const Sizes& n, int axis)
        : planes(joseph::planes(n, axis)), middle(joseph::middle_plane(n, axis)), breadth(joseph::planes(n, 1 - axis)),
          stride(breadth + 4), size(planes * stride), turned(!axis), scratch(n.depth * size) {
        if (scratch.data) std::fill(scratch.data, scratch.data + n.depth * size, 0.f);
    }
    float* line(int64_t slice, int64_t plane) const { return scratch.data + slice * size + plane * stride; }
    template <class Visit> void each(const Sizes& n, Visit visit) const {
        for (int64_t z = 0; z < n.depth; ++z)
            for (int64_t y = 0; y < n.height; ++y)
                for (int64_t x = 0; x < n.width; ++x)
                    visit((z * n.height + y) * n.width + x, turned ? line(z, x)[y + 1] : line(z, y)[x + 1]);
    }
};

// The rays of a view that step along one axis, in lanes: column c of row r is at [r * padded + c].
struct Rays {
    int padded = 0;
    std::vector<float> across, tilt, z, slope, length;
    std::vector<int> column;

    Rays(const View& view, const Sizes& n, int axis) {
        const int rows = int(n.bottom - n.top), columns = int(n.right - n.left);
        for (int u = 0; u < columns; ++u) {
            const Ray ray = joseph::trace(view, n, 0, u);
            if (ray.axis != axis) continue;
            column.push_back(u), across.push_back(ray.across), tilt.push_back(ray.tilt);
        }
        padded = int(round_up(column.size(), LANES));
        across.resize(padded, -9.f), tilt.resize(padded, 0.f);      // the rest of the lanes never meet the volume
        z.assign(rows * padded, -9.f), slope.assign(rows * padded, 0.f), length.assign(rows * padded, 0.f);
        for (int r = 0; r < rows; ++r)
            for (size_t c = 0; c < column.size(); ++c) {
                const Ray ray = joseph::trace(view, n, r, column[c]);
                z[r * padded + c] = ray.z, slope[r * padded + c] = ray.slope, length[r * padded + c] = ray.length;
            }
    }
};

struct Place { Ints index; Floats high; };      // between index and index + 1 of a line, the latter with this weight

inline Place place(const Rays& rays, int c, int away, int breadth) {
    const Floats at = clamp(load(&rays.across[c]) + float(away) * load(&rays.tilt[c]), -1.f, float(breadth)) + 1.f;
    const Ints index = whole(at);
    return {index, at - floats(index)};
}

inline Floats weight(const Rays& rays, int at, int away, int slice) {      // of a slice in row and column `at`
    const Floats off = load(&rays.z[at]) + float(away) * load(&rays.slope[at]) - float(slice);
    const Floats near = 1.f - (off < 0.f ? -off : off);
    return near > 0.f ? near : Floats{};
}

// Planes [first, last) in which one of eight rays is inside.
inline void narrow(const Rays& rays, int c, const Lines& lines, int& first, int& last) {
    const int planes = lines.planes, middle = lines.middle;
    float low = float(planes), high = -1;
    for (int lane = c; lane < c + LANES; ++lane) {
        float from = float(-middle), to = float(planes - 1 - middle);
        if (rays.across[lane] <= -9.f && rays.tilt[lane] == 0.f) continue;
        joseph::narrow(rays.across[lane], rays.tilt[lane], float(lines.breadth), from, to);
        low = std::min(low, from), high = std::max(high, to);
    }
    first = std::max(0, middle + int(std::floor(low))), last = std::min(planes, middle + int(std::ceil(high)) + 1);
}

inline bool fits(const Sizes& n) { return n.depth <= MOST_SLICES && n.bottom - n.top <= MOST_ROWS; }

// The projections of the chosen views.
inline const char* project(const float* volume, float* projections, const View* views,
                           const std::vector<int64_t>& chosen, const Sizes& n, int threads) {
    const int rows = int(n.bottom - n.top), depth = int(n.depth);
    for (int axis = 0; axis < 2; ++axis) {
        const Lines lines(n, axis);
        if (!lines.scratch.data) return "out of memory";
        lines.each(n, [&](int64_t voxel, float& value) { value = volume[voxel]; });
#pragma omp parallel for num_threads(threads) schedule(dynamic)
        for (int64_t k = 0; k < int64_t(chosen.size()); ++k) {
            const Rays rays(views[chosen[k]], n, axis);
            for (int c = 0; c < rays.padded; c += LANES) {
                Floats sums[MOST_ROWS] = {};
                int first, last;
                narrow(rays, c, lines, first, last);
                for (int p = first; p < last; ++p) {
                    const Place at = place(rays, c, p - lines.middle, lines.breadth);
                    for (int slice = 0; slice < depth; ++slice) {
                        const float* const line = lines.line(slice, p);
                        const Floats low = pick<false>(line, at.index), high = pick<false>(line + 1, at.index);
                        const Floats value = low + at.high * (high - low);
                        for (int r = 0; r < rows; ++r)
                            sums[r] += weight(rays, r * rays.padded + c, p - lines.middle, slice) * value;
                    }
                }
                for (int r = 0; r < rows; ++r)
                    for (int lane = 0; lane < LANES && c + lane < int(rays.column.size()); ++lane)
                        projections[joseph::first_pixel(n, chosen[k]) + r * n.det_columns + rays.column[c + lane]] =
                            sums[r][lane] * rays.length[r * rays.padded + c + lane];
            }
        }
    }
    return nullptr;
}

// The adjoint, added to the volume: a block of planes at a time for each thread.
inline const char* backproject(const float* projections, float* volume, const View* views,
                               const std::vector<int64_t>& chosen, const Sizes& n, int threads) {
    const int rows = int(n.bottom - n.top), depth = int(n.depth);
    for (int axis = 0; axis < 2; ++axis) {
        const Lines lines(n, axis);
        if (!lines.scratch.data) return "out of memory";
        std::vector<Rays> all;
        for (const int64_t view : chosen) {
            all.emplace_back(views[view], n, axis);
            for (int r = 0; r < rows; ++r)
                for (size_t c = 0; c < all.back().column.size(); ++c)
                    all.back().length[r * all.back().padded + c] *=
                        projections[joseph::first_pixel(n, view) + r * n.det_columns + all.back().column[c]];
        }
#pragma omp parallel for num_threads(threads) schedule(dynamic)
        for (int begin = 0; begin < lines.planes; begin += BLOCK)
            for (const Rays& rays : all)
                for (int c = 0; c < rays.padded; c += LANES) {
                    int first, last;
                    narrow(rays, c, lines, first, last);
                    first = std::max(first, begin), last = std::min(last, begin + BLOCK);
                    for (int p = first; p < last; ++p) {
                        const Place at = place(rays, c, p - lines.middle, lines.breadth);
                        for (int slice = 0; slice < depth; ++slice) {
                            Floats value{};
                            for (int r = 0; r < rows; ++r)
                                value += weight(rays, r * rays.padded + c, p - lines.middle, slice) *
                                         load(&rays.length[r * rays.padded + c]);
                            const Floats high = at.high * value, low = value - high;
                            float* const line = lines.line(slice, p);
                            for (int lane = 0; lane < LANES; ++lane)
                                line[at.index[lane]] += low[lane], line[at.index[lane] + 1] += high[lane];
                        }
                    }
                }
        // What lies beside the volume fell into the zeros around the lines.
        lines.each(n, [&](int64_t voxel, float& value) { volume[voxel] += value; });
    }
    return nullptr;
}

}  // namespace thin
