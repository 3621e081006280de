// Joseph's cone-beam projector and its exact adjoint for CPU, float32. See cone_beam.py for the geometry.
//
// Volumes are [H, W, D], projections [views, columns, rows]: both run along z innermost. For every plane that
// a detector column crosses, the two neighbouring z-columns of the volume are blended once ("line"), then
// interpolated at all rows.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

struct Column { double axis, shift, tilt, p_source, z_source, slope, slope_step, length; };

struct Sizes { int64_t columns, rows, depth, height, width; double voxel_z; };

// One plane of one detector column: the z-columns on its two sides (-1 where that side is outside the
// volume), the weight of the second, and the z index start + row * step.
struct Crossing { int64_t low, high; float weight; double start, step; };

template <class Visit> void for_each_crossing(const Column& c, const Sizes& n, Visit visit) {
    const bool along_x = c.axis == 0;
    const int64_t planes = along_x ? n.width : n.height, breadth = along_x ? n.height : n.width;
    const int64_t plane_stride = along_x ? 1 : n.width, stride = along_x ? n.width : 1;
    for (int64_t p = 0; p < planes; ++p) {
        const double across = c.shift + p * c.tilt, away = p - c.p_source;
        if (!(across > -1 && across < breadth)) continue;
        const int64_t first = int64_t(across + 1) - 1;
        const int64_t low = p * plane_stride + first * stride, high = low + stride;
        visit(Crossing{first >= 0 ? low : -1, first + 1 < breadth ? high : -1, float(across - first),
                       c.z_source + away * c.slope, away * c.slope_step});
    }
}

float ray_length(const Column& c, const Sizes& n, int64_t row) {
    const double rise = (c.slope + row * c.slope_step) * n.voxel_z;
    return float(std::sqrt(c.length * c.length + rise * rise));
}

// sums[row] += the line at z index start + row * step. Slice 0 is at line[1]; line[0] and the two entries
// after the last slice are zeros.
void gather_rows(const float* __restrict line, float* __restrict sums, const Crossing& x, const Sizes& n) {
    const double edge = (-1 - x.start) / x.step, other = (n.depth - x.start) / x.step;
    const int begin = int(std::clamp<double>(std::min(edge, other), 0, n.rows));
    const int end = int(std::clamp<double>(std::max(edge, other) + 1, 0, n.rows));
    const float start = float(x.start + 1), step = float(x.step), top = float(n.depth + 1);
    for (int row = begin; row < end; ++row) {
        const float z = std::min(std::max(start + row * step, 0.f), top);
        const int slice = int(z);
        sums[row] += line[slice] + (z - slice) * (line[slice + 1] - line[slice]);
    }
}

// The adjoint, for slices [begin, end): line[slice - begin] = sum of the rows that interpolate from that
// slice: those less than one slice away, taken two at a time. row[-1] and row[rows] are zeros.
void gather_slices(const float* __restrict row, float* __restrict line, const Crossing& x, const Sizes& n,
                   int begin, int end) {
    const float start = float(x.start), step = float(x.step);
    const float each = float(1 / x.step), reach = std::abs(each);           // rows a slice
    const float first = float(-x.start / x.step) - reach;                   // out of reach of slice 0
    const int count = int(std::ceil(2 * reach)), rows = int(n.rows);
    std::fill(line, line + (end - begin), 0.f);
    for (int k = 1; k <= count; k += 2)
        for (int slice = begin; slice < end; ++slice) {
            const int r = int(std::floor(first + slice * each)) + k;
            const float away = start + r * step - slice;
            const float weight = std::max(0.f, 1 - std::abs(away));
            const float next = std::max(0.f, 1 - std::abs(away + step));
            line[slice - begin] +=
                weight * row[std::clamp(r, -1, rows)] + next * row[std::clamp(r + 1, -1, rows)];
        }
}

}  // namespace

// projections [columns of all views, rows] of volume [H, W, D]; threads own detector columns.
extern "C" void cone_beam_project(const float* volume, float* projections, const Column* columns,
                                  const Sizes* sizes, int threads) {
    const Sizes n = *sizes;
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> line(n.depth + 3, 0.f), none(n.depth, 0.f);
#pragma omp for schedule(dynamic, 16)
        for (int64_t i = 0; i < n.columns; ++i) {
            float* __restrict sums = projections + i * n.rows;
            std::fill(sums, sums + n.rows, 0.f);
            for_each_crossing(columns[i], n, [&](const Crossing& x) {
                const float* low = x.low < 0 ? none.data() : volume + x.low * n.depth;
                const float* high = x.high < 0 ? none.data() : volume + x.high * n.depth;
                float* __restrict blend = line.data() + 1;
                for (int64_t z = 0; z < n.depth; ++z) blend[z] = low[z] + x.weight * (high[z] - low[z]);
                gather_rows(line.data(), sums, x, n);
            });
            for (int64_t row = 0; row < n.rows; ++row) sums[row] *= ray_length(columns[i], n, row);
        }
    }
}

// volume [H, W, D], zeros before, of projections [columns of all views, rows]; threads own slabs of z.
extern "C" void cone_beam_backproject(const float* projections, float* volume, const Column* columns,
                                      const Sizes* sizes, int threads) {
    const Sizes n = *sizes;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int slab = 0; slab < threads; ++slab) {
        const int begin = int(n.depth * slab / threads), end = int(n.depth * (slab + 1) / threads);
        std::vector<float> rows(n.rows + 2, 0.f), line(end - begin);
        for (int64_t i = 0; i < n.columns; ++i) {
            for (int64_t row = 0; row < n.rows; ++row)
                rows[row + 1] = projections[i * n.rows + row] * ray_length(columns[i], n, row);
            for_each_crossing(columns[i], n, [&](const Crossing& x) {
                gather_slices(rows.data() + 1, line.data(), x, n, begin, end);
                const float* __restrict blend = line.data();
                if (x.low >= 0) {
                    float* __restrict low = volume + x.low * n.depth + begin;
                    for (int z = 0; z < end - begin; ++z) low[z] += (1 - x.weight) * blend[z];
                }
                if (x.high >= 0) {
                    float* __restrict high = volume + x.high * n.depth + begin;
                    for (int z = 0; z < end - begin; ++z) high[z] += x.weight * blend[z];
                }
            });
        }
    }
}
