// Joseph's cone-beam projector and its exact adjoint for CPU, float32. See cone_beam.py for the geometry, joseph.h
// for single rays. Volumes are [D, H, W], projections [views, rows, columns].
//
// Views whose v step is parallel to z ("upright") are done by detector columns: the rays of a column differ only
// in z, so in every plane the two neighbouring z-columns of the volume are blended once and then interpolated at
// all rows, eight at a time. This goes through the volume in tiles of whole z-columns, each laid out along z where
// it stays in the cache while all detector columns pass. Other views are done ray by ray, and voxel by voxel in the
// adjoint. A few slices alone are done as in thin.h. Whatever the number of threads, each result is the sum of the
// same terms in the same order.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "joseph.h"
#include "lanes.h"
#include "thin.h"

namespace {

using joseph::Camera;
using joseph::Pixels;
using joseph::Ray;
using joseph::Sizes;
using joseph::View;

constexpr int PAD = 32;                     // zeros on either side of a line, that vectors may read
constexpr int BLOCK = 16;                   // floats in a line of the cache
constexpr int64_t TILE_SIZE = 1 << 16;      // voxels that stay in the second-level cache

// Where a detector column meets a plane: between the z-columns first and first + 1, the latter with this weight;
// its rows at the slices start + row * step.
struct Crossing { int first; float weight; double start, step; };

// The rays of a detector column, and where its first pixel is in the projections.
struct Column {
    int axis, breadth;
    double source, each, source_across, across, source_z, first_z, step_z, length;
    int64_t pixel;

    Column(const View& view, const Sizes& n, int64_t index, int64_t u)
        : source_z(view.source[2]), first_z(view.first[2] + u * view.step_u[2]), step_z(view.step_v[2]),
          pixel(joseph::first_pixel(n, index) + u) {
        const double x = view.first[0] + u * view.step_u[0], y = view.first[1] + u * view.step_u[1];
        axis = std::abs(y) > joseph::TIE * std::abs(x), breadth = joseph::planes(n, 1 - axis);
        source = view.source[axis], each = 1 / (axis ? y : x);
        source_across = view.source[1 - axis], across = axis ? x : y;
        length = std::hypot(x * n.voxel_x, y * n.voxel_y);
    }
    double at(int plane) const { return source_across + (plane - source) * each * across; }
    bool cross(int plane, Crossing& c) const {
        const double t = (plane - source) * each, at = source_across + t * across;
        if (!(t > 0 && at > -1 && at < breadth)) return false;
        c.first = int(at + 1) - 1, c.weight = float(at - c.first);
        c.start = source_z + t * first_z, c.step = t * step_z;
        return true;
    }
    float row_length(const Sizes& n, int row) const {       // of ray a plane
        const float run = float(length), rise = float((first_z + row * step_z) * n.voxel_z);
        return std::sqrt(run * run + rise * rise) * float(std::abs(each));
    }
};

bool upright(const View& view) { return view.step_v[0] == 0 && view.step_v[1] == 0; }

std::vector<int64_t> upright_views(const View* views, const Sizes& n) {
    std::vector<int64_t> chosen;
    for (int64_t i = 0; i < n.views; ++i)
        if (upright(views[i])) chosen.push_back(i);
    return chosen;
}

std::vector<Column> upright_columns(const View* views, const Sizes& n) {
    std::vector<Column> columns;
    for (int64_t i = 0; i < n.views; ++i)
        for (int64_t u = 0; u < n.right - n.left && upright(views[i]); ++u) columns.emplace_back(views[i], n, i, u);
    return columns;
}

// A part of the volume with its neighbours all around, [edge + 2, edge + 2, depth] in the order y, x, z. Outside
// the volume are zeros; depth is a multiple of BLOCK.
struct Tile {
    int edge, stride, depth, count_x, count;
    int x0, x1, y0, y1;
    Scratch scratch;

    explicit Tile(const Sizes& n)
        : edge(int(std::clamp(std::sqrt(double(TILE_SIZE) / n.depth), 4., 64.))), stride(edge + 2),
          depth(int(round_up(n.depth, BLOCK))), count_x(int(n.width + edge - 1) / edge),
          count(int(n.height + edge - 1) / edge * count_x), scratch(stride * stride * depth + LANES) {}

    float* z_column(int y, int x) const { return scratch.data + ((y - y0 + 1) * stride + x - x0 + 1) * depth; }
    void move(const Sizes& n, int index) {
        y0 = index / count_x * edge, y1 = std::min<int>(y0 + edge, n.height);
        x0 = index % count_x * edge, x1 = std::min<int>(x0 + edge, n.width);
    }
    void clear() { std::fill(scratch.data, scratch.data + stride * stride * depth, 0.f); }
    void read(const float* volume, const Sizes& n) {
        if (x0 == 0 || y0 == 0 || x1 == n.width || y1 == n.height || depth > n.depth) clear();
        const int left = std::max(x0 - 1, 0), right = std::min<int>(x1 + 1, n.width);
        for (int y = std::max(y0 - 1, 0); y < std::min<int>(y1 + 1, n.height); ++y)
            for (int z = 0; z < n.depth; ++z) {
                const float* const from = volume + (z * n.height + y) * n.width;
                for (int x = left; x < right; ++x) z_column(y, x)[z] = from[x];
                for (int x = left; x < right + BLOCK; x += BLOCK) __builtin_prefetch(from + n.width + x);
            }
    }
    void write(float* volume, const Sizes& n) const {
        for (int y = y0; y < y1; ++y)
            for (int z = 0; z < n.depth; ++z)
                for (int x = x0; x < x1; ++x) volume[(z * n.height + y) * n.width + x] = z_column(y, x)[z];
    }
    // Calls visit(crossing, z-column, the next one) where the detector column crosses the tile: each crossing of
    // the volume in one tile or, with `shared`, in every tile that has one of the two z-columns.
    template <class Visit> void cross(const Column& column, bool shared, Visit visit) const {
        const int begin = column.axis ? y0 : x0, end = column.axis ? y1 : x1;
        const int low = column.axis ? x0 : y0, high = column.axis ? x1 : y1, first = low - (shared || low == 0);
        const double at = column.at(begin), at_end = column.at(end - 1);
        if (std::max(at, at_end) < first || std::min(at, at_end) >= high) return;
        Crossing c;
        for (int plane = begin; plane < end; ++plane)
            if (column.cross(plane, c) && c.first >= first && c.first < high) {
                float* const z = column.axis ? z_column(plane, c.first) : z_column(c.first, plane);
                visit(c, z, z + (column.axis ? 1 : stride) * depth);
            }
    }
};

struct Span { int begin, end; };

// Rows that meet the volume.
Span rows_of(const Crossing& c, int rows, int depth) {
    const double edge = (-1 - c.start) / c.step, other = (depth - c.start) / c.step;
    const int begin = int(std::clamp<double>(std::ceil(std::min(edge, other)), 0, rows));
    return {begin, int(std::clamp<double>(std::max(edge, other) + 1, begin, rows))};
}

// Slices that rows meet, from a multiple of LANES.
Span slices_of(const Crossing& c, int rows, int depth) {
    const double z = c.start, other = c.start + (rows - 1) * c.step;
    const int begin = int(std::clamp<double>(std::min(z, other), 0, depth));
    const int end = int(std::clamp<double>(std::max(z, other) + 2, 0, depth));
    return {begin < end ? begin / LANES * LANES : end, end};
}

// sums[row] += line at slice start + row * step. PAD numbers around the line are 0.
template <bool NEAR>
void add_rows(const float* __restrict line, float* __restrict sums, const Crossing& c, Span rows, int depth) {
    const float start = float(c.start + rows.begin * c.step + PAD), step = float(c.step);
    Floats number = LANE;
    line -= PAD;
    for (int row = rows.begin; row < rows.end; row += LANES, number += float(LANES)) {
        Floats z = start + number * step;
        if (!NEAR) z = clamp(z, 0, depth + PAD);
        const Ints slice = whole(z);
        const int base = !NEAR ? 0 : step < 0 ? slice[LANES - 1] : slice[0];
        const Floats low = pick<NEAR>(line + base, slice - base), high = pick<NEAR>(line + base + 1, slice - base);
        store(sums + row, load(sums + row) + low + (z - floats(slice)) * (high - low));
    }
}

// The adjoint: low and high += their shares of what the rows give to each slice. Those less than one slice away
// do, which are at most `taps` rows after (slice - start) / step - reach. PAD numbers around the rows are 0.
template <bool NEAR>
void add_slices(const float* __restrict row, float* __restrict low, float* __restrict high, const Crossing& c,
                Span slices, int rows) {
    const float start = float(c.start), step = float(c.step), each = float(1 / c.step), reach = std::abs(each);
    const float before = float(-c.start / c.step) - reach + PAD;
    const int taps = int(NEAR ? std::ceil(2 * reach) : std::min(std::ceil(2 * reach), float(rows)));
    Floats number = LANE + float(slices.begin);
    row -= PAD;
    for (int slice = slices.begin; slice < slices.end; slice += LANES, number += float(LANES)) {
        Floats at = before + number * each;
        if (!NEAR) at = clamp(at, PAD - 1, rows + PAD - 1);
        const Ints index = whole(at);
        const int base = !NEAR ? 0 : step < 0 ? index[LANES - 1] : index[0];
        Floats away = start + (floats(index) + float(1 - PAD)) * step - number, sum = {};
        for (int tap = 1; tap <= taps; ++tap, away += step) {
            Ints from = index - base;
            if (!NEAR) from = from + tap < rows + PAD ? from : rows + PAD - tap + Ints{};
            const Floats weight = 1 - (away < 0 ? -away : away);
            sum += (weight > 0 ? weight : Floats{}) * pick<NEAR>(row + base + tap, from);
        }
        store(low + slice, load(low + slice) + (1 - c.weight) * sum);
        store(high + slice, load(high + slice) + c.weight * sum);
    }
}

// Projections of a volume by detector columns, a share of them for each thread.
const char* project_upright(const float* volume, float* projections, const View* views, const Sizes& n,
                            int threads) {
    const int rows = int(n.bottom - n.top), depth = int(n.depth);
    const std::vector<Column> columns = upright_columns(views, n);
    const int64_t count = columns.size(), row_size = round_up(rows + LANES, BLOCK);
    const Scratch sums(count * row_size);
    if (!sums.data) return "out of memory";
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; ++thread) {
        const int64_t first = count * thread / threads, last = count * (thread + 1) / threads;
        if (first == last) continue;
        std::fill(sums.data + first * row_size, sums.data + last * row_size, 0.f);
        Tile tile(n);
        std::vector<float> room(tile.depth + 2 * PAD);
        float* const line = room.data() + PAD;
        for (int t = 0; t < tile.count; ++t) {
            tile.move(n, t);
            tile.read(volume, n);
            for (int64_t i = first; i < last; ++i)
                tile.cross(columns[i], false, [&](const Crossing& c, const float* low, const float* high) {
                    const Span span = rows_of(c, rows, depth);          // first: its divisions take a while
                    for (int z = 0; z < tile.depth; z += LANES)
                        store(line + z, load(low + z) + c.weight * (load(high + z) - load(low + z)));
                    (std::abs(c.step) <= 2 ? add_rows<true> : add_rows<false>)(
                        line, sums.data + i * row_size, c, span, depth);
                });
        }
        for (int begin = 0; begin < rows; begin += BLOCK)
            for (int64_t i = first; i < last; ++i)
                for (int row = begin; row < std::min(begin + BLOCK, rows); ++row)
                    projections[columns[i].pixel + row * n.det_columns] =
                        sums.data[i * row_size + row] * columns[i].row_length(n, row);
    }
    return nullptr;
}

// The adjoint, the whole volume: a tile at a time for each thread.
const char* backproject_upright(const float* projections, float* volume, const View* views, const Sizes& n,
                                int threads) {
    const int rows = int(n.bottom - n.top), depth = int(n.depth);
    const std::vector<Column> columns = upright_columns(views, n);
    const int64_t count = columns.size(), row_size = rows + 2 * PAD;
    const Scratch weighted(count * row_size);
    if (!weighted.data) return "out of memory";
#pragma omp parallel num_threads(threads)
    {
#pragma omp for
        for (int64_t i = 0; i < count; ++i) {
            float* const to = weighted.data + i * row_size;
            std::fill(to, to + PAD, 0.f);
            for (int row = 0; row < rows; ++row)
                to[PAD + row] = projections[columns[i].pixel + row * n.det_columns] * columns[i].row_length(n, row);
            std::fill(to + PAD + rows, to + row_size, 0.f);
        }
        Tile tile(n);
#pragma omp for schedule(dynamic)
        for (int t = 0; t < tile.count; ++t) {
            tile.move(n, t);
            tile.clear();
            for (int64_t i = 0; i < count; ++i)
                tile.cross(columns[i], true, [&](const Crossing& c, float* low, float* high) {
                    (std::abs(c.step) >= 0.5 ? add_slices<true> : add_slices<false>)(
                        weighted.data + i * row_size + PAD, low, high, c, slices_of(c, rows, depth), rows);
                });
            tile.write(volume, n);
        }
    }
    return nullptr;
}

// One view, ray by ray.
void project_tilted(const float* volume, float* projections, const View& view, const Sizes& n, int threads) {
    const int rows = int(n.bottom - n.top), columns = int(n.right - n.left);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int v = 0; v < rows; ++v)
        for (int u = 0; u < columns; ++u)
            projections[v * n.det_columns + u] = joseph::integrate(volume, joseph::trace(view, n, v, u), n);
}

// The adjoint, voxel by voxel, added to the volume. `rays` is room for those of the window.
void backproject_tilted(const float* projections, float* volume, const View& view, const Sizes& n, int threads,
                        std::vector<Ray>& rays) {
    const int rows = int(n.bottom - n.top), columns = int(n.right - n.left), width = int(n.width);
    const Camera camera = joseph::camera(view, n);
    rays.resize(int64_t(rows) * columns);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for
        for (int v = 0; v < rows; ++v)
            for (int u = 0; u < columns; ++u) {
                Ray& ray = rays[int64_t(v) * columns + u] = joseph::trace(view, n, v, u);
                ray.length *= projections[v * n.det_columns + u];
            }
        std::vector<Pixels> near(width);
#pragma omp for schedule(dynamic, 16)
        for (int64_t line = 0; line < n.depth * n.height; ++line) {
            const int y = int(line % n.height), z = int(line / n.height);
            for (int x = 0; x < width; ++x) near[x] = joseph::pixels_near(camera, n, x, y, z);  // becomes vectors
            for (int x = 0; x < width; ++x) {
                float sum = 0;
                for (int v = near[x].top; v < near[x].bottom; ++v)
                    for (int u = near[x].left; u < near[x].right; ++u)
                        sum += joseph::weight(rays[int64_t(v) * columns + u], n, x, y, z);
                volume[line * width + x] += sum;
            }
        }
    }
}

}  // namespace

// Projections of a volume. Pixels outside of the window of rows and columns stay as they are.
extern "C" const char* cone_beam_project(const float* volume, float* projections, const View* views,
                                         const Sizes* sizes, int threads) {
    const Sizes& n = *sizes;
    const char* const message = thin::fits(n)
        ? thin::project(volume, projections, views, upright_views(views, n), n, threads)
        : project_upright(volume, projections, views, n, threads);
    for (int64_t i = 0; i < n.views && !message; ++i)
        if (!upright(views[i]))
            project_tilted(volume, projections + joseph::first_pixel(n, i), views[i], n, threads);
    return message;
}

// The adjoint: a volume from the projections' window.
extern "C" const char* cone_beam_backproject(const float* projections, float* volume, const View* views,
                                             const Sizes* sizes, int threads) {
    const Sizes& n = *sizes;
    const char* message = nullptr;
    if (thin::fits(n)) {
        std::fill(volume, volume + n.depth * n.height * n.width, 0.f);
        message = thin::backproject(projections, volume, views, upright_views(views, n), n, threads);
    } else {
        message = backproject_upright(projections, volume, views, n, threads);
    }
    std::vector<Ray> rays;
    for (int64_t i = 0; i < n.views && !message; ++i)
        if (!upright(views[i]))
            backproject_tilted(projections + joseph::first_pixel(n, i), volume, views[i], n, threads, rays);
    return message;
}
