"""The model that is served, and how another one takes its place while requests are answered."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from glomedge.engine.loading import open_engine, require_bf16
from glomedge.engine.providers import batch_of, run_threads
from glomedge.errors import UsageError
from glomedge.model import site
from glomedge.model.file import read_model_file

if TYPE_CHECKING:
    from glomedge.engine.engine import Engine
    from glomedge.model.spec import ModelSpec
    from glomedge.serve.options import ServeOptions


class ServedModel:
    """One loaded model; closed when it was retired and the last one who holds it has let go of it.

    Attributes:
        engine: self-tested.
        path, sha256, spec: of its file.
        side_px, map_shape: of its spec.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.path = Path(engine.file.path)
        self.sha256, self.spec = engine.file.sha256, engine.spec
        self.side_px, self.map_shape = self.spec.input.side_px, self.spec.map_shape
        self._holders = 1  # the server itself, until it is retired
        self._lock = threading.Lock()

    def hold(self) -> ServedModel:
        """Keep it open until ``release``."""
        with self._lock:
            self._holders += 1
        return self

    def release(self) -> None:
        """Undo one ``hold``."""
        with self._lock:
            self._holders -= 1
            last = self._holders == 0
        if last:
            self.engine.close()

    retire = release

    @contextmanager
    def held(self) -> Iterator[ServedModel]:
        """``hold``, and ``release`` at the end."""
        self.hold()
        try:
            yield self
        finally:
            self.release()


def batch_threads(options: ServeOptions, spec: ModelSpec) -> int:
    """How many batches are computed at once, of the model that is served."""
    return 1 if options.optimise == "latency" else run_threads(options.engine, spec)


def open_model(options: ServeOptions) -> ServedModel:
    """Load the file, self-test it on this machine, and check that it can be served with these options.

    Raises:
        GlomedgeError: it cannot be loaded, fails its self-test, or does not fit the options.
    """
    file = read_model_file(options.model)
    site.check_site(file.spec, options.site)
    engine_options = replace(options.engine, batch_size=batch_of(options.engine, file.spec))
    engine = open_engine(file, engine_options, concurrency=batch_threads(options, file.spec), shares_cpus=True)
    try:
        require_bf16(engine, options.engine)
        if options.site is not None and engine.spec.operating_point is None:
            raise UsageError("--site: this model has no operating point. Leave --site out.")
    except BaseException:
        engine.close()
        raise
    return ServedModel(engine)
