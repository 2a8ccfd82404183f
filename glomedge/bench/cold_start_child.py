"""The process that ``cold_start.py`` measures: as a program that only wants an answer, it imports nothing else.

``python -m glomedge.bench.cold_start_child MODEL IMAGE ENGINE_OPTIONS_JSON DESCRIPTOR``
"""

import json
import os
import sys
import time


def main(arguments: list[str]) -> None:
    """Answer ``IMAGE`` and write the seconds of each step, as JSON, to the descriptor."""
    model, image, asked, writing = arguments
    begin = time.perf_counter()
    # Here, for the time it takes is one of the steps.
    from dataclasses import replace
    from pathlib import Path

    from glomedge.engine.loading import open_engine
    from glomedge.engine.options import EngineOptions
    from glomedge.errors import EngineError

    imported = time.perf_counter()
    options = EngineOptions(**json.loads(asked))
    with open_engine(model, replace(options, cache_dir=Path(str(options.cache_dir)))) as engine:
        loaded = time.perf_counter()
        prediction = engine.predict([Path(image)])[0]
        answered = time.perf_counter()
        if prediction.probability is None:
            raise EngineError(f"{image}: {prediction.status}. Give other crops with --images DIR.")
        steps = {"import": imported - begin, "load": loaded - imported, "first answer": answered - loaded}
        with os.fdopen(int(writing), "w", encoding="utf-8") as answer:
            answer.write(json.dumps(steps) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
