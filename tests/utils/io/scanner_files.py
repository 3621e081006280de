"""A scan of three blobs, written as scanners write theirs, with the signs that the formats' descriptions have."""
import struct

import numpy as np
import tifffile

from physics.geometry import ConeGeometry
from tests.physics.scans import WIDE, blob_projections

SOURCE, DETECTOR = WIDE["src_dist"], WIDE["src_dist"] + WIDE["det_dist"]
STEP = 1.5
GRID = {name: WIDE[name] for name in ("volume_shape", "voxel_size")}


def scan(first=0.0, step=4.0, views=90, offset=(1.2, -3.0), **changes):
    """The scan, and its transmission of 60000 counts [views, v, u], v up and u to the left."""
    geometry = ConeGeometry(angles=first + step * np.arange(views), **WIDE | dict(det_offset=offset) | changes)
    p = blob_projections(geometry)[0].double().numpy() / 20
    return geometry, np.round(60000 * np.exp(-p))


def tiffs(folder, begin, images, kind=np.uint16):
    for k, image in enumerate(images):
        tifffile.imwrite(folder / f"{begin}{k:04d}.tif", image.astype(kind))


def nikon(folder):
    _, counts = scan(first=-170)         # rows from the top, columns from the right, t = angle - 180
    (folder / "blobs.xtekct").write_text(f"""[XTekCT]
Name=blobs
InputSeparator=_
VoxelsX=40
VoxelsY=40
VoxelsZ=12
VoxelSizeX=1
VoxelSizeY=1
VoxelSizeZ=1
SrcToObject={SOURCE}
SrcToDetector={DETECTOR}
DetectorPixelsX=80
DetectorPixelsY=40
DetectorPixelSizeX={STEP}
DetectorPixelSizeY={STEP}
DetectorOffsetX=3.0
DetectorOffsetY=1.2
WhiteLevel=60000
Projections=90
InitialAngle=10
AngularStep=4
""".replace("\n", "\r\n"), newline="")
    tiffs(folder, "blobs_", counts[:, ::-1, ::-1])
    return folder


def skyscan(folder):
    _, counts = scan(offset=(1.5, 0.0))  # rows from the top; the axis in the middle column; line 20.5 at z = 0
    (folder / "blobs.log").write_text(f"""[System]
Scanner=SkyScan
Camera Pixel Size (um)=750.0
[Acquisition]
Filename Prefix=blobs
Number Of Files=90
Number Of Rows=40
Number Of Columns=80
Camera binning=2x2
Optical Axis (line)=20.5
Object to Source (mm)={SOURCE}
Camera to Source (mm)={1.08 * DETECTOR}
Image Pixel Size (um)={1000 * STEP * SOURCE / DETECTOR}
Rotation Step (deg)=4.0
Depth (bits)=16
Reference Intensity=60000
""", encoding="latin-1")
    tiffs(folder, "blobs", counts[:, ::-1])
    (folder / "blobs_TS.csv").write_text("1, 2\n")
    return folder


def his(path, raw):
    rows, columns = raw.shape
    header = struct.pack("<HHHIHHHHHHHdH34x", 0x7000, 68, 0, 100 + 2 * raw.size, 32, 1, 1, rows, columns, 1, 0, 0.0, 4)
    path.write_bytes(header + bytes(32) + raw.astype("<u2").tobytes())


def elekta(folder):
    """At a hundredth of the usual size: the panel is 409.6 mm, the source 1000 mm away, and so is everything."""
    pitch = 409.6 / 64
    geometry = ConeGeometry(angles=np.arange(0, 360, 4) - 176.0, src_dist=1000, det_dist=536, det_shape=(64, 64),
                            det_spacing=(pitch, pitch), det_offset=(-5.0, 12.0), volume_shape=(24, 40, 40),
                            voxel_size=(4, 4, 4))
    p = blob_projections(in_blobs(geometry))[0].double().numpy() / 20
    for k, image in enumerate(np.round(65536 * np.exp(-p))):
        his(folder / f"{k + 1:05d}.blobs.his", 65536 - image)
    frame = ("<Frame><Seq>{}</Seq><GantryAngle>{}</GantryAngle><Exposed>True</Exposed><UCentre>-12.0</UCentre>"
             "<VCentre>5.0</VCentre></Frame>")
    frames = "".join(frame.format(k + 1, angle) for k, angle in enumerate(geometry.angles))
    (folder / "_Frames.xml").write_text(f"<ProjectionSet><Frames>{frames}</Frames></ProjectionSet>")
    return folder


def in_blobs(geometry):
    """A geometry whose voxels of 4 mm are 1, for the blobs."""
    return ConeGeometry(**{**{name: getattr(geometry, name) for name in ("angles", "det_shape", "volume_shape")},
                           "voxel_size": (1, 1, 1), "src_dist": geometry.src_dist / 4,
                           "det_dist": geometry.det_dist / 4, "det_spacing": np.divide(geometry.det_spacing, 4),
                           "det_offset": np.divide(geometry.det_offset, 4)})


def deltas(image):
    """The first row and a pixel more, then differences from left + above - above left, and how many bytes they take."""
    columns = image.shape[1]
    flat = image.astype(np.int64).ravel()
    k = np.arange(columns + 1, flat.size)
    difference = flat[k] - flat[k - 1] - flat[k - columns] + flat[k - columns - 1]
    size = np.where(abs(difference) <= 127, 0, np.where(abs(difference) <= 32767, 1, 2))
    body = b"".join(int(d).to_bytes(1 << s, "little", signed=True) for d, s in zip(difference, size))
    padded = np.concatenate([size, np.zeros(-len(size) % 4, int)]).reshape(-1, 4)
    table = (padded << np.array([0, 2, 4, 6])).sum(1).astype(np.uint8).tobytes()
    return table, flat[:columns + 1].astype("<i4").tobytes() + body


def xim(path, image, properties, compressed=True):
    rows, columns = image.shape
    out = struct.pack("<8s6i", b"VMS.XI\0\0", 1, columns, rows, 32, 4, compressed)
    if compressed:
        table, body = deltas(image)
        out += struct.pack("<i", len(table)) + table + struct.pack("<i", len(body)) + body
        out += struct.pack("<i", 4 * image.size)
    else:
        out += struct.pack("<i", 4 * image.size) + image.astype("<i4").tobytes()
    out += struct.pack("<i2i", 2, 7, 8) + struct.pack("<i", len(properties) + 1)
    out += struct.pack("<i", 5) + b"Notes" + struct.pack("<ii", 2, 4) + b"none"
    for name, value in properties.items():
        out += struct.pack("<i", len(name)) + name.encode() + struct.pack("<id", 1, value)
    path.write_bytes(out)


def varian(folder, compressed=True, chamber=lambda k: 1000.0 + 10 * k):
    geometry, counts = scan(first=20)           # t = 180 - KVSourceRtn; the detector in cm; an air scan
    for k, (image, angle) in enumerate(zip(counts, geometry.angles)):
        xim(folder / f"Proj_{k:05d}.xim", np.round(image * chamber(k) / 1000), {
            "KVSourceRtn": (180 - angle) % 360, "KVDetectorLat": -0.3, "KVDetectorLng": 0.12,
            "PixelWidth": STEP / 10, "PixelHeight": STEP / 10, "KVNormChamber": chamber(k)}, compressed)
    (folder / "Scan.xml").write_text(f'<Scan xmlns="http://baden.varian.com/cr.xsd"><Acquisitions><SAD>{SOURCE}</SAD>'
                                     f"<SID>{DETECTOR}</SID></Acquisitions></Scan>")
    air = folder / "Calibrations" / "Air-1" / "Current"
    air.mkdir(parents=True)
    xim(air / "Filter.xim", np.full((40, 80), 30000), {"KVNormChamber": 500.0})
    return folder


def rxsolutions(folder):
    geometry, counts = scan(first=15)           # y up, z to the source at 0: (x, z, -y) of this program
    lines = ["name;;source;;;Imager Center;;;Imager Top;;;Imager Right;;;", ";x;y;z" * 4]
    for k, view in enumerate(geometry.vectors.reshape(-1, 4, 3)):
        source, centre, step_u, step_v = view[:, [0, 2, 1]] * (1, 1, -1)
        places = np.concatenate([source, centre, centre + 20 * step_v, centre + 40 * step_u])
        lines.append(f"D:\\Tomo\\img_{k:04d}.tif;" + ";".join(f"{place:.9g}" for place in places) + ";")
    (folder / "geom.csv").write_text("\r\n".join(lines) + "\r\n", newline="")
    (folder / "Proj").mkdir()
    tiffs(folder / "Proj", "img_", counts[:, ::-1])
    return folder


def flexray(folder):
    geometry, counts = scan(first=-40)
    rng = np.random.default_rng(0)
    dark, gain = rng.integers(90, 110, (40, 80)), rng.uniform(0.8, 1, (40, 80))
    turn = np.vstack([geometry.vectors, geometry.vectors[:1]])      # the last view repeats the first
    np.savetxt(folder / "scan.geom", turn, "%.9g")
    images = dark + gain * counts
    tiffs(folder, "scan_", np.round(np.vstack([images, images[:1]])))
    tiffs(folder, "di", np.round([dark - 1, dark + 1]))
    tiffs(folder, "io", np.round([dark + 60000 * gain] * 2))
    return folder


def zeiss(folder, count=90):
    """Rows from the top; distances with their varying sign; images 0.5 and 1 pixel to the left of where they belong."""
    geometry, counts = scan(first=-180, offset=(0.0, 0.0))
    shifts = np.tile([0.5, 1.0], 45)
    moved = [np.stack([np.interp(np.arange(80) + shift, np.arange(80), row) for row in image])
             for image, shift in zip(counts, shifts)]
    streams = {"ImageInfo/NoOfImages": struct.pack("<i", count), "ImageInfo/ImageWidth": struct.pack("<i", 80),
               "ImageInfo/ImageHeight": struct.pack("<i", 40), "ImageInfo/DataType": struct.pack("<i", 5),
               "ImageInfo/Angles": np.float32(geometry.angles).tobytes(),
               "ImageInfo/PixelSize": struct.pack("<f", 1000 * STEP * SOURCE / DETECTOR),
               "ImageInfo/StoRADistance": np.full(90, -SOURCE, "<f4").tobytes(),
               "ImageInfo/DtoRADistance": np.full(90, DETECTOR - SOURCE, "<f4").tobytes(),
               "ImageInfo/XrayGeometry": struct.pack("<i", 1), "ImageInfo/AcquisitionMode": struct.pack("<i", 0),
               "Alignment/X-Shifts": np.float32(shifts).tobytes(), "Alignment/Y-Shifts": np.zeros(90, "<f4").tobytes(),
               "ReferenceData/Image": np.full((40, 80), 60000, "<f4").tobytes(),
               "ReferenceData/DataType": struct.pack("<i", 10)}
    streams |= {f"ImageData1/Image{k + 1}": np.round(image[::-1]).astype("<u2").tobytes()
                for k, image in enumerate(moved)}
    ole(folder / "blobs.txrm", streams)
    return folder / "blobs.txrm"


def ole(path, streams):
    """An OLE2 file of streams in storages, filled up to the 4096 bytes that need no short sectors ([MS-CFB])."""
    streams = {name: content.ljust(4096, b"\0") for name, content in streams.items()}
    free, end, table = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD
    storages = sorted({name.split("/")[0] for name in streams})
    entries, sectors, chain = [], [], []

    def put(content):
        first = len(sectors)
        parts = [content[k:k + 512].ljust(512, b"\0") for k in range(0, len(content), 512)]
        sectors.extend(parts)
        chain.extend([first + k + 1 for k in range(len(parts) - 1)] + [end])
        return first

    def entry(name, kind, right, child, first, size):
        text = name.encode("utf-16-le")
        return struct.pack("<64sHBBIII36sIQ", text, len(text) + 2, kind, 1, free, right, child, bytes(36), first, size)

    names = {storage: [name for name in streams if name.startswith(storage + "/")] for storage in storages}
    begins = np.cumsum([1 + len(storages)] + [len(names[storage]) for storage in storages]).tolist()
    entries.append(entry("Root Entry", 5, free, 1, end, 0))
    for k, storage in enumerate(storages):
        entries.append(entry(storage, 1, k + 2 if k + 1 < len(storages) else free, begins[k], 0, 0))
    for storage, begin in zip(storages, begins):
        for k, name in enumerate(names[storage]):
            right = begin + k + 1 if k + 1 < len(names[storage]) else free
            entries.append(entry(name.split("/")[1], 2, right, free, put(streams[name]), len(streams[name])))
    directory = put(b"".join(entries))
    count = -(-(len(sectors) + 8) // 127)
    first = len(sectors)
    chain.extend([table] * count)
    fat = np.full(count * 128, free, "<u4")
    fat[:len(chain)] = chain
    header = struct.pack("<8s16sHHHHH6sIIIIIIIII", bytes.fromhex("d0cf11e0a1b11ae1"), bytes(16), 0x3E, 3, 0xFFFE, 9, 6,
                         bytes(6), 0, count, directory, 0, 4096, end, 0, end, 0)
    places = np.full(109, free, "<u4")
    places[:count] = np.arange(first, first + count)
    path.write_bytes(header + places.tobytes() + b"".join(sectors) + fat.tobytes())


def htc(folder):
    from scipy.io import savemat

    geometry = ConeGeometry(angles=np.arange(0, 364, 4), src_dist=SOURCE, det_dist=DETECTOR - SOURCE, det_shape=(1, 80),
                            det_spacing=(STEP, STEP), volume_shape=(1, 40, 40), voxel_size=(1, 1, 1))
    parameters = {"angles": geometry.angles, "distanceSourceOrigin": SOURCE, "distanceSourceDetector": DETECTOR,
                  "pixelSizePost": STEP}
    savemat(folder / "blobs.mat", {"CtDataFull": {"sinogram": blob_projections(geometry)[0, :, 0].double().numpy() / 20,
                                                  "parameters": parameters}})
    return folder / "blobs.mat"
