"""Labelled crops that the model was trained on: what it answers there says nothing of a site."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from glomedge.cases.labels import LABELS_NAME, usable_labels
from glomedge.cases.text import some
from glomedge.errors import DatasetError
from glomedge.files.writing import sha256_of
from glomedge.model.crop_digests import among, data_sha256
from glomedge.model.file import ModelFile
from glomedge.model.spec import TrainingProvenance
from glomedge.pipeline.inputs import scan
from glomedge.pipeline.prepare import Answer
from glomedge.runs.evaluate import find_named


def refuse_seen(file: ModelFile, training: TrainingProvenance, images: Path, answers: Sequence[Answer]) -> None:
    """Raise DatasetError where labelled crops belong to those that the model was trained on."""
    if training.crop_digests is not None:
        known = among(training.crop_digests, [answer.sha256 for answer in answers if answer.sha256 is not None])
        seen = [answer.found.key for answer in answers if answer.sha256 in known]
    else:
        seen = [answer.found.key for answer in answers] if _is_training_data(training, images) else []
    if seen:
        raise DatasetError(
            f"{len(seen)} of the {len(answers)} labelled crops were used to train {file.path.name}, such as "
            f"{some(seen, 2)}: what it answers there says nothing of your site. Label crops that it has not seen."
        )


def _is_training_data(training: TrainingProvenance, images: Path) -> bool:
    """Whether a folder is the very data set of the training: names, labels and bytes of all crops."""
    from glomedge.imaging.images import ALLOWED_SUFFIXES

    table = images / LABELS_NAME
    try:
        labels = usable_labels(table).labels
        if len(labels) != sum(counts.crops for counts in training.splits.values()):
            return False  # spares the reading of every file
        file_of, _ = find_named(scan(images, ALLOWED_SUFFIXES, follow_symlinks=True).inputs, labels)
        rows = sorted((name, labels[name], images / os.fsdecode(found.relative)) for name, found in file_of.items())
        return data_sha256((name, label, sha256_of(path)) for name, label, path in rows) == training.data_sha256
    except (DatasetError, OSError):
        return False  # training took a table whose every row had its file, and read them all
