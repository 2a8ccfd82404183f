"""The process that one way runs in: ``python -m benchmarks.ways.worker WAY MODE FOLDER ARTIFACTS ENHANCED``.

It loads the way, answers the crops once unmeasured, says ``{"ready": ...}``, and then answers all of them on each
line ``go``, timing itself. See ``common.Worker`` for the other side.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import cast

from benchmarks.lib import common  # noqa: F401 - puts the checkout on sys.path
from benchmarks.ways import WAYS, Context, Mode, Run
from glomedge.errors import GlomedgeError


def main(arguments: list[str]) -> None:
    """Serve until standard input ends."""
    name, mode, folder, artifacts, enhanced = arguments
    # TensorFlow logs to standard output's descriptor here and there: answers go to a copy of it.
    answers_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer: dict[str, object]) -> None:
        answers_to.write(json.dumps(answer) + "\n")
        answers_to.flush()

    begin = time.perf_counter()
    module, function = WAYS[name].split(":")
    with tempfile.TemporaryDirectory(prefix="glomedge-way-") as scratch:
        context = Context(cast("Mode", mode), Path(folder), Path(artifacts), Path(enhanced), Path(scratch))
        try:
            run = cast("Run", getattr(importlib.import_module(module), function)(context))
        except (GlomedgeError, ImportError) as error:
            say({"error": str(error)})
            return
        loaded = time.perf_counter()
        run()
        say({"ready": name, "load_s": loaded - begin})
        for _ in sys.stdin:
            gc.collect()
            begin = time.perf_counter()
            probabilities = run()
            seconds = time.perf_counter() - begin
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
            say({"seconds": seconds, "probabilities": probabilities, "peak_rss_bytes": peak})


if __name__ == "__main__":
    main(sys.argv[1:])
