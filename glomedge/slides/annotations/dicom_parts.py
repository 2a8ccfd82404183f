"""What answers in DICOM have in common: codes, identifiers, the program that wrote them.

No standard code says "globally sclerotic": such codes are of the scheme ``99GLOMEDGE`` (PS3.16, 8.2, "99" for private).
Identifiers are derived from the content, so that the same answers of the same run are the same bytes.
"""

from __future__ import annotations

import io
import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any

from glomedge.about import RESEARCH_USE_NOTICE, __version__
from glomedge.slides.annotations.answers import NOT_CLASSIFIED, AnsweredOutline, RunNote

if TYPE_CHECKING:
    from highdicom.sr import CodedConcept
    from pydicom.dataset import Dataset

SCHEME = "99GLOMEDGE"
MANUFACTURER, MODEL_NAME = "glomedge", "glomedge"
MAX_SHORT_CHARACTERS = 64
"""Of a long string (LO), such as the meaning of a code (PS3.5, 6.2)."""
_CODE_OF_LABEL = {0: "NGS", 1: "GS", None: "NONE"}


def code(value: str, meaning: str) -> CodedConcept:
    """A code of our own."""
    from highdicom.sr import CodedConcept

    return CodedConcept(value, SCHEME, meaning[:MAX_SHORT_CHARACTERS])


def glomerulus() -> CodedConcept:
    """What every outline is of."""
    return code("GLOM", "Glomerulus")


def probability() -> CodedConcept:
    """What a network says of a glomerulus, 0 to 1."""
    return code("PROB-GS", "Probability of globally sclerotic")


def class_code(label: int | None, note: RunNote) -> CodedConcept:
    """The class of an answer."""
    return code(_CODE_OF_LABEL[label], NOT_CLASSIFIED if label is None else note.class_names[label])


def uid_of(*parts: object) -> str:
    """An identifier that is the same for the same parts and for no others (PS3.5, B.2)."""
    namespace = uuid.UUID("b8f3a0de-4c8e-5b57-9a55-0d1f6f2f9c11")
    return f"2.25.{uuid.uuid5(namespace, chr(0).join(map(str, parts))).int}"


def answer_texts(answered: AnsweredOutline) -> tuple[str, ...]:
    """What distinguishes one answer from another, for ``uid_of``."""
    points = b"".join(part.exterior.tobytes() for part in answered.outline.polygons)
    return (
        str(answered.outline.place), answered.outline.id, answered.status, repr(answered.probability),
        str(answered.label), str(uuid.uuid5(uuid.NAMESPACE_OID, points.hex())),
    )  # fmt: skip


def series_of(kind: str, slide_uid: str, note: RunNote, written_at: datetime, content: str) -> dict[str, Any]:
    """Arguments of highdicom for the series and the instance; there is one instance in each series.

    The time is among what the identifiers are made of: two instances that differ in nothing but their time differ, and
    DICOM wants another identifier for each.
    """
    texts = (kind, slide_uid, *note.as_texts().values(), written_at.isoformat(), content)
    return {
        "series_instance_uid": uid_of("series", *texts),
        "series_number": 900,
        "sop_instance_uid": uid_of("instance", *texts),
        "instance_number": 1,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": MODEL_NAME,
        "software_versions": __version__,
        "device_serial_number": note.model_sha256[:MAX_SHORT_CHARACTERS],
        "series_description": RESEARCH_USE_NOTICE,
        "specific_character_set": "ISO_IR 192",
        "content_date": written_at.date(),
        "content_time": written_at.time(),
    }


def encoded(dataset: Dataset, written_at: datetime) -> bytes:
    """The file, with the time of the run in place of now: the same run writes the same bytes."""
    dataset.InstanceCreationDate = written_at.strftime("%Y%m%d")
    dataset.InstanceCreationTime = written_at.strftime("%H%M%S")
    # The last one is highdicom itself; those before it come from the slide.
    dataset.ContributingEquipmentSequence[-1].ContributionDateTime = written_at.strftime("%Y%m%d%H%M%S")
    data = io.BytesIO()
    dataset.save_as(data, enforce_file_format=True)
    return data.getvalue()
