"""Manifests: a table of the inputs of a run in place of a search, with their biopsies where those are known.

CSV or Parquet with a column ``path``, relative to the folder or address that ``glomedge infer`` is given, written as in
``predictions.csv``; of storage also the whole address (``s3://bucket/folder/S-1.png``). ``case`` and ``slide`` are
optional, and so are their cells. Other columns are ignored.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from glomedge.cases.names import CaseFinder, CaseName
from glomedge.cases.text import counted, some
from glomedge.errors import MissingExtraError, OutputError, UsageError
from glomedge.files import addresses
from glomedge.files.addresses import Address, Place, is_address
from glomedge.files.names import escape_name, guard, neutralise, restore, unescape_name
from glomedge.files.storage import storage_at
from glomedge.files.writing import replacing
from glomedge.pipeline.inputs import PART_MARK, Found, Keys, Scan, scan
from glomedge.pipeline.stored_inputs import scan_storage
from glomedge.runs.options import Options
from glomedge.slides.pairs import SHARED_SUFFIXES, SLIDE_SUFFIXES

COLUMNS = ("path", "case", "slide")
_ROWS = 4096
_Cells = tuple[str, str, str]


@dataclass
class Manifest:
    """What a manifest says.

    Attributes:
        paths: of its inputs, sorted by their bytes.
        cases: path as results show it -> biopsy and slide, of the rows that have them.
        sha256: of the bytes that said so.
    """

    paths: list[bytes] = field(default_factory=list)
    cases: dict[str, CaseName] = field(default_factory=dict)
    sha256: str = ""


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"The manifest {_shown(path)} cannot be read: {error.strerror}.") from None


def address_in(path: Path) -> Address:
    """The bucket that a manifest of whole addresses is of, by its first row; ``read_manifest`` checks all rows.

    Raises:
        UsageError: its first path is no address.
    """
    shown = next(_cells(path, _bytes(path)), ("", "", ""))[0]
    name = unescape_name(shown)
    if not is_address(name):
        raise UsageError(
            f"The manifest {_shown(path)} begins with the path {addresses.shown(name)!r}, which is no address. Give "
            "the folder or the address that its paths are relative to: glomedge infer FOLDER --inputs ..."
        )
    return Address.parse(Address.parse(name.decode("utf-8", "surrogateescape")).bucket)


def _suffixes(address: Address | None) -> frozenset[str]:
    """Endings of inputs; in storage, of images alone."""
    from glomedge.imaging.images import ALLOWED_SUFFIXES

    return frozenset(ALLOWED_SUFFIXES if address is not None else ALLOWED_SUFFIXES | SLIDE_SUFFIXES | SHARED_SUFFIXES)


def read_manifest(path: Path, place: Place) -> Manifest:
    """Read and check a manifest, by its suffix.

    Its file is read once, so that paths, biopsies and SHA-256 are of the same version even if it is replaced meanwhile.

    Args:
        path: a local file.
        place: what its paths are relative to.

    Raises:
        UsageError: it cannot be read, has no column ``path``, or a path that is absolute, leaves the folder, is there
            twice or is no image; in storage also a slide.
        MissingExtraError: Parquet without pyarrow.
    """
    data = _bytes(path)
    manifest, known = Manifest(sha256=hashlib.sha256(data).hexdigest()), dict[tuple[str, str], CaseName]()
    address = place if isinstance(place, Address) else None
    endings = tuple(suffix.encode() for suffix in _suffixes(address))
    problems: list[str] = []
    for row, (shown, case, slide) in enumerate(_cells(path, data), 1):
        name = unescape_name(shown)
        if address is not None:
            name = address.below(name) or name
        wrong = _problem(name, endings)
        if wrong is not None:
            problems.append(f"row {row} {addresses.shown(name)!r} {wrong}")
            continue
        manifest.paths.append(name)
        if case:
            manifest.cases[escape_name(name)] = known.setdefault((case, slide), CaseName(case, slide or case))
    manifest.paths.sort()
    twice = (one for one, other in zip(manifest.paths, islice(manifest.paths, 1, None), strict=False) if one == other)
    problems += [f"{escape_name(name)!r} is there twice" for name in islice(twice, 3)]
    if problems:
        raise UsageError(
            f"The manifest {_shown(path)} has {counted(len(problems), 'problem')}: {'; '.join(problems[:3])[:240]}. "
            "Correct it, or write it again with glomedge manifest."
        )
    if not manifest.paths:
        raise UsageError(f"The manifest {_shown(path)} has no rows. Write it again with glomedge manifest.")
    return manifest


def _problem(name: bytes, endings: tuple[bytes, ...]) -> str | None:
    if not name or b"\0" in name:
        return "is no path"
    if addresses.has_key(name):
        return "has an account or a key in it, which only the environment must have"
    if is_address(name) or name.startswith(b"/") or b".." in name.split(b"/"):
        return "is not below the folder"
    if b"" in name.split(b"/") or b"." in name.split(b"/"):
        return "is not written as short as it can be"
    return None if name.lower().endswith(endings) else "is neither an image nor a slide"


def _shown(path: Place) -> str:
    return escape_name(bytes(path))


def _cells(path: Path, data: bytes) -> Iterator[_Cells]:
    """Path, case and slide of each row, empty where there is none. The path tells the format, the data the rows."""
    try:
        if path.suffix.lower() == ".parquet":
            yield from _of_parquet(path, data)
        elif path.suffix.lower() == ".csv":
            yield from _of_csv(path, data)
        else:
            raise UsageError(f"The manifest {_shown(path)} is neither .csv nor .parquet. Rename or convert it.")
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"The manifest {_shown(path)} is no CSV in UTF-8: {error}. Save it as such.") from None


def _of_csv(path: Path, data: bytes) -> Iterator[_Cells]:
    with io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="") as handle:
        first = handle.readline()
        delimiter = max(",;\t", key=first.count)
        header = [name.strip().lower() for name in next(csv.reader([first], delimiter=delimiter), [])]
        places = _places(path, header)
        for cells in csv.reader(handle, delimiter=delimiter, strict=True):
            if cells:
                one, two, three = (cells[at] if at is not None and at < len(cells) else "" for at in places)
                yield restore(one), restore(two).strip(), restore(three).strip()


def _places(path: Path, header: Sequence[str]) -> list[int | None]:
    if "path" not in header:
        raise UsageError(
            f"The manifest {_shown(path)} has no column 'path', but {some(header, 5) or 'nothing'}. Write one with "
            "glomedge manifest."
        )
    return [header.index(name) if name in header else None for name in COLUMNS]


def _pyarrow(what: str) -> Any:
    if importlib.util.find_spec("pyarrow") is None:
        raise MissingExtraError(what, "pyarrow", "parquet")
    import pyarrow.parquet

    return pyarrow


def _of_parquet(path: Path, data: bytes) -> Iterator[_Cells]:
    pyarrow = _pyarrow(f"reading {path.name}")
    try:
        with pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data)) as file:
            header = list(file.schema_arrow.names)
            places = _places(path, header)
            wanted = [header[at] for at in places if at is not None]
            for batch in file.iter_batches(_ROWS, columns=wanted):
                columns = batch.to_pydict()
                texts = [columns.get(name, [""] * batch.num_rows) for name in COLUMNS]
                for one, two, three in zip(*texts, strict=True):
                    yield str(one or ""), str(two or "").strip(), str(three or "").strip()
    except (pyarrow.ArrowException, OSError) as error:  # OSError: damaged data, as pyarrow says it
        raise UsageError(f"The manifest {_shown(path)} is no Parquet file: {str(error)[:120]}.") from None


def listed(options: Options) -> tuple[Scan, Manifest]:
    """The inputs that ``options.inputs`` lists; whether they are there is seen when they are read. And the manifest.

    Raises:
        UsageError: the manifest is not usable, or the folder is none.
        StorageError: what it lists cannot be read from storage at all.
    """
    assert options.inputs is not None
    if options.address is None and not options.folder.is_dir():
        raise UsageError(f"{_shown(options.folder)} is not a folder. Give the folder that the manifest's paths are in.")
    manifest = read_manifest(options.inputs, options.place)
    storage = storage_at(bytes(options.place))
    if storage is not None:
        storage.require_readable(manifest.paths)
    return Scan(bytes(options.place), [Found(name) for name in manifest.paths]), manifest


def case_finder(options: Options, inputs: Sequence[Found], manifest: Manifest | None) -> CaseFinder:
    """Who knows the biopsies of a run: the names, or its manifest.

    Raises:
        UsageError: the case pattern fits no name, or there are two sources of the biopsies.
    """
    given = {} if manifest is None else manifest.cases
    if not given:
        return CaseFinder(Keys(inputs), options.case_pattern)
    if options.case_pattern is not None:
        raise UsageError("The manifest has the biopsies (column case), and --case-pattern has another rule. Omit it.")
    return GivenCases(Keys(inputs), given)


class GivenCases(CaseFinder):
    """Biopsies as a manifest gives them; by the names of the others where a row gives none.

    Args:
        names: of all inputs.
        given: biopsy and slide by name; of an outline, that of its slide's file.
    """

    def __init__(self, names: Sequence[str], given: dict[str, CaseName]) -> None:
        self._given = given
        super().__init__([name for name in names if self._of(name) is None])
        self._given_count = sum(self._of(name) is not None for name in names)

    def _of(self, name: str) -> CaseName | None:
        return self._given.get(name) or self._given.get(name.rpartition(PART_MARK.decode())[0])

    def case_of(self, name: str) -> CaseName:
        """As the manifest says, else by the name."""
        return self._of(name) or super().case_of(name)

    def cases_of(self, names: Iterable[str]) -> list[CaseName]:
        """The same of many."""
        names = list(names)
        if None not in (found := [self._of(name) for name in names]):
            return [each for each in found if each is not None]
        by_name = super().cases_of(names)
        return [each or other for each, other in zip(found, by_name, strict=True)]

    def found_by(self) -> dict[str, int]:
        """Number of crops by rule; ``manifest`` for those that it gives."""
        return {"manifest": self._given_count, **super().found_by()}

    def summary(self) -> str:
        """How the biopsies were found, with counts."""
        said = f"The manifest gives the biopsies of {counted(self._given_count, 'input')}."
        return f"{said} Others: {super().summary()}" if super().found_by() else said


@dataclass(frozen=True)
class Written:
    """What ``write_manifest`` wrote.

    Attributes:
        rows: inputs.
        notes: what was skipped, one sentence each.
        unlisted: folders that could not be listed, whose files are missing.
    """

    rows: int
    notes: list[str]
    unlisted: list[str]


def write_manifest(
    folder: Place, output: Path, *, follow_symlinks: bool = False, stop: Callable[[], bool] = lambda: False
) -> Written:
    """List the crops and slides of a folder, with the biopsies of the crops as their names tell them.

    The biopsy of a slide's outlines is left to the run, which knows their names. What lies in storage is listed by its
    whole address.

    Raises:
        UsageError: the folder cannot be listed or holds no image, or the output is neither CSV nor Parquet.
        OutputError: the file cannot be written.
        StorageError: the address cannot be listed.
        MissingExtraError: Parquet without pyarrow.
        StoppedError: ``stop`` returned true.
    """
    if output.suffix.lower() not in (".csv", ".parquet"):
        raise UsageError(f"{_shown(output)} is neither .csv nor .parquet. Choose one of these suffixes.")
    root = b""
    if isinstance(folder, Address):
        found = scan_storage(folder, _suffixes(folder), slides=SLIDE_SUFFIXES, stop=stop)
        root = bytes(folder) + b"/"
    else:
        found = scan(folder, _suffixes(None), follow_symlinks=follow_symlinks, stop=stop)
    unlisted = [each.key for each in found.inputs if each.relative.endswith(b"/")]
    inputs = [each for each in found.inputs if not each.relative.endswith(b"/")]
    if not inputs:
        raise UsageError(f"There is no image in {_shown(folder)}. Give the folder that contains the crops or slides.")
    finder = CaseFinder(Keys([each for each in inputs if not _is_slide(each)]))
    rows = _rows(inputs, finder, escape_name(root))
    try:
        with replacing(output) as temporary:
            if output.suffix.lower() == ".csv":
                _write_csv(temporary, rows)
            else:
                _write_parquet(temporary, rows)
    except OSError as error:
        raise OutputError(f"{_shown(output)} cannot be written: {error.strerror}. Choose another --output.") from None
    return Written(len(inputs), found.notes(), unlisted)


def _is_slide(found: Found) -> bool:
    return found.relative.lower().endswith(tuple(suffix.encode() for suffix in SLIDE_SUFFIXES))


def _rows(inputs: Sequence[Found], finder: CaseFinder, root: str) -> Iterator[list[_Cells]]:
    for begin in range(0, len(inputs), _ROWS):
        part = inputs[begin : begin + _ROWS]
        cases = finder.cases_of([each.key for each in part])
        yield [
            (root + each.key, "", "") if _is_slide(each) else (root + each.key, name.case, name.slide)
            for each, name in zip(part, cases, strict=True)
        ]


def _write_csv(path: Path, rows: Iterable[list[_Cells]]) -> None:
    with path.open("wb") as raw, io.TextIOWrapper(raw, encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(COLUMNS)
        for part in rows:
            writer.writerows([neutralise(one), guard(two), guard(three)] for one, two, three in part)


def _write_parquet(path: Path, rows: Iterable[list[_Cells]]) -> None:
    pyarrow = _pyarrow("a manifest in Parquet")
    schema = pyarrow.schema([(name, pyarrow.string()) for name in COLUMNS])
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for part in rows:
            columns = [list(column) for column in zip(*part, strict=True)]
            writer.write_table(pyarrow.table(dict(zip(COLUMNS, columns, strict=True)), schema=schema))
