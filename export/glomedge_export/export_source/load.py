"""Which kind of model a file holds."""

from __future__ import annotations

from pathlib import Path

from glomedge.errors import ModelError
from glomedge_export.export_source.foreign import load_foreign
from glomedge_export.export_source.own import load_own
from glomedge_export.export_source.source import Said, Source


def load_source(model: Path, said: Said) -> Source:
    """Read a model and what is known about it: ours by its own parts, any other by what its graph shows.

    Raises:
        ModelError: no model, or one that no model file can carry.
        UsageError: something is missing, or was said of a model that says it itself.
    """
    from glomedge_export.keras_files import safety
    from glomedge_export.keras_files.identify import identify

    if not model.exists():
        raise ModelError(f"There is no Keras model at {model}. Train one with: glomedge train DATA")
    file = identify(model)
    # Before anything opens it, ours or not: what a file says of itself is no proof.
    safety.check(file)
    return load_own(model, said) if safety.is_own(file) else load_foreign(model, said)
