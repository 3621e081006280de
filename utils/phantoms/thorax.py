"""A synthetic patient for CT: chest and upper abdomen in HU.

Anatomical axes in mm: z inferior from the carina, y posterior and x left from the middle of the rib cage.
"""
from collections.abc import Sequence

import numpy as np

from utils.phantoms.shapes import Space, check_grid, fit_scale, grow_tree, paint, ramp, smooth_max, smooth_min

PROFILE_Z = [-190, -150, -110, -70, -30, 20, 70, 150, 230, 320]       # rib cage width and depth along z
PROFILE_A = [0.42, 0.55, 0.70, 0.82, 0.91, 0.98, 1.0, 0.99, 0.94, 0.92]
PROFILE_B = [0.55, 0.62, 0.72, 0.83, 0.92, 0.99, 1.0, 1.0, 0.97, 0.95]


def thorax(seed: int, shape: Sequence[int], spacing: Sequence[float]) -> np.ndarray:
    """Synthetic chest CT, a new patient for every seed.

    Order of an LPI image: slices go down the body, rows to posterior, columns to the patient's left. The level of the
    middle slice comes from the seed, and the patient shrinks where the field of view is too small.

    Args:
        seed: of the patient, 0 or more.
        shape: voxels (D, H, W).
        spacing: (z, y, x) in mm.

    Returns:
        float32 [D, H, W] in HU, air -1000.

    Raises:
        ValueError: a shape or spacing that is no grid.
    """
    check_grid(shape, spacing)
    rng = np.random.default_rng([seed, 1])
    patient = _Patient(rng, shape, spacing)
    volume = patient.body_wall()
    patient.mediastinum(volume)
    patient.abdomen(volume)
    patient.lungs(volume)
    patient.heart_and_vessels(volume)
    patient.airways(volume)
    patient.skeleton(volume)
    patient.surroundings(volume)
    return patient.scan(volume)


class _Patient:
    """Sizes drawn once, the distance fields the organs share, and one method for each group of organs."""

    def __init__(self, rng, shape, spacing):
        self.rng, u = rng, rng.uniform
        self.cage = u(118, 148), u(82, 106)                  # half width, half depth of the rib cage, mm
        self.wall, self.fat = u(13, 19), 4 + 28 * u() ** 1.5
        self.breast = u(10, 32) if u() < 0.45 else 0.0
        self.arms = u() < 0.08
        self.blood = u(150, 340) if u() < 0.5 else u(38, 50)  # with or without contrast agent
        self.muscle, self.organ = u(48, 66), u(52, 75) + (45 if self.blood > 100 else 0)
        self.bone = u(0.75, 1.2)                              # mineral density
        half = [c + self.wall + self.fat + 8 for c in self.cage[::-1]]
        half[0] += max(10, 0.8 * self.breast)
        half[1] += 80 * self.arms
        scale = fit_scale(shape, spacing, half, u(0.95, 1.12))
        room = [max(0.0, n * s / 2 - scale * h) for n, s, h in zip(shape[1:], spacing[1:], half)]
        centre = u(-80, 120), -u(-0.4, 0.7) * min(room[0], 40), -u(-0.5, 0.5) * min(room[1], 40)
        stature = scale * u(0.9, 1.1), scale, scale
        axes = [(np.arange(n) - (n - 1) / 2) * s / k for n, s, k in zip(shape, spacing, stature)]
        axes = [axes[0] + centre[0], axes[1] + centre[1] / scale, axes[2] + centre[2] / scale]
        self.s = Space(axes, rng, warp=3.5)
        self._distances()

    def _distances(self):
        s, rng = self.s, self.rng
        a = (self.cage[0] * np.interp(s.z, PROFILE_Z, PROFILE_A)).astype(np.float32)
        b = (self.cage[1] * np.interp(s.z, PROFILE_Z, PROFILE_B)).astype(np.float32)
        p = np.float32(rng.uniform(2.1, 2.5))
        xa, yb = np.abs(s.x) / a + 1e-4, np.abs(s.y) / b + 1e-4
        r = (xa**p + yb**p) ** (1 / p)
        slope = np.sqrt((xa ** (p - 1) / a) ** 2 + (yb ** (p - 1) / b) ** 2) * r ** (1 - p)
        self.d = (r - 1) / slope                              # distance to the inside of the rib cage
        self.b, lateral = b, (xa / r) ** 2
        self.spine_y = b - 21 - 10 * ramp(s.z, 120, 260)
        back = s.y > 0
        self.thick = (self.wall + 48 * ramp(s.z, -30, -130) * (0.35 + 0.65 * lateral)
                      + back * 20 * np.exp(-(((np.abs(s.x) - 20) / 30) ** 2)))
        fat = self.fat * (0.8 + 0.2 * s.noise(rng, 90)) + 0.45 * self.fat * ramp(s.z, 60, 200)
        bump = np.exp(-(((np.abs(s.x) - 78) / 42) ** 2) - ((s.z - 35) / 55) ** 2) * ramp(-s.y / b, 0.1, 0.8)
        self.skin = self.d - self.thick - np.maximum(fat, 3) - self.breast * bump
        # Diaphragm: two domes, the right one higher, falling to the ribs and towards the back.
        high = rng.uniform(70, 105)
        self.dome = high + 3                                  # level of the top of the liver
        right = np.exp(-(((s.x + 62) / 58) ** 2 + ((s.y + 12) / 62) ** 2) ** 1.2)
        left = np.exp(-(((s.x - 64) / 55) ** 2 + ((s.y + 8) / 60) ** 2) ** 1.2)
        mid = np.exp(-(((s.x - 5) / 48) ** 2)) * ramp(s.y, 50, -5)
        domes = 85 * right
        for other in (rng.uniform(62, 80) * left, rng.uniform(60, 76) * mid):
            domes = smooth_max(domes, other, 14)
        self.below = (high + 88 + 0.25 * s.y - domes - s.z) * 0.75

    def texture(self, scale, amount):
        return np.float32(amount) * self.s.noise(self.rng, scale)

    def body_wall(self):
        s = self.s
        volume = np.full(s.shape, -1000, np.float32)
        strands = ramp(np.abs(s.noise(self.rng, 7)), 0.14, 0.0) * self.rng.uniform(10, 60)
        paint(volume, s.cover(self.skin), -108 + self.texture(12, 5) + strands)
        if self.breast:
            gland = ramp(s.noise(self.rng, 12), 0.2, 1.2) * ramp(self.d - self.thick, 4, 14) * (s.y < 0)
            paint(volume, gland * s.cover(self.skin + 9) * ramp(s.z, -40, 0) * ramp(s.z, 90, 60), 25)
        paint(volume, s.shell(self.skin, 1.8), 20)
        flesh = self.muscle + self.texture(5, 7)
        seams = s.cover(np.abs(s.noise(self.rng, (45, 16, 22))) * 9 - self.rng.uniform(0.3, 2.0))
        seams *= ramp(self.d, 8, 16)
        paint(volume, s.cover(self.d - self.thick), flesh - seams * (flesh + 95))
        return volume

    def mediastinum(self, volume):
        s, rng = self.s, self.rng
        paint(volume, s.cover(self.d + 1), -92 + self.texture(8, 12))
        soft = np.maximum(ramp(s.noise(rng, 9), 0.1, 0.5) * rng.uniform(0.3, 1), ramp(s.z, -105, -130))
        paint(volume, soft * s.cover(self.d + 1), 40 + self.texture(8, 12))
        self.heart_at = np.array([self.dome - rng.uniform(26, 40), -0.30 * self.cage[1], rng.uniform(15, 28)])
        self.heart_size = rng.uniform(0.88, 1.12)
        self.heart = s.ellipsoid(self.heart_at, self.heart_size * np.array([52, 44, 62]), 0.55)

    def abdomen(self, volume):
        s, rng, u = self.s, self.rng, self.rng.uniform
        inside = smooth_max(self.d + 3, self.below + 3, 8)
        cavity = s.cover(inside)
        paint(volume, s.cover(smooth_max(self.d + 1, self.below, 8)), self.muscle)
        paint(volume, cavity, -98 + self.texture(10, 10))
        for _ in range(40):  # bowel: short bent tubes with fluid, stool and gas
            at = np.array([u(170, 330), u(-0.75, 0.25) * self.cage[1], u(-0.7, 0.75) * self.cage[0]])
            points = at + np.cumsum(rng.normal(0, 14, (4, 3)), 0) * [0.7, 0.7, 1.3]
            radius, gas = u(7, 16), rng.choice([20, 35, 60, -400, -900], p=[0.35, 0.25, 0.15, 0.1, 0.15])
            s.tube(volume, points, radius, u(30, 60))
            s.tube(volume, points, radius - 2.5, gas)
        tilt = u(0.45, 0.7)
        edge = s.x - 42 + 0.7 * s.y + 9 * s.noise(rng, 30) + tilt * (s.z - 85)
        liver = smooth_max(inside + 1, 0.65 * edge, 14)
        liver = smooth_max(liver, (s.z - 245 - 0.35 * s.x) * 0.8, 20)
        paint(volume, s.cover(liver), self.organ + self.texture(7, 5))
        start = np.array([150, -8, -28])
        picks = self._points(liver < -6, 90)
        if len(picks) > 5:
            for p, q, rp, rq in grow_tree(rng, start, picks, 0.9):
                s.tube(volume, [p, q], [rp, rq], self.organ + (35 if self.blood > 100 else -14))
        at = (152, 0.42 * self.cage[1], 0.68 * self.cage[0])
        spleen = smooth_max(s.ellipsoid(at, (48, 42, 27), -0.5), inside + 2, 6)
        paint(volume, s.cover(spleen), self.organ + u(-8, 25) + self.texture(7, 5))
        at = (u(125, 150), -0.15 * self.cage[1], u(45, 62))
        stomach = smooth_max(s.ellipsoid(at, (u(38, 52), u(34, 46), u(30, 42)), 0.4), inside + 2, 6)
        paint(volume, s.cover(stomach), 45)
        level = at[1] + u(-30, 10)
        content = np.where(s.y < level, -960, u(5, 45) + self.texture(5, 14))
        paint(volume, s.cover(stomach + 4), content)
        for side in (-1, 1):
            at = (u(200, 225) - 8 * side, 0.45 * self.cage[1], side * u(55, 66))
            kidney = s.ellipsoid(at, (54, 27, 26), -0.4 * side)
            cortex = 35 + (u(60, 150) if self.blood > 100 else 0)
            paint(volume, s.cover(smooth_max(kidney - 9, inside + 1, 4)), -102)
            paint(volume, s.cover(kidney), cortex)
            lobes = ramp(s.noise(rng, 9), -0.2, 0.6)
            paint(volume, s.cover(kidney + 8) * lobes, cortex * 0.6 + 15)
            sinus = s.ellipsoid((at[0], at[1] - 3, at[2] - 9 * side), (24, 9, 13), -0.4 * side)
            paint(volume, s.cover(sinus + 2 * s.noise(rng, 6)), -70)
            psoas = np.hypot(s.x - side * 36, s.y - self.spine_y - 2) - 18 * ramp(s.z, 170, 260)
            paint(volume, s.cover(psoas) * ramp(s.z, 180, 200), self.muscle + self.texture(5, 5))

    def _points(self, mask, count):
        """Up to `count` random places (z, y, x in mm) where mask holds."""
        where = np.flatnonzero(mask)
        if not len(where):
            return np.zeros((0, 3), np.float32)
        picks = self.rng.choice(where, min(count, len(where)), replace=False)
        return np.stack([c.ravel()[picks] for c in (self.s.z, self.s.y, self.s.x)], 1)

    def lungs(self, volume):
        s, rng, u = self.s, self.rng, self.rng.uniform
        y0 = -0.1 * self.cage[1]
        half = u(20, 28) - 8 * ramp(s.z, -60, -130)
        half = 7 + half * np.exp(-(((s.y - y0 - 8) / (0.48 * self.cage[1])) ** 2))
        middle = (np.abs(s.x + 4) - half) * 0.9
        middle = smooth_min(middle, self.heart - 5, 16)
        column = np.hypot(s.x * 0.95, s.y - self.spine_y - 8) - 27
        middle = smooth_min(middle, column, 12)
        aorta = np.hypot(s.x - 22, s.y - self.spine_y + 26) - 15
        middle = smooth_min(middle, np.maximum(aorta, -50 - s.z), 8)
        apex = (np.hypot(np.abs(s.x) - 45, s.y - 12) ** 2 / 55 - 138 - s.z) * 0.6
        lung = smooth_max(smooth_max(self.d + 2.5, -middle, 9), smooth_max(-self.below + 1, apex, 14), 8)
        self.lung, self.lung_cover = lung, s.cover(lung)
        air = u(-890, -800)
        tissue = air + 45 * s.y / self.cage[1]                # denser at the back, where the patient lies
        tissue = tissue + self.texture(60, 14) + self.texture(7, 14) + self.texture(4, 14)
        if u() < 0.25:  # emphysema
            tissue = np.maximum(tissue - 90 * ramp(s.noise(rng, 14), 0.4, 1.4), -990)
        if u() < 0.35:  # ground glass, consolidation or a scar at the base
            patch = ramp(s.noise(rng, 26) + 0.5 * s.noise(rng, 8), u(1.2, 2.2), 3)
            tissue = np.minimum(tissue + u(300, 850) * patch, 40)
        for side in (-1, 1):  # oblique fissures
            plane = (s.z + 30 - 0.9 * (0.5 * self.cage[1] - s.y) - 5 * s.noise(rng, 40)) * 0.7
            fissure = s.cover(np.abs(plane) - 0.35) * (s.x * side > 0) * min(1, 1.2 / s.edge)
            tissue = tissue + 160 * fissure
        paint(volume, self.lung_cover, tissue)
        inner = lung < -3
        hila = {-1: (4, 8, -44), 1: (2, 10, 46)}
        for side, hilum in hila.items():
            for system in range(2):
                targets = self._points(inner & (s.x * side > 0), int(u(380, 560)))
                if len(targets) < 5:
                    continue
                start = np.array(hilum) + [12 * system, -10 * system, 0] + rng.normal(0, 3, 3)
                value = 0.8 * self.blood + 10 if self.blood > 100 else 40
                for p, q, rp, rq in grow_tree(rng, start, targets, u(0.55, 0.8)):
                    s.tube(volume, [p, q], [rp, rq], value)
        for at in self._points(inner, rng.integers(0, 7)):
            radius = 1.8 + rng.exponential(2.2)
            s.tube(volume, [at, at + rng.normal(0, radius / 2, 3)], radius, u(-80, 80) if u() < 0.85 else 300)

    def heart_and_vessels(self, volume):
        s, rng, u = self.s, self.rng, self.rng.uniform
        blood = self.blood
        myocardium = blood if blood < 100 else u(85, 125)
        paint(volume, s.cover(self.heart - 3.5), -85)
        paint(volume, s.shell(self.heart - 4, 1.2), 20)
        paint(volume, s.cover(self.heart), myocardium + self.texture(6, 5))
        hz, hy, _ = self.heart_at
        k, right = self.heart_size, blood * u(0.75, 1.1) if blood > 100 else blood
        chambers = (((10, 6, 22), (30, 19, 30), blood), ((8, -18, -10), (32, 15, 32), right),
                    ((-14, 24, -6), (20, 17, 28), blood), ((0, -2, -36), (30, 24, 17), right))
        for offset, radii, value in chambers:
            chamber = s.ellipsoid(self.heart_at + k * np.array(offset), k * np.array(radii), 0.55)
            chamber = smooth_max(chamber + 2 * s.noise(rng, 10), self.heart + 4, 5)
            paint(volume, s.cover(chamber), value + self.texture(7, 6))
        b, r = self.cage[1], u(12, 16.5)
        back = 0.80 * b - 24
        arch = -u(48, 62)
        aorta = [(hz - 10, hy + 6, 0), (0, hy - 2, -14), (arch + 26, hy + 4, -16), (arch + 6, hy + 18, -6),
                 (arch, 0.1 * b, 8), (arch + 8, 0.45 * b, 20), (arch + 30, back + 3, 24), (60, back, 22),
                 (150, back - 6, 10), (240, back - 20, 4), (400, back - 26, 4)]
        great = [(aorta, np.array([1.15, 1.15, 1.1, 1, 1, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6]) * r),
                 ([(hz - 20, hy - 14, 16), (0, hy + 2, 18), (-4, hy + 20, 8), (6, 2, -42)],     # pulmonary
                  np.array([14, 13, 11, 9])),                                                   # arteries
                 ([(0, hy + 4, 18), (-6, 4, 30), (6, 12, 46)], np.array([13, 11, 8])),
                 ([(arch - 95, -0.15 * b, -30), (arch, -0.12 * b, -27), (hz - 12, hy + 8, -27)], 8)]  # cava
        for top, base in (((0, -32), (-8, -4)), ((0.1 * b, 34), (6, 4)), ((0.25 * b, 48), (14, 10))):
            great.append(([(-190, *top), (arch - 40, top[0] + 2, top[1] * 0.5), (arch, *base)], 4.5))
        for value, extra in ((40, 1.3), (blood + 5, 0)):                                        # wall, blood
            for points, radii in great:
                s.tube(volume, points, radii + extra, value)
        cava = [(hz + 20, hy + 26, -26), (150, 0.3 * b, -24), (400, 0.38 * b, -22)]
        s.tube(volume, cava, [12, 12, 10], blood * 0.8)
        s.tube(volume, [(150, 0.1 * b, 0), (150, -2, -30)], 7, blood * 0.85)
        gullet = [(-190, 0.3 * b, 2), (-60, 0.38 * b, 6), (60, back - 18, 8), (140, 0.2 * b, 25)]
        s.tube(volume, gullet, 7, 38)
        if u() < 0.4:
            s.tube(volume, gullet[:3], 3, -700)

    def airways(self, volume):
        s, rng, u = self.s, self.rng, self.rng.uniform
        y, r = 0.16 * self.cage[1], u(7, 9.5)
        carina = np.array([-8, y, 0])
        branches = [((-230, y - 12, 0), (-100, y - 8, 0), r, r), ((-100, y - 8, 0), carina, r, r * 1.05)]
        for side, end in ((-1, (14, y + 1, -34)), (1, (22, y + 2, 40))):
            branches.append((carina, end, r * 0.8, r * 0.62))
            targets = self._points((self.lung < -12) & (s.x * side > 0), 40)
            if len(targets) > 5:
                branches += grow_tree(rng, end, targets, 0.65, 2.1)
        for wall, value in ((1.0, 10), (0, -985)):
            for p, q, rp, rq in branches:
                if max(rp, rq) > 1.2:
                    s.tube(volume, [p, q], [rp + wall, rq + wall], value)

    def skeleton(self, volume):
        s, rng, u = self.s, self.rng, self.rng.uniform
        dense, spongy = 760 * self.bone, 215 * self.bone
        marrow = spongy + self.texture(5, 28)
        step, start = u(24, 29), u(0, 25)

        def bone(distance, cortex, inner=marrow):
            paint(volume, s.cover(distance), inner)
            paint(volume, s.shell(distance, cortex), dense)

        # Spine: a column of bodies and discs, the canal, arches with their processes.
        y, grow = s.y - self.spine_y, 1 + 0.25 * ramp(s.z, -120, 250)
        phase = (s.z - start + 0.12 * y) / step
        near = np.abs(phase - np.round(phase)) * step                  # mm from the middle of a body
        waist = 2.2 * ramp(near, step / 2 - 3, 2)
        column = (np.hypot(np.maximum(np.abs(s.x) - 4, 0), 1.1 * y) - 14 * grow + waist)
        column = smooth_max(column, y - 12.5 * grow, 4)
        paint(volume, s.cover(column), 85 + self.texture(5, 6))
        bone(smooth_max(column, near - step / 2 + 3, 2), 1.5)
        canal = np.hypot(s.x, 1.1 * (y - 21 * grow))
        arch = np.maximum(np.abs(canal - 12) - 3.2, near - step * 0.42)
        bone(smooth_max(arch, 10 * grow - y, 3), 1.6)
        low = (s.z - start - 0.55 * (y - 30)) / step
        low = np.abs(low - np.round(low)) * step
        bone(smooth_max(np.maximum(np.abs(s.x) - 3, 26 - y), np.maximum(y - 47, low - 7), 4), 1.6)
        wing = np.hypot(y - 22 - 0.35 * np.abs(s.x), near - 1) - 5
        bone(smooth_max(wing, np.abs(s.x) - 36, 4), 1.5)
        paint(volume, s.cover(canal - 9), 12)
        paint(volume, s.cover(np.hypot(s.x, 1.25 * (y - 21 * grow)) - 5.5), 42)

        # Ribs: oblique rings in the wall, cartilage in front.
        turn = np.arctan2(np.abs(s.x) / self.cage[0], s.y / self.b) / np.float32(np.pi)  # 0 back, 1 front
        drop = u(70, 95) * ramp(turn, 0.0, 0.95) - 12 * ramp(turn, 0.75, 1.0)
        ring = (s.z - start - drop) / step
        index = np.round(ring)
        offset = np.abs(ring - index) * step * 0.82
        rib = np.hypot(np.maximum(np.abs(self.d - 5) - 1.2, 0), np.maximum(offset - 3, 0)) - 2.9
        ends = np.where(index > 5, 0.62 - 0.07 * (index - 6), 1.0)
        rib = np.maximum(rib, (turn - ends) * 150)
        rib = np.maximum(rib, np.where((index < -5) | (index > 8), 50, -50))
        gristle = ramp(turn, 0.76, 0.80)
        paint(volume, s.cover(rib) * gristle, 95)
        paint(volume, s.cover(rib) * (1 - gristle), marrow + 40)
        paint(volume, s.shell(rib, 1.5) * (1 - gristle), dense * 1.1)

        front = np.where(s.y < 0, self.d, 99)
        across = np.maximum(np.abs(s.x) - 11 - 10 * ramp(s.z, -45, -75) - s.noise(rng, 20), 0)
        plate = np.hypot(np.maximum(np.abs(front - 7) - 0.5, 0), 0.7 * across) - 3.8
        bone(smooth_max(plate, np.maximum(-88 - s.z, s.z - u(60, 80)), 4), 1.4)
        for side in (-1, 1):
            blade = np.abs(self.d - 19 - 5 * np.sin(s.z / 22) - 3 * s.noise(rng, 30)) - 2.2
            reach = s.ellipsoid((-62, 0.62 * self.cage[1], side * 0.80 * self.cage[0]), (70, 40, 36))
            bone(smooth_max(np.maximum(blade, self.skin + 4), reach, 3), 1.5)
            span = 0.78 * self.cage[0] + 24
            deep = self.cage[1]
            clavicle = [(-92, -0.78 * deep, side * 22), (-112, -0.62 * deep, side * 70),
                        (-122, -0.1 * deep, side * span)]
            ridge = [(-118, 0.62 * deep, side * 0.72 * self.cage[0]), (-105, 0.2 * deep, side * (span + 2))]
            for points, radius in ((clavicle, 6), (ridge, 5)):
                s.tube(volume, points, radius, dense)
                s.tube(volume, points, radius - 2, spongy)

    def surroundings(self, volume):
        s, u = self.s, self.rng.uniform
        if self.arms:
            for side in (-1, 1):
                x = side * (self.cage[0] + self.wall + self.fat + 40)
                lean = [(z, u(-6, 10) + 0.08 * z, x) for z in (-200, -60, 80, 230)]
                for radius, value in ((36, -105), (29, self.muscle), (11, 800), (6.5, 60)):
                    s.tube(volume, lean, radius, value)
        if u() < 0.6:
            curve = u(250, 900)
            bed = self.cage[1] + self.wall + self.fat + u(14, 24) - np.minimum(s.x**2 / (2 * curve), 60)
            outside = 1 - s.cover(self.skin)
            outside *= np.abs(s.x) < 205
            board = np.abs(s.y - bed - 12) - 12
            paint(volume, outside * s.shell(board, u(1, 2)), u(-350, 250))
            paint(volume, outside * s.cover(board + 2), u(-990, -900))

    def scan(self, volume):
        """Noise of a scan: fine, stronger in the middle of the body; nothing below air."""
        s = self.s
        grain = s.noise(self.rng, [1.3 * abs(axis[1] - axis[0]) if len(axis) > 1 else 1.0 for axis in s.axes])
        volume += self.rng.uniform(3, 14) * grain * s.cover(self.skin - 4) * (1 - 0.4 * ramp(self.d, -40, 20))
        return np.clip(volume, -1000, None).astype(np.float32)
