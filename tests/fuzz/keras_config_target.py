"""Fuzz target: any bytes as the configuration inside a ``.keras`` archive or an ``.h5``; only ModelError comes out.

    PYTHONPATH=.:../export python tests/fuzz/keras_config_target.py CORPUS_DIR -max_total_time=600    (needs atheris)

The default suite runs a short version of it without atheris (test_fuzz_keras_config.py).
"""

from __future__ import annotations

import json
import sys
import tempfile
import zipfile
from pathlib import Path

import h5py

from glomedge.errors import ModelError
from glomedge_export.keras_files.describe import describe, in_rows

MAX_MESSAGE = 500


class Target:
    """One archive and one HDF5 file, rewritten for each input.

    Args:
        folder: for them.
        weights: HDF5 that passes the checks.
    """

    def __init__(self, folder: Path, weights: bytes) -> None:
        self.archive, self.hdf5, self.weights = folder / "fuzz.keras", folder / "fuzz.h5", weights

    def one_archive(self, config: bytes, version: str) -> bool:
        """Describe an archive with this configuration; whether it was taken and found safe."""
        with zipfile.ZipFile(self.archive, "w") as archive:
            archive.writestr("config.json", config)
            archive.writestr("metadata.json", json.dumps({"keras_version": version}))
            archive.writestr("model.weights.h5", self.weights)
        return self._described(self.archive)

    def one_hdf5(self, config: str) -> bool:
        """The same as the attribute of an HDF5 file."""
        with h5py.File(self.hdf5, "w") as opened:
            opened.attrs["model_config"], opened.attrs["keras_version"] = config, "2.15.0"
        return self._described(self.hdf5)

    def _described(self, path: Path) -> bool:
        try:
            found = describe(path)
        except ModelError as error:
            check_message(str(error))
            return False
        document = found.as_json()
        assert json.loads(json.dumps(document)) == document
        for _, text in in_rows(found):
            assert text.isprintable(), text
        for reason in (found.refused, found.unfit):
            if reason is not None:
                check_message(reason)
        assert (found.command() is None) == (found.refused is not None or found.unfit is not None)
        return found.refused is None


def check_message(text: str) -> None:
    """What is promised of every refusal: short, printable, whole sentences."""
    assert len(text) <= MAX_MESSAGE, text
    assert text.isprintable(), text
    assert text.endswith((".", ")")), text


def main() -> None:
    """Hand over to libFuzzer."""
    import atheris

    folder = Path(tempfile.mkdtemp())
    with h5py.File(folder / "weights.h5", "w") as opened:
        opened["x"] = 1
    target = Target(folder, (folder / "weights.h5").read_bytes())
    atheris.instrument_all()

    def test_one_input(data: bytes) -> None:
        target.one_archive(data, "2.15.0")

    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
