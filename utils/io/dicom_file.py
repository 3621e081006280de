"""One file in DICOM: what it says of its slices, and their values."""
import logging
import re
import struct
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import generate_frames
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.pixels import pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

UNCOMPRESSED = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
BY_PYDICOM = (*UNCOMPRESSED, DeflatedExplicitVRLittleEndian, RLELossless)    # without packages of its own; GDCM others
STARTS = (b"\x02\0", b"\x08\0", b"\0\x08")    # the first group of a file without preamble, in either byte order
SLICES = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.[24](\.1)?|1\.2\.840\.10008\.5\.1\.4\.1\.1\.(2\.2|4\.4)")
TAGS = {    # the first keyword that is there; those of enhanced files (PS3.3, C.7.6.16) stand in functional groups
    "class": "SOPClassUID", "uid": "SeriesInstanceUID", "number": "SeriesNumber", "description": "SeriesDescription",
    "modality": "Modality", "kind": "FrameType ImageType", "colour": "PhotometricInterpretation",
    "samples": "SamplesPerPixel", "bits": "BitsAllocated", "frames": "NumberOfFrames", "rows": "Rows",
    "columns": "Columns", "position": "ImagePositionPatient", "orientation": "ImageOrientationPatient",
    "spacing": "PixelSpacing", "slope": "RescaleSlope", "intercept": "RescaleIntercept", "padding": "PixelPaddingValue",
    "padding end": "PixelPaddingRangeLimit", "time": "TemporalPositionIndex TemporalPositionIdentifier",
    "acquisition": "AcquisitionNumber FrameAcquisitionNumber", "echo time": "EffectiveEchoTime EchoTime",
    "inversion time": "InversionTimes InversionTime", "flip angle": "FlipAngle", "b value": "DiffusionBValue",
    "trigger time": "NominalCardiacTriggerDelayTime TriggerTime", "kernel": "ConvolutionKernel", "stack": "StackID",
    "acquisition time": "FrameAcquisitionDateTime AcquisitionTime", "instance": "InstanceNumber",
    "thickness": "SliceThickness"}
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
KEYWORDS = [*GROUPS, *(keyword for keywords in TAGS.values() for keyword in keywords.split())]
DAMAGE = (BytesLengthException, InvalidDicomError, ArithmeticError, AttributeError, EOFError, LookupError,
          RuntimeError, TypeError, ValueError, MemoryError, struct.error, zlib.error)    # pydicom, on other bytes

logging.getLogger("pydicom").setLevel(logging.CRITICAL)    # what matters is an error here


@dataclass(frozen=True)
class Slice:
    """A slice of a file, by its frame, which has functional groups where ``enhanced``; the texts of `TAGS` for it."""

    path: Path
    frame: int
    enhanced: bool
    syntax: str
    tags: dict[str, str]

    def __str__(self) -> str:
        return f"{self.path}{self._where}"

    @property
    def name(self) -> str:
        return f"{self.path.name}{self._where}"

    @property
    def _where(self) -> str:
        return f", frame {self.frame + 1}" if self.tags["frames"] not in ("", "1") else ""

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        return int(self.tags["columns"]), int(self.tags["rows"])

    def numbers(self, name: str, count: int, most: float = 1e6) -> np.ndarray:
        """The ``count`` numbers of a tag. ValueError where they are missing, none, or larger than ``most``."""
        try:
            values = np.array([float(text) for text in self.tags[name].split("\\")])
        except ValueError:
            values = np.zeros(0)
        if values.size != count or not np.isfinite(values).all() or abs(values).max() > most:
            raise ValueError(f"{self}: {name} {self.tags[name][:80]!r}; accepted: {count} number{'s' * (count > 1)} "
                             f"({TAGS[name].split()[-1]})")
        return values


def read_slices(path: Path) -> list[Slice]:
    """The slices that a file says it holds: one, or each frame of an enhanced image; none if it is no DICOM image.

    Files are known by their content: the mark behind the preamble or, without it, a first element of DICOM.

    Raises:
        ValueError: a damaged or incomplete file, by its name.
        OSError: it can't be read.
    """
    with open(path, "rb") as stream:
        start = stream.read(132)
    marked = start[128:] == b"DICM"
    if not marked and start[:2] not in STARTS:
        return []
    try:
        with _damage_named(path, "file"):
            file = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=KEYWORDS)
            syntax, own = _syntax(file), _texts({element.keyword: element for element in file})
            shared, frames = ([_flat(group) for group in file.get(name) or []] for name in GROUPS)
            whole = bool(own["rows"] and own["columns"] and int(own["rows"]) and int(own["columns"]))
            if (frames and len(frames) != int(own["frames"] or 1)) or (not whole and SLICES.fullmatch(own["class"])):
                raise ValueError
            common = own | _there(_texts(shared[0] if shared else {}))
            tags = [common | _there(_texts(frame)) for frame in frames] or [common]
    except ValueError:
        if marked:
            raise
        return []
    if not whole:
        if marked and not own["class"]:
            raise ValueError(f"{path}: damaged or incomplete DICOM file; accepted: whole files")
        return []
    return [Slice(path, frame, bool(frames), syntax, texts) for frame, texts in enumerate(tags)]


def fill(targets: list[tuple[Slice, np.ndarray]]) -> None:
    """Write the rescaled values of slices of one file into their arrays [y, x]; NaN where they are padding.

    Raises:
        ValueError: damaged or incomplete pixels, or values that float32 does not hold, by the file's name.
    """
    path = targets[0][0].path
    with _damage_named(path, "pixels"):
        file = pydicom.dcmread(path, force=True)
        file.file_meta.TransferSyntaxUID = UID(_syntax(file))
        stored_bits = int(file.get("BitsStored") or file.BitsAllocated)
    for image, target in targets:
        with _damage_named(path, "pixels"):
            array = (pixel_array(file, index=image.frame, raw=True) if image.syntax in BY_PYDICOM else
                     _by_gdcm(file, image.frame))
        if array.shape != target.shape or array.dtype.kind not in "iu":
            raise ValueError(f"{image}: pixels of type {array.dtype} and shape {array.shape}; accepted: grey values")
        slope, intercept = (image.numbers(name, 1)[0] if image.tags[name] else default
                            for name, default in (("slope", 1.0), ("intercept", 0.0)))
        with np.errstate(over="ignore"):
            target[...] = array * slope + intercept
        if not np.isfinite(target).all():
            raise ValueError(f"{image}: pixels are NaN, infinite or beyond float32; accepted: finite values")
        if image.tags["padding"]:
            found = [image.numbers(name, 1, 2**32)[0] for name in ("padding", "padding end") if image.tags[name]]
            # Written signed for unsigned pixels, or the other way round, or with more bits, they are the same bits.
            unused = max(array.dtype.itemsize * 8 - stored_bits, 0)
            ends = (np.array(found).astype(np.int64).astype(array.dtype) << unused) >> unused
            target[(array >= ends.min()) & (array <= ends.max())] = np.nan


@contextmanager
def _damage_named(path: Path, part: str) -> Iterator[None]:
    """What the reader says of bytes that are no DICOM as one ValueError, and its warnings left out."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DAMAGE:
        raise ValueError(f"{path}: damaged or incomplete {'DICOM ' * (part == 'file')}{part}; accepted: whole "
                         "files") from None


def _syntax(file: Dataset) -> str:
    """The transfer syntax; of a file without the group that says it, the one that its first elements are in."""
    if syntax := file.file_meta.get("TransferSyntaxUID"):
        return syntax
    implicit, little = file.original_encoding
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _flat(group: Dataset) -> dict:
    """The elements of a functional group, whose macros are sequences of one item, by keyword."""
    macros = (element.value for element in group if element.VR == "SQ")
    return {element.keyword: element for macro in macros if macro for element in macro[0]}


def _texts(elements: dict) -> dict[str, str]:
    """The printable texts of `TAGS`, "" where missing."""
    found = {}
    for name, keywords in TAGS.items():
        value = next((elements[keyword].value for keyword in keywords.split() if keyword in elements), "")
        values = value if isinstance(value, (list, MultiValue)) else [] if value is None else [value]
        text = "\\".join(map(str, values))
        # Bytes in an unknown character set may come as what can't be printed.
        found[name] = "".join(letter if " " <= letter <= "~" else " " if letter.isspace() else "?"
                              for letter in text.strip(" \0"))
    return found


def _there(texts: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in texts.items() if text}


def _by_gdcm(file: Dataset, frame: int) -> np.ndarray:
    """Stored values [y, x] of a compressed frame, decoded by the library in SimpleITK.

    It is handed a plain image of this frame alone: it knows no names of files but those in its own language, and
    nothing of rescaling or functional groups.
    """
    import SimpleITK as sitk

    count = int(file.get("NumberOfFrames") or 1)
    plain = Dataset()
    for keyword in ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored",
                    "HighBit", "PixelRepresentation"):
        setattr(plain, keyword, file[keyword].value)
    for index, content in enumerate(generate_frames(file.PixelData, number_of_frames=count)):
        if index == frame:
            plain.PixelData = pydicom.encaps.encapsulate([content])
    plain["PixelData"].VR = "OB"
    plain.SOPClassUID, plain.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    plain.file_meta = FileMetaDataset()
    plain.file_meta.TransferSyntaxUID = file.file_meta.TransferSyntaxUID
    sitk.ProcessObject.SetGlobalWarningDisplay(False)    # what matters is an error here
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    with tempfile.TemporaryDirectory() as folder:
        name = f"{folder}/frame.dcm"
        plain.save_as(name, enforce_file_format=True)
        reader.SetFileName(name)
        array = sitk.GetArrayFromImage(reader.Execute())
    return array.reshape(array.shape[-2:])
