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

constexpr int64_t MOST_SLICES = 8, MOST_ROWS = 32;
constexpr int BLOCK = 16;           // planes at a time; those of the adjoint stay in the cache
constexpr float ROUNDING = 0.01f;   // of positions, in voxels, with much to spare

// Lines of the volume along one in-plane axis with zeros around, [plane, slice, across], and back; zeros at first.
struct Lines {
    int planes, middle, breadth;        // planes, the middle one, voxels of a line
    int64_t stride, size;               // floats of a line, floats of a plane
    bool turned;
    Scratch scratch;                    // without data where there is no memory for it

    Lines(const Sizes& n, int axis)
        : planes(joseph::planes(n, axis)), middle(joseph::middle_plane(n, axis)), breadth(joseph::planes(n, 1 - axis)),
          stride(breadth + 4), size(n.depth * stride), turned(!axis), scratch(planes * size + 2 * LANES) {
        if (scratch.data) std::fill(scratch.data, scratch.data + planes * size + 2 * LANES, 0.f);
    }
    float* line(int64_t slice, int64_t plane) const { return scratch.data + plane * size + slice * stride; }
    template <class Visit> void each(const Sizes& n, Visit visit) const {
        for (int64_t z = 0; z < n.depth; ++z)
            for (int64_t y = 0; y < n.height; ++y)
                for (int64_t x = 0; x < n.width; ++x)
                    visit((z * n.height + y) * n.width + x, turned ? line(z, x)[y + 1] : line(z, y)[x + 1]);
    }
};

// Between which positions eight rays are: start + away * step of each of them.
struct Range {
    float start, start_most, step, step_most;

    Range(const float* starts, const float* steps, int count)
        : start(*std::min_element(starts, starts + count)), start_most(*std::max_element(starts, starts + count)),
          step(*std::min_element(steps, steps + count)), step_most(*std::max_element(steps, steps + count)) {}
    float least(float away) const { return start + std::min(away * step, away * step_most) - ROUNDING; }
    float most(float away) const { return start_most + std::max(away * step, away * step_most) + ROUNDING; }
};

struct Span { int begin, end; };

// The rays of a view that step along one axis, in lanes: column c of row r is at [r * padded + c].
struct Rays {
    int padded = 0;
    std::vector<float> across, tilt, z, slope, length;
    std::vector<int> column;
    std::vector<Span> planes;           // of each eight, where one of them is inside
    std::vector<Range> sideways, upwards;   // of each eight columns; of those of row r from r * padded / LANES on

    Rays(const View& view, const Sizes& n, int axis) {
        const int rows = int(n.bottom - n.top), columns = int(n.right - n.left);
        for (int u = 0; u < columns; ++u) {
            const Ray ray = joseph::trace(view, n, 0, u);
            if (ray.axis != axis) continue;
            column.push_back(u), across.push_back(ray.across), tilt.push_back(ray.tilt);
        }
        padded = int(round_up(column.size(), LANES));
        if (!padded) return;
        // The rest of the lanes go with the last ray, below the volume.
        across.resize(padded, across.back()), tilt.resize(padded, tilt.back());
        z.assign(rows * padded, -9.f), slope.assign(rows * padded, 0.f), length.assign(rows * padded, 0.f);
        for (int r = 0; r < rows; ++r)
            for (size_t c = 0; c < column.size(); ++c) {
                const Ray ray = joseph::trace(view, n, r, column[c]);
                z[r * padded + c] = ray.z, slope[r * padded + c] = ray.slope, length[r * padded + c] = ray.length;
            }
        for (int c = 0; c < padded; c += LANES) {
            sideways.emplace_back(&across[c], &tilt[c], LANES);
            planes.push_back(inside(c, joseph::planes(n, axis), joseph::middle_plane(n, axis),
                                    float(joseph::planes(n, 1 - axis))));
        }
        for (int r = 0; r < rows; ++r)
            for (int c = 0; c < padded; c += LANES)
                upwards.emplace_back(&z[r * padded + c], &slope[r * padded + c],
                                     std::min(LANES, int(column.size()) - c));
    }

    Span inside(int c, int count, int middle, float breadth) const {
        float low = float(count), high = -1;
        for (int lane = c; lane < c + LANES; ++lane) {
            float from = float(-middle), to = float(count - 1 - middle);
            joseph::narrow(across[lane], tilt[lane], breadth, from, to);
            low = std::min(low, from), high = std::max(high, to);
        }
        return {std::max(0, middle + int(std::floor(low))), std::min(count, middle + int(std::ceil(high)) + 1)};
    }

    // Slices that eight rays, from `at` on, meet in some planes.
    Span slices(int at, Span planes, int middle, int depth) const {
        const Range& range = upwards[at / LANES];
        const float away = float(planes.begin - middle), last = float(planes.end - 1 - middle);
        return {int(std::clamp(std::min(range.least(away), range.least(last)), 0.f, float(depth))),
                int(std::clamp(std::max(range.most(away), range.most(last)) + 2.f, 0.f, float(depth)))};
    }
    // Whether eight rays, from column c on, meet each of some planes within fifteen voxels.
    bool near(int c, Span planes, int middle) const {
        const Range& range = sideways[c / LANES];
        const float away = float(planes.begin - middle), last = float(planes.end - 1 - middle);
        return std::max(range.most(away) - range.least(away), range.most(last) - range.least(last)) < 2 * LANES - 3;
    }
};

struct Place { Ints index; Floats high; };      // between index and index + 1 of a line, the latter with this weight

inline Place place(const Rays& rays, int c, int away, int breadth) {
    const Floats at = clamp(load(&rays.across[c]) + float(away) * load(&rays.tilt[c]), -1.f, float(breadth)) + 1.f;
    const Ints index = whole(at);
    return {index, at - floats(index)};
}

// NEAR: all indices are base to base + 14.
template <bool NEAR> inline Floats between(const float* line, const Place& at, int base) {
    const Floats low = pick<NEAR>(line + base, at.index - base), high = pick<NEAR>(line + base + 1, at.index - base);
    return low + at.high * (high - low);
}

inline Floats weight(const Rays& rays, int at, int away, int slice) {      // of a slice in row and column `at`
    const Floats off = load(&rays.z[at]) + float(away) * load(&rays.slope[at]) - float(slice);
    const Floats near = 1.f - (off < 0.f ? -off : off);
    return near > 0.f ? near : Floats{};
}

inline bool fits(const Sizes& n) { return n.depth <= MOST_SLICES && n.bottom - n.top <= MOST_ROWS; }

// What some planes add to the sums of eight columns of rays.
template <bool NEAR>
inline void add_planes(const Lines& lines, const Rays& rays, int c, Span planes, int rows, int depth, Floats* sums) {
    Span met[MOST_ROWS];
    for (int r = 0; r < rows; ++r)
        met[r] = rays.slices(r * rays.padded + c, planes, lines.middle, depth);
    for (int p = planes.begin; p < planes.end; ++p) {
        const int away = p - lines.middle;
        const Place at = place(rays, c, away, lines.breadth);
        const float least = rays.sideways[c / LANES].least(float(away));
        const int base = !NEAR ? 0 : int(std::clamp(least, -1.f, float(lines.breadth)) + 1.f);
        Floats values[MOST_SLICES];
        for (int slice = 0; slice < depth; ++slice) values[slice] = between<NEAR>(lines.line(slice, p), at, base);
        for (int r = 0; r < rows; ++r)
            for (int slice = met[r].begin; slice < met[r].end; ++slice)
                sums[r] += weight(rays, r * rays.padded + c, away, slice) * values[slice];
    }
}

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
                const Span planes = rays.planes[c / LANES];
                for (int begin = planes.begin; begin < planes.end; begin += BLOCK) {
                    const Span block{begin, std::min(begin + BLOCK, planes.end)};
                    (rays.near(c, block, lines.middle) ? add_planes<true> : add_planes<false>)(
                        lines, rays, c, block, rows, depth, sums);
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
                    const Span planes{std::max(rays.planes[c / LANES].begin, begin),
                                      std::min(rays.planes[c / LANES].end, begin + BLOCK)};
                    if (planes.begin >= planes.end) continue;
                    Span meeting[MOST_SLICES];      // rows
                    std::fill_n(meeting, depth, Span{rows, 0});
                    for (int r = 0; r < rows; ++r) {
                        const Span met = rays.slices(r * rays.padded + c, planes, lines.middle, depth);
                        for (int slice = met.begin; slice < met.end; ++slice)
                            meeting[slice] = {std::min(meeting[slice].begin, r), r + 1};
                    }
                    for (int p = planes.begin; p < planes.end; ++p) {
                        const int away = p - lines.middle;
                        const Place at = place(rays, c, away, lines.breadth);
                        for (int slice = 0; slice < depth; ++slice) {
                            Floats value{};
                            for (int r = meeting[slice].begin; r < meeting[slice].end; ++r)
                                value += weight(rays, r * rays.padded + c, away, slice) *
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
