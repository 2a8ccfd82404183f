"""Print the table of ``glomedge_export.graph.backbones``: every network of keras.applications by its convolutions.

    PYTHONPATH=.:export:tests .venv/bin/python tests/tools/backbone_table.py [NAME ...]

Each is built without weights and converted as a skeleton: some seconds each.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

from glomedge_export.frameworks import keras, tf
from glomedge_export.graph.backbones import convolutions_sha256
from glomedge_export.graph.whole import freeze, skeleton

SIDE_PX = 224


def networks() -> dict[str, Any]:
    """The builders of keras.applications by name."""
    found = {name: getattr(keras.applications, name) for name in dir(keras.applications)}
    return {name: build for name, build in found.items() if name[0].isupper() and callable(build)}


def digest(build: Any) -> str:
    """``convolutions_sha256`` of one network without its top."""
    base = build(include_top=False, weights=None, input_shape=(SIDE_PX, SIDE_PX, 3), pooling="avg")
    function = tf.function(lambda images: base(images, training=False))
    model = SimpleNamespace(side_px=SIDE_PX, outputs=1, inference=lambda: function)
    return convolutions_sha256(skeleton(freeze(model)))


def main(names: list[str]) -> None:
    """Print ``"digest": "name",`` of each; a line of its own where two networks have one digest."""
    seen: dict[str, str] = {}
    for name, build in networks().items():
        if names and name not in names:
            continue
        found = digest(build)[:16]
        if found in seen:
            print(f"# {name} has the convolutions of {seen[found]}", flush=True)
            continue
        seen[found] = name
        print(f'    "{found}": "{name.lower()}",', flush=True)
        keras.backend.clear_session()


if __name__ == "__main__":
    main(sys.argv[1:])
