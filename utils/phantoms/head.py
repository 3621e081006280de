"""A synthetic head for MR with T1 contrast.

Anatomical axes in mm from the middle of the brain: z superior, y posterior, x left.
"""
from collections.abc import Sequence

import numpy as np

from utils.phantoms.shapes import Space, check_grid, fit_scale, paint, ramp, smooth_max, smooth_min


def head(seed: int, shape: Sequence[int], spacing: Sequence[float]) -> np.ndarray:
    """Synthetic T1-weighted head, a new one for every seed; about half are brains on exact zero.

    Slices go up, rows to posterior, columns to the left (LPS). The head shrinks where the in-plane field of view is too
    small.

    Args:
        seed: of the patient, 0 or more.
        shape: voxels (D, H, W).
        spacing: (z, y, x) in mm.

    Returns:
        float32 [D, H, W] in arbitrary units within [0, 1].

    Raises:
        ValueError: a shape or spacing that is no grid.
    """
    check_grid(shape, spacing)
    return _Head(np.random.default_rng([seed, 2]), shape, spacing).draw()


class _Head:
    """Sizes and grey values drawn once, the distance fields, and one method for each group of tissues."""

    def __init__(self, rng, shape, spacing):
        self.rng, u = rng, rng.uniform
        self.stripped = u() < 0.5
        self.radii = u(63, 71), u(80, 91), u(60, 68)          # brain: x, y, z above its middle; mm
        self.bone, self.scalp = u(5, 8), u(4, 8)
        self.white = u(0.68, 0.80)
        self.grey, self.fluid = self.white * u(0.62, 0.74), u(0.06, 0.16)
        self.fat, self.flesh = u(0.75, 0.98), u(0.25, 0.40)
        extra = 4 if self.stripped else 8 + self.bone + self.scalp
        scale = fit_scale(shape, spacing, [self.radii[1] + extra, self.radii[0] + extra])
        level = u(-22, 8) if self.stripped else u(-40, 20)
        offset = [level, u(-3, 3), u(-3, 3)]
        axes = [(np.arange(n) - (n - 1) / 2) * s / scale + o for n, s, o in zip(shape, spacing, offset)]
        self.s = Space(axes, rng, warp=2.2, warp_scale=60)
        self._distances()

    def _distances(self):
        s, (rx, ry, rz) = self.s, self.radii
        reach = np.sqrt(s.z**2 + s.y**2 + s.x**2) + 1e-3

        # An egg, flatter below, by the distance along the radius.
        self.k = np.sqrt((s.x / rx) ** 2 + (s.y / ry) ** 2 + (s.z / np.where(s.z > 0, rz, 32)) ** 2) + 1e-3
        self.k = self.k.astype(np.float32)
        main = reach * (1 - 1 / self.k)
        side = np.abs(s.x)
        temporal = self._mirrored((-26, -10, 0.64 * rx), (22, 40, 22))
        self.cerebrum = smooth_min(main, temporal, 6)
        self.bridge = np.hypot((s.y + 2) / 40, (s.z - 4) / 24)  # below this arch the hemispheres are joined
        fissure = smooth_max(side - 0.8, (1 - self.bridge) * 24, 2)
        self.cerebrum = np.maximum(self.cerebrum, -fissure)
        self.cerebellum = smooth_min(self._mirrored((-46, 0.52 * ry, 23), (22, 29, 28)),
                                     s.ellipsoid((-42, 0.48 * ry, 0), (22, 28, 12)), 5)
        self.cerebrum = np.maximum(self.cerebrum, 2.0 - self.cerebellum)
        stem = s.ellipsoid((-40, 9, 0), (38, 13, 16))
        case = smooth_min(smooth_min(main, temporal, 10), self.cerebellum, 20)
        self.case = smooth_min(case, stem, 8) - self.rng.uniform(1.5, 4)

    def _mirrored(self, centre, radii):
        z, y, x = centre
        return np.where(self.s.x > 0, self.s.ellipsoid((z, y, x), radii), self.s.ellipsoid((z, y, -x), radii))

    def texture(self, scale, amount):
        return np.float32(amount) * self.s.noise(self.rng, scale)

    def draw(self):
        volume = np.zeros(self.s.shape, np.float32)
        if not self.stripped:
            self.outside(volume)
        paint(volume, self.s.cover(self.case), self.fluid + self.texture(6, 0.02))
        tissue = self.brain(volume)
        return self.scan(volume, tissue)

    def _folds(self, wavelength, count=32):
        """Distance (mm, roughly) to the nearest fold of the cortex; 99 off the brain.

        Folds are the zero set of `count` plane waves of one wavelength in all directions, run along the cortex rather
        than through it.
        """
        s, rng = self.s, self.rng
        near = self.cerebrum < 2 * s.edge
        stretch = np.clip(self.k[near], 0.3, None) ** -0.55
        q = [c[near] * stretch + np.float32(3.5) * s.noise(rng, 18)[near] for c in (s.z, s.y, s.x)]
        field = np.zeros_like(q[0])
        slope = [np.zeros_like(field) for _ in q]
        for _ in range(count):
            way = rng.normal(size=3)
            way *= 2 * np.pi / wavelength * rng.uniform(0.85, 1.15) / np.linalg.norm(way)
            kz, ky, kx = way.astype(np.float32)
            phase = q[0] * kz + q[1] * ky + q[2] * kx + np.float32(rng.uniform(0, 2 * np.pi))
            field += np.cos(phase)
            phase = np.sin(phase)
            for total, k in zip(slope, (kz, ky, kx)):
                total += k * phase
        steep = np.sqrt(slope[0] ** 2 + slope[1] ** 2 + slope[2] ** 2)
        usual = 2 * np.pi / wavelength * np.sqrt(count / 6)
        distance = np.full(s.shape, 99, np.float32)
        distance[near] = np.abs(field) / np.maximum(steep, 0.45 * usual) / stretch
        return distance

    def brain(self, volume):
        s, rng, u = self.s, self.rng, self.rng.uniform
        depth = -self.cerebrum
        white = self.white + self.texture(9, 0.012) - 0.03 * ramp(depth, 35, 5)
        grey = self.grey + self.texture(7, 0.015)

        sunk = depth + 25 * ramp(self.bridge, 1.35, 1.1) * ramp(np.abs(s.x), 26, 12)  # spares the callosum
        sheet = np.hypot(self._folds(u(19, 23)), np.maximum(sunk - u(14, 20) - 6 * s.noise(rng, 16), 0))
        short = np.hypot(self._folds(u(22, 28), 20), np.maximum(sunk - u(3, 8) - 5 * s.noise(rng, 14), 0))
        sheet = np.minimum(sheet, short + 0.3)
        sylvian = np.abs(s.z + 13 - 0.35 * s.y - 7 * s.noise(rng, 22)) + np.maximum(np.abs(s.y + 3) - 35, 0)
        sylvian = np.hypot(sylvian, np.maximum(34 - np.abs(s.x), 0))
        width = np.maximum(u(0.1, 0.9) + 0.45 * s.noise(rng, 18), -0.2)
        cortex = np.minimum(np.minimum(depth, sheet - width), sylvian - u(0.5, 1.8))
        paint(volume, s.cover(-cortex), grey)
        thick = u(2.6, 3.5) + 0.4 * s.noise(rng, 12)
        paint(volume, s.cover(thick - cortex, s.edge + 0.8), white)

        for centre, radii, value in (((-1, -14, 25), (14, 20, 5.5), 0.2), ((-1, -8, 19), (9, 12, 5), 0.65),
                                     ((3, 9, 11), (10, 16, 9), 0.45), ((14, -22, 14), (10, 15, 5), 0.1),
                                     ((-24, -4, 24), (8, 9, 8), 0.05), ((-22, 16, 27), (6, 17, 6), 0.05)):
            nucleus = self._mirrored(centre, radii) + 1.2 * s.noise(rng, 9)
            paint(volume, s.cover(nucleus, s.edge + 1.2), grey + value * (white - grey))

        size = u(0.6, 1.5)
        horn = self._mirrored((15, -10, 8 + 3 * size), (7 * size, 33, 4.5 * size)) + s.noise(rng, 12)
        paint(volume, s.cover(smooth_max(horn, 1.2 - np.abs(s.x), 2)), self.fluid)
        for side in (-1, 1):
            body = [(16, 10, side * 11), (17, 20, side * 14), (8, 32, side * 22)]
            s.tube(volume, body, np.array([3, 4, 5.5]) * size, self.fluid)
            s.tube(volume, [(8, 32, side * 22), (4, 52, side * 22)], [5 * size, 2], self.fluid)
            temporal = [(8, 32, side * 22), (-10, 25, side * 32), (-22, 2, side * 32)]
            s.tube(volume, temporal, np.array([5, 2.4, 2]) * size, self.fluid)
            s.tube(volume, [(9, 30, side * 20), (3, 36, side * 18)], 2.2, self.grey * 0.9)
        third = np.maximum(np.abs(s.x) - 1.8 * size, np.hypot((s.y - 2) / 17, (s.z + 3) / 11) * 11 - 11)
        paint(volume, s.cover(third), self.fluid)
        septum = np.maximum(np.abs(s.x) - 0.7, np.hypot((s.y + 10) / 26, (s.z - 13) / 9) * 9 - 9)
        paint(volume, s.cover(septum) * min(1, 1.4 / s.edge), white * 0.9)
        return np.minimum(self.cerebrum, self.hindbrain(volume))

    def hindbrain(self, volume):
        """Cerebellum with folia and brain stem; returns their signed distance."""
        s, rng, u = self.s, self.rng, self.rng.uniform
        ry = self.radii[1]
        at_z, at_y = -42, 0.30 * ry
        cistern = s.ellipsoid((-14, 0.2 * ry, 0), (10, 12, 13))
        paint(volume, s.cover(cistern), self.fluid)
        depth = -self.cerebellum
        away = np.hypot(s.y - at_y, 0.55 * s.x)
        turn = np.arctan2(s.z - at_z, away) + 0.08 * s.noise(rng, 14)
        spacing = 2 * np.pi / u(56, 72)
        index = np.round(turn / spacing)
        radius = np.hypot(away, s.z - at_z)
        leaf = np.abs(turn / spacing - index) * spacing * radius + np.maximum(16 - radius, 0) * 0.4
        deep = rng.gamma(2.0, 4.0, 128).astype(np.float32)[index.astype(int) % 128]  # few go far in
        sheet = np.hypot(leaf, np.maximum(depth - 3 - deep - 2 * s.noise(rng, 10), 0))
        bark = np.minimum(depth, sheet - u(0.0, 0.4))
        white, grey = self.white + self.texture(8, 0.012), self.grey * 0.98 + self.texture(6, 0.012)
        paint(volume, s.cover(-bark), grey)
        paint(volume, s.cover(u(1.2, 1.7) - bark, s.edge + 0.5), white * 0.97)
        lean = 8 + 0.10 * np.maximum(-20 - s.z, 0)
        stem = np.hypot(s.x, 1.1 * (s.y - lean)) - 13 + 6.5 * ramp(s.z, -42, -62)
        stem = smooth_max(stem, s.z + 4, 8)
        stem = smooth_min(stem, s.ellipsoid((-32, 0, 0), (13, 12, 17)), 5)
        stem = stem + 1.2 * s.noise(rng, 10)
        paint(volume, s.cover(stem - 1.5 - s.noise(rng, 12)) * ramp(s.z, -8, -20), self.fluid)
        paint(volume, s.cover(stem), white)
        peduncle = self._mirrored((-40, 0.24 * ry, 13), (7, 14, 8))
        paint(volume, s.cover(peduncle), white)
        fourth = s.ellipsoid((-40, 0.26 * ry, 0), (12, 4.5, 5.5))
        paint(volume, s.cover(fourth), self.fluid)
        return np.minimum(self.cerebellum, stem)

    def outside(self, volume):
        """Scalp, skull, face, eyes, air spaces and neck."""
        s, rng, u = self.s, self.rng, self.rng.uniform
        rx, ry, _ = self.radii
        skull = self.case - self.bone - 1.2 * s.noise(rng, 25)
        face = s.ellipsoid((-62, -0.50 * ry, 0), (70, 58, 0.88 * rx))
        nose = s.ellipsoid((-58, -0.5 * ry - 60, 0), (20, 18, 11))
        neck = np.maximum(np.hypot(s.x, 0.9 * (s.y - 26)) - 54, s.z + 30)
        surface = smooth_min(smooth_min(skull - self.scalp, neck, 25), smooth_min(face, nose, 8), 12)
        deep = s.cover(surface)
        paint(volume, deep, self.fat + self.texture(8, 0.06))
        flesh = self.flesh + self.texture(5, 0.035)
        seams = s.cover(np.abs(s.noise(rng, (22, 14, 14))) * 8 - u(0.6, 1.8))
        bulk = s.cover(surface + 5 + 2 * s.noise(rng, 16)) * ramp(s.z, 25 - 0.3 * s.y, -5 - 0.3 * s.y)
        paint(volume, bulk, flesh + seams * (0.8 * self.fat - flesh))
        paint(volume, s.shell(surface, 1.6), 0.45)
        bony = s.cover(np.abs(s.noise(rng, 17)) * 9 - 1.4) * s.cover(self.case - 32)
        bony *= ramp(-surface, 12, 20)
        paint(volume, bony * ramp(s.z, -25, -45), 0.05)

        for side in (-1, 1):
            eye = (-24, -0.5 * ry - 24, side * 31)
            orbit = smooth_max(s.ellipsoid(eye, (19, 24, 19)), surface + 2, 3)
            paint(volume, s.cover(orbit), self.fat)
            cone = (-22, -0.3 * ry, side * 14)
            s.tube(volume, [eye, cone], 2.5, self.white * 0.8)
            for dz, dx in ((10, 0), (-10, 0), (0, 10), (0, -10)):
                s.tube(volume, [(eye[0] + dz, eye[1] + 4, eye[2] + dx), cone], 2, self.flesh)
            ball = s.ellipsoid(eye, (12, 12.5, 12))
            paint(volume, s.cover(ball), 0.4)
            paint(volume, s.cover(ball + 1.3), self.fluid)
            paint(volume, s.cover(s.ellipsoid((eye[0], eye[1] - 8, eye[2]), (4.5, 2.5, 4.5))), 0.4)
            antrum = s.ellipsoid((-52, -0.5 * ry - 20, side * 26), (16, 16, 12)) + 2 * s.noise(rng, 10)
            paint(volume, s.cover(antrum), 0.01)
            mastoid = s.ellipsoid((-48, 0.22 * ry, side * 0.82 * rx), (18, 15, 11))
            paint(volume, s.cover(mastoid) * ramp(s.noise(rng, 5), -0.8, 0.2), 0.03)
            carotid = [(-140, 0, side * 24), (-60, -4, side * 25), (-42, -8, side * 16)]
            s.tube(volume, carotid, 3, u(0.02, 1.0))
        nasal = s.ellipsoid((-50, -0.5 * ry - 22, 0), (20, 32, 12))
        conchae = ramp(np.abs(s.noise(rng, (12, 30, 7))), 0.3, 0.6) * ramp(np.abs(s.x), 0.6, 1.6)
        paint(volume, s.cover(nasal) * conchae, 0.01)
        s.tube(volume, [(-58, -0.45 * ry, 0), (-75, -22, 0), (-150, -16, 0)], [7, 6, 9], 0.0)
        sphenoid = s.ellipsoid((-34, -24, 0), (9, 12, 13)) + 2 * s.noise(rng, 9)
        paint(volume, s.cover(sphenoid), 0.01)
        tongue = s.ellipsoid((-95, -0.5 * ry - 8, 0), (22, 32, 24))
        paint(volume, s.cover(tongue), flesh + 0.08)
        spine = np.maximum(np.hypot(s.x, s.y - 2) - 12, s.z + 62)
        block = np.abs((s.z + 70) / 17 - np.round((s.z + 70) / 17)) * 17
        paint(volume, s.cover(spine), 0.1)
        paint(volume, s.cover(np.maximum(spine + 1.2, block - 6.5)), 0.45 + self.texture(4, 0.04))
        canal = np.maximum(np.hypot(s.x, s.y - 18) - 9, s.z + 50)
        paint(volume, s.cover(canal), self.fluid)

        paint(volume, s.cover(skull), 0.04)
        marrow = np.abs(self.case - self.bone / 2) - self.bone / 2 + 1.8 + 0.6 * s.noise(rng, 12)
        patchy = np.maximum(ramp(s.z, -30, 0), ramp(s.noise(rng, 9), -0.6, 0.4))
        paint(volume, s.cover(marrow) * patchy, 0.30 + self.texture(6, 0.08))
        sinus = s.ellipsoid((-2, -ry - 6, 0), (13, 7, 18)) + 3 * s.noise(rng, 9)
        paint(volume, s.cover(sinus), 0.01)
        paint(volume, s.shell(self.case, 1.2), 0.22)
        s.tube(volume, [(20, ry - 2, 0), (-12, ry - 4, 0)], 3.5, u(0.05, 0.5))

    def scan(self, volume, tissue):
        """Coil sensitivity and Rician noise; a stripped brain is zero outside its mask."""
        s, rng, u = self.s, self.rng, self.rng.uniform
        volume *= np.exp(u(0.03, 0.16) * s.noise(rng, 85) + u(-0.12, 0.12) * s.z / 80)
        steps = [1.15 * float(axis[1] - axis[0]) if len(axis) > 1 else 1.0 for axis in s.axes]
        level = u(0.006, 0.028)
        volume = np.hypot(volume + level * s.noise(rng, steps), level * s.noise(rng, steps))
        if self.stripped:
            rough = smooth_max(tissue, self.case - 1, 4) - u(1.2, 3.5) + 0.8 * s.noise(rng, 8)
            volume[rough > 0] = 0
        return np.clip(volume, 0, 1).astype(np.float32)
