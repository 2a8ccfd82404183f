"""A small DICOM slide whose every pixel is known: tiled, uncompressed or packed without loss.

VL Whole Slide Microscopy Image (DICOM PS3.3 A.32.8), dimension organisation TILED_FULL, one instance a level.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage

from helpers.drawn_slides import picture

TILE_PX = 256
MPP = 0.25
ROOT = "1.2.826.0.1.3680043.8.498.1."
"""Below the root that pydicom is allowed to give to anybody; fixed, so that files are the same every time."""
Pixels = npt.NDArray[np.uint8]


def write_dicom(folder: Path, pixels: Pixels | None = None, *, mpp: float | None = MPP, series: int = 1) -> Path:
    """A slide of 900 x 700 pixels (width x height) in two levels; returns the file of the sharpest."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = picture(700, 900) if pixels is None else pixels
    for number, level in enumerate((pixels, np.ascontiguousarray(pixels[::2, ::2]))):
        dataset = _instance(level, None if mpp is None else mpp * 2**number, number, series)
        dataset.save_as(folder / f"level{number}.dcm", enforce_file_format=True)
    return folder / "level0.dcm"


def _instance(level: Pixels, mpp: float | None, number: int, series: int) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    meta.MediaStorageSOPInstanceUID = f"{ROOT}4.{series}.{number + 1}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    _patient_and_study(dataset, series, number)
    _specimen(dataset)
    _optics(dataset)
    _matrix(dataset, level, mpp, resampled=number > 0)
    return dataset


def _patient_and_study(dataset: Dataset, series: int, number: int) -> None:
    dataset.PatientName, dataset.PatientID = "Drawn^Slide", "drawn-1"
    dataset.PatientBirthDate, dataset.PatientSex = "", ""
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"{ROOT}1", f"{ROOT}2.{series}"
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = f"{ROOT}3.{series}", "SLIDE_CORNER"
    dataset.StudyID, dataset.AccessionNumber, dataset.ReferringPhysicianName = "1", "A-1", ""
    dataset.StudyDate, dataset.StudyTime = "20260102", "101500"
    dataset.SeriesNumber, dataset.InstanceNumber, dataset.Modality = str(series), str(number + 1), "SM"
    dataset.ContentDate, dataset.ContentTime, dataset.AcquisitionDateTime = "20260102", "101600", "20260102101600"
    dataset.Manufacturer, dataset.ManufacturerModelName = "glomedge tests", "drawn"
    dataset.DeviceSerialNumber, dataset.SoftwareVersions = "1", "1"


def _code(code: Any) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item


def _specimen(dataset: Dataset) -> None:
    dataset.ContainerIdentifier = "S-1234-000001_PAS_1of2"
    dataset.IssuerOfTheContainerIdentifierSequence = Sequence()
    dataset.ContainerTypeCodeSequence = Sequence([_code(codes.SCT.MicroscopeSlide)])
    specimen = Dataset()
    specimen.SpecimenIdentifier, specimen.SpecimenUID = "S-1234-000001", f"{ROOT}5"
    specimen.IssuerOfTheSpecimenIdentifierSequence = Sequence()
    specimen.SpecimenPreparationSequence = Sequence()
    dataset.SpecimenDescriptionSequence = Sequence([specimen])


def _optics(dataset: Dataset) -> None:
    path = Dataset()
    path.OpticalPathIdentifier = "1"
    path.IlluminationTypeCodeSequence = Sequence([_code(codes.DCM.BrightfieldIllumination)])
    path.IlluminationColorCodeSequence = Sequence([_code(codes.SCT.FullSpectrum)])
    dataset.OpticalPathSequence = Sequence([path])
    dataset.NumberOfOpticalPaths, dataset.TotalPixelMatrixFocalPlanes = 1, 1
    dataset.VolumetricProperties, dataset.SpecimenLabelInImage = "VOLUME", "NO"
    dataset.BurnedInAnnotation, dataset.FocusMethod, dataset.ExtendedDepthOfField = "NO", "AUTO", "NO"
    dataset.AcquisitionContextSequence = Sequence()
    dataset.LossyImageCompression = "00"


def _matrix(dataset: Dataset, level: Pixels, mpp: float | None, *, resampled: bool) -> None:
    height, width = level.shape[:2]
    rows, columns = -(-height // TILE_PX), -(-width // TILE_PX)
    filled = np.full((rows * TILE_PX, columns * TILE_PX, 3), 255, np.uint8)
    filled[:height, :width] = level
    tiles = filled.reshape(rows, TILE_PX, columns, TILE_PX, 3).swapaxes(1, 2)
    dataset.ImageType = [
        "DERIVED" if resampled else "ORIGINAL",
        "PRIMARY",
        "VOLUME",
        "RESAMPLED" if resampled else "NONE",
    ]
    dataset.TotalPixelMatrixColumns, dataset.TotalPixelMatrixRows = width, height
    origin = Dataset()
    origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = "20.5", "40.25"
    dataset.TotalPixelMatrixOriginSequence = Sequence([origin])
    dataset.ImageOrientationSlide = ["0", "-1", "0", "-1", "0", "0"]
    dataset.DimensionOrganizationType = "TILED_FULL"
    organisation = Dataset()
    organisation.DimensionOrganizationUID = f"{ROOT}6"
    dataset.DimensionOrganizationSequence = Sequence([organisation])
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = rows * columns, TILE_PX, TILE_PX
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    shared, frame_type, measures, path = Dataset(), Dataset(), Dataset(), Dataset()
    frame_type.FrameType = dataset.ImageType
    path.OpticalPathIdentifier = "1"
    shared.WholeSlideMicroscopyImageFrameTypeSequence = Sequence([frame_type])
    shared.OpticalPathIdentificationSequence = Sequence([path])
    if mpp is not None:
        measures.PixelSpacing, measures.SliceThickness = [mpp / 1000, mpp / 1000], 0.003
        shared.PixelMeasuresSequence = Sequence([measures])
        dataset.ImagedVolumeWidth, dataset.ImagedVolumeHeight = width * mpp / 1000, height * mpp / 1000
        dataset.ImagedVolumeDepth = 3.0
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    dataset.PixelData = tiles.tobytes()


def pack_as_jpeg_2000(path: Path, colour_transform: int) -> None:
    """Repack an instance as lossless JPEG 2000, with (1) or without (0) the reversible colour transform."""
    frames = []
    for tile in _frames(dcmread(path)):
        packed = io.BytesIO()
        Image.fromarray(tile).save(packed, "JPEG2000", irreversible=False, mct=colour_transform, no_jp2=True)
        frames.append(packed.getvalue())
    _replace_frames(path, frames, JPEG2000Lossless, "YBR_RCT" if colour_transform else "RGB")


def write_dicom_of(slide: Path, folder: Path) -> Path:
    """A DICOM slide that holds the very JPEG tiles of the first two levels of one of 900 x 700 pixels (``write``)."""
    path = write_dicom(folder)
    data = slide.read_bytes()
    for name, frames in zip(("level0.dcm", "level1.dcm"), _tiles_of_levels(data), strict=False):
        _replace_frames(folder / name, frames, JPEGBaseline8Bit, "YBR_FULL_422")
    return path


def _tiles_of_levels(data: bytes) -> Iterator[list[bytes]]:
    """The streams of each level of a classic TIFF: TileOffsets (324), TileByteCounts (325); TIFF 6.0, section 15."""
    (directory,) = struct.unpack_from("<I", data, 4)
    while directory:
        (count,) = struct.unpack_from("<H", data, directory)
        entries = [struct.unpack_from("<HHII", data, directory + 2 + 12 * number) for number in range(count)]
        fields = {tag: (values, at) for tag, _, values, at in entries}
        tiles, offsets_at = fields[324]
        offsets, lengths = (struct.unpack_from(f"<{tiles}I", data, at) for at in (offsets_at, fields[325][1]))
        yield [data[at : at + length] for at, length in zip(offsets, lengths, strict=True)]
        (directory,) = struct.unpack_from("<I", data, directory + 2 + 12 * count)


def _replace_frames(path: Path, frames: list[bytes], syntax: str, photometric: str) -> None:
    dataset = dcmread(path)
    assert len(frames) == dataset.NumberOfFrames
    dataset.file_meta.TransferSyntaxUID, dataset.PhotometricInterpretation = syntax, photometric
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path, enforce_file_format=True)


def concatenate(path: Path) -> Path:
    """Replace an instance by two that make up a concatenation (PS3.3, C.7.6.16.2.2.4); returns the first."""
    whole = dcmread(path)
    frames = _frames(whole)
    for number, part in enumerate((frames[:5], frames[5:])):
        dataset = dcmread(path)
        dataset.SOPInstanceUIDOfConcatenationSource = whole.SOPInstanceUID
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{whole.SOPInstanceUID}.{number + 1}"
        dataset.ConcatenationUID = f"{whole.SOPInstanceUID}.9"
        dataset.InConcatenationNumber, dataset.InConcatenationTotalNumber = number + 1, 2
        dataset.ConcatenationFrameOffsetNumber = 5 * number
        dataset.NumberOfFrames, dataset.PixelData = len(part), part.tobytes()
        dataset.save_as(path.with_name(f"{path.stem}-{number + 1}.dcm"), enforce_file_format=True)
    path.unlink()
    return path.with_name(f"{path.stem}-1.dcm")


def _frames(dataset: Dataset) -> Pixels:
    return np.frombuffer(dataset.PixelData, np.uint8).reshape(-1, TILE_PX, TILE_PX, 3)
