// Voxel-driven backprojection of one view for CPU, float32. See fdk_backproject.py.
//
// The view is [columns + 2, rows + 3]: transposed, with a frame of zeros (two after the last row), so that
// interpolation needs no bounds. Where the depth of a voxel does not depend on z, all voxels of a z-column lie on one
// line along the rows: two columns of the view are blended once for it.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

struct Axis { double first, step; int64_t count; };

extern "C" const char* fdk_backproject(const float* view, float* volume, const double* matrix, const Axis* axes,
                                       int64_t columns, int64_t rows, double scale, int threads) {
    const Axis x_axis = axes[0], y_axis = axes[1], z_axis = axes[2];
    const double* m = matrix;
    const bool upright = m[2] == 0 && m[10] == 0;
    const int64_t pitch = rows + 3, depth = z_axis.count;
    const float most = float(rows + 1);
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> line(pitch, 0.f);
        float* __restrict blend = line.data();
#pragma omp for schedule(dynamic, 1)
        for (int64_t j = 0; j < y_axis.count; ++j) {
            const double y = y_axis.first + j * y_axis.step;
            for (int64_t i = 0; i < x_axis.count; ++i) {
                const double x = x_axis.first + i * x_axis.step, z0 = z_axis.first, dz = z_axis.step;
                const double across = m[0] * x + m[1] * y + m[3], down = m[4] * x + m[5] * y + m[7];
                const double away = m[8] * x + m[9] * y + m[11];
                float* __restrict out = volume + (j * x_axis.count + i) * depth;
                if (upright) {
                    const double column = across / away;
                    if (!(column > -1 && column < double(columns))) continue;
                    const int64_t whole = int64_t(column + 1);
                    const float right = float(column + 1 - whole), weight = float(scale / (away * away));
                    const float start = float((down + m[6] * z0) / away + 1), step = float(m[6] * dz / away);
                    const float end = start + (depth - 1) * step;
                    const int64_t low = int64_t(std::clamp(std::min(start, end), 0.f, most));
                    const int64_t high = int64_t(std::clamp(std::max(start, end), 0.f, most)) + 1;
                    const float* one = view + whole * pitch;
                    const float* two = one + pitch;
                    for (int64_t r = low; r <= high; ++r) blend[r] = weight * (one[r] + right * (two[r] - one[r]));
                    for (int64_t k = 0; k < depth; ++k) {
                        const float row = std::min(std::max(start + k * step, 0.f), most);
                        const int r = int(row);
                        out[k] += blend[r] + (row - r) * (blend[r + 1] - blend[r]);
                    }
                } else {
                    for (int64_t k = 0; k < depth; ++k) {
                        const double z = z0 + k * dz, near = 1 / (away + m[10] * z);
                        const double column = (across + m[2] * z) * near + 1, row = (down + m[6] * z) * near + 1;
                        if (!(column > 0 && column < columns + 1 && row > 0 && row < rows + 1)) continue;
                        const int64_t c = int64_t(column), r = int64_t(row);
                        const float right = float(column - c), below = float(row - r);
                        const float* one = view + c * pitch + r;
                        const float* two = one + pitch;
                        const float top = one[0] + right * (two[0] - one[0]);
                        const float bottom = one[1] + right * (two[1] - one[1]);
                        out[k] += float(scale * near * near) * (top + below * (bottom - top));
                    }
                }
            }
        }
    }
    return nullptr;
}
