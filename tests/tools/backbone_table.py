"""Print the tables by which a network of keras.applications is recognised, off a graph and off a configuration.

    PYTHONPATH=.:export:tests .venv/bin/python tests/tools/backbone_table.py [NAME ...]

``graph`` is the table of ``glomedge_export.graph.backbones``, ``configuration`` that of
``glomedge_export.keras_files.backbones``. Each network is built without weights and converted as a skeleton: some
seconds each.
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

from glomedge_export.frameworks import keras, tf
from glomedge_export.graph import backbones as of_graphs
from glomedge_export.graph.whole import freeze, skeleton
from glomedge_export.keras_files import backbones as of_configurations
from glomedge_export.keras_files.layers import CONVOLUTIONS, layers_of

SIDE_PX = 224


def networks() -> dict[str, Any]:
    """The builders of keras.applications by name."""
    found = {name: getattr(keras.applications, name) for name in dir(keras.applications)}
    return {name: build for name, build in found.items() if name[0].isupper() and callable(build)}


def built(build: Any) -> Any:
    """One network without its top."""
    return build(include_top=False, weights=None, input_shape=(SIDE_PX, SIDE_PX, 3), pooling="avg")


def graph_digest(base: Any) -> str:
    """``of_graphs.convolutions_sha256`` of a network."""
    function = tf.function(lambda images: base(images, training=False))
    model = SimpleNamespace(side_px=SIDE_PX, outputs=1, inference=lambda: function)
    return of_graphs.convolutions_sha256(skeleton(freeze(model)))


def configuration_digest(base: Any) -> str:
    """``of_configurations.convolutions_sha256`` of a network."""
    layers = layers_of(json.loads(json.dumps(keras.saving.serialize_keras_object(base))))
    return of_configurations.convolutions_sha256([layer for layer in layers if layer.kind in CONVOLUTIONS])


def main(names: list[str]) -> None:
    """Print ``"digest": "name",`` of each for both tables; a remark where two networks have one digest."""
    tables: dict[str, dict[str, str]] = {"graph": {}, "configuration": {}}
    for name, build in networks().items():
        if names and name not in names:
            continue
        base = built(build)
        for table, digest in (("graph", graph_digest), ("configuration", configuration_digest)):
            found, known = digest(base)[:16], tables[table]
            if found in known:
                print(f"{table}: # {name} has the convolutions of {known[found]}", flush=True)
                continue
            known[found] = name
            print(f'{table}:     "{found}": "{name.lower()}",', flush=True)
        del base
        keras.backend.clear_session()


if __name__ == "__main__":
    main(sys.argv[1:])
