// Joseph's rule for one ray and for one voxel, shared by cone_beam.cpp and cone_beam.cu. Geometry is worked out
// in double, positions near the volume are float. Points are (x, y, z), in voxel indices; volumes [D, H, W].
#pragma once
#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define JOSEPH_INLINE __host__ __device__ __forceinline__
#else
#define JOSEPH_INLINE inline
#endif

namespace joseph {

// Rows [top, bottom) and columns [left, right) of the detector are those that the volume can shade.
struct Sizes {
    int64_t views, det_rows, det_columns, top, bottom, left, right, depth, height, width;
    double voxel_x, voxel_y, voxel_z;
};

// Index of a view's first pixel in projections [views, det_rows, det_columns].
JOSEPH_INLINE int64_t first_pixel(const Sizes& n, int64_t view) {
    return (view * n.det_rows + n.top) * n.det_columns + n.left;
}

// A ray from the source has the direction first + u step_u + v step_v, with u and v counted from (left, top).
struct View { double source[3], first[3], step_u[3], step_v[3]; };

// In plane p of its axis, `away` = p - middle_plane, a ray is at index across + away * tilt of the other
// in-plane axis and at slice z + away * slope; length is that of the ray a plane.
struct Ray { int axis; float across, tilt, z, slope, length; };     // axis 0: x, 1: y

// A ray at 45 degrees steps along x, whatever the rounding: fused multiply-add must not decide it, as it is fused in
// other places in the projector than in the adjoint.
constexpr double TIE = 1 + 1e-9;

JOSEPH_INLINE int planes(const Sizes& n, int axis) { return int(axis ? n.height : n.width); }
JOSEPH_INLINE int middle_plane(const Sizes& n, int axis) { return planes(n, axis) / 2; }
JOSEPH_INLINE float clamp(float value, float low, float high) { return fminf(fmaxf(value, low), high); }

JOSEPH_INLINE Ray trace(const View& view, const Sizes& n, int v, int u) {
    const double x = view.first[0] + u * view.step_u[0] + v * view.step_v[0];
    const double y = view.first[1] + u * view.step_u[1] + v * view.step_v[1];
    const double z = view.first[2] + u * view.step_u[2] + v * view.step_v[2];
    const int axis = fabs(y) > TIE * fabs(x);
    const double each = 1 / (axis ? y : x);
    const double t = (middle_plane(n, axis) - (axis ? view.source[1] : view.source[0])) * each;
    const double dx = x * n.voxel_x, dy = y * n.voxel_y, dz = z * n.voxel_z;
    Ray ray;
    ray.axis = axis;
    ray.across = float(axis ? view.source[0] + t * x : view.source[1] + t * y);
    ray.tilt = float((axis ? x : y) * each);
    ray.z = float(view.source[2] + t * z);
    ray.slope = float(z * each);
    ray.length = float(sqrt(dx * dx + dy * dy + dz * dz) * fabs(each));
    return ray;
}

// Narrows [low, high] to where start + away * step lies in (-1, count); one plane more does not matter.
JOSEPH_INLINE void narrow(float start, float step, float count, float& low, float& high) {
    if (fabsf(step) < 1e-6f) return;
    const float edge = (-1 - start) / step, other = (count - start) / step;
    low = fmaxf(low, fminf(edge, other) - 0.01f);
    high = fminf(high, fmaxf(edge, other) + 0.01f);
}

// The volume at a point of a plane, linear in the two axes of strides and counts a and b, zero outside.
JOSEPH_INLINE float interpolate(const float* plane, float a, int64_t stride_a, int count_a, float b,
                                int64_t stride_b, int count_b) {
    a = clamp(a, -1.f, float(count_a)), b = clamp(b, -1.f, float(count_b));
    const int i = int(floorf(a)), k = int(floorf(b));
    const float up_a = a - i, up_b = b - k;
    const bool low_a = unsigned(i) < unsigned(count_a), high_a = unsigned(i + 1) < unsigned(count_a);
    float sum = 0;
    const float* line = plane + i * stride_a + k * stride_b;
    if (unsigned(k) < unsigned(count_b)) {
        if (low_a) sum += (1 - up_b) * (1 - up_a) * line[0];
        if (high_a) sum += (1 - up_b) * up_a * line[stride_a];
    }
    line += stride_b;
    if (unsigned(k + 1) < unsigned(count_b)) {
        if (low_a) sum += up_b * (1 - up_a) * line[0];
        if (high_a) sum += up_b * up_a * line[stride_a];
    }
    return sum;
}

// The line integral along a ray.
JOSEPH_INLINE float integrate(const float* volume, const Ray& ray, const Sizes& n) {
    const int count = planes(n, ray.axis), middle = middle_plane(n, ray.axis), depth = int(n.depth);
    const int breadth = planes(n, 1 - ray.axis);
    const int64_t slice = n.height * n.width, step = ray.axis ? n.width : 1, stride = ray.axis ? 1 : n.width;
    float low = float(-middle), high = float(count - 1 - middle);
    narrow(ray.across, ray.tilt, float(breadth), low, high);
    narrow(ray.z, ray.slope, float(depth), low, high);
    float sum = 0;
    for (int away = int(ceilf(fminf(low, float(count)))); away <= high; ++away)
        sum += interpolate(volume + (middle + away) * step, ray.across + away * ray.tilt, stride, breadth,
                           ray.z + away * ray.slope, slice, depth);
    return sum * ray.length;
}

// How much a voxel adds to the line integral along a ray.
JOSEPH_INLINE float weight(const Ray& ray, const Sizes& n, int x, int y, int z) {
    const float away = float((ray.axis ? y : x) - middle_plane(n, ray.axis));
    const float a = ray.across + away * ray.tilt - (ray.axis ? x : y), b = ray.z + away * ray.slope - z;
    return fmaxf(0.f, 1 - fabsf(a)) * fmaxf(0.f, 1 - fabsf(b)) * ray.length;
}

// Where a view sees a point: the pixel (u, v) is (column . point, row . point) / (depth . point). Points are
// (x, y, z, 1), counted from the middle voxel.
struct Camera { float column[4], row[4], depth[4]; };

JOSEPH_INLINE void cross(const double* a, const double* b, double* c) {
    c[0] = a[1] * b[2] - a[2] * b[1], c[1] = a[2] * b[0] - a[0] * b[2], c[2] = a[0] * b[1] - a[1] * b[0];
}

JOSEPH_INLINE double dot(const double* a, const double* b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

// Cramer's rule for point - source = depth (first + u step_u + v step_v).
JOSEPH_INLINE Camera camera(const View& view, const Sizes& n) {
    double column[3], row[3], depth[3];
    cross(view.step_v, view.first, column);
    cross(view.first, view.step_u, row);
    cross(view.step_u, view.step_v, depth);
    const double each = 1 / dot(view.first, depth);
    const double middle[3] = {double(n.width / 2) - view.source[0], double(n.height / 2) - view.source[1],
                              double(n.depth / 2) - view.source[2]};
    Camera c;
    for (int i = 0; i < 3; ++i) {
        c.column[i] = float(column[i] * each);
        c.row[i] = float(row[i] * each);
        c.depth[i] = float(depth[i] * each);
    }
    c.column[3] = float(dot(column, middle) * each);
    c.row[3] = float(dot(row, middle) * each);
    c.depth[3] = float(dot(depth, middle) * each);
    return c;
}

// How far from a point, in pixels along a side of the detector, a ray hits that passes the point's plane, of
// either in-plane axis, within a voxel of it. `at` is the point's own pixel, `each` one over the least depth there.
JOSEPH_INLINE float reach(const float* side, const float* depth, float at, float each) {
    const float x = fabsf(side[0] - at * depth[0]), y = fabsf(side[1] - at * depth[1]);
    return (fmaxf(x, y) + fabsf(side[2] - at * depth[2])) * each + 0.01f;       // 0.01 is for rounding
}

struct Pixels { int top, bottom, left, right; };

// All pixels whose rays have a weight at a voxel, and few others.
JOSEPH_INLINE Pixels pixels_near(const Camera& c, const Sizes& n, int x, int y, int z) {
    const float px = float(x - int(n.width / 2)), py = float(y - int(n.height / 2)), pz = float(z - int(n.depth / 2));
    const float depth = c.depth[0] * px + c.depth[1] * py + c.depth[2] * pz + c.depth[3], each = 1 / depth;
    const float u = (c.column[0] * px + c.column[1] * py + c.column[2] * pz + c.column[3]) * each;
    const float v = (c.row[0] * px + c.row[1] * py + c.row[2] * pz + c.row[3]) * each;
    const float nearest = 1 / (depth - fmaxf(fabsf(c.depth[0]), fabsf(c.depth[1])) - fabsf(c.depth[2]));
    const float reach_u = reach(c.column, c.depth, u, nearest), reach_v = reach(c.row, c.depth, v, nearest);
    const float rows = float(n.bottom - n.top), columns = float(n.right - n.left);
    Pixels pixels;
    pixels.top = int(clamp(ceilf(v - reach_v), 0.f, rows));
    pixels.bottom = int(clamp(floorf(v + reach_v) + 1, 0.f, rows));
    pixels.left = int(clamp(ceilf(u - reach_u), 0.f, columns));
    pixels.right = int(clamp(floorf(u + reach_u) + 1, 0.f, columns));
    return pixels;
}

}  // namespace joseph
