"""The trained network with one thin residual block a stage: built, traced and trained in a fraction of the time.

For what training does around the network: what is drawn, kept, resumed. Everything that training looks for in it is
there: pre-activated blocks with BatchNormalization, a border between frozen and trained layers that a shortcut crosses,
2048 features of 7 x 7.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from glomedge.model.spec import SIZE_PX

CONVOLUTIONS = 7
FROZEN_BEFORE = "last_3x3"
"""In the middle of the last block, so that its shortcut crosses the border."""


def shrink(set_attribute: Callable[[Any, str, Any], None]) -> None:
    """Have ``network.assemble`` build the small network.

    Args:
        set_attribute: ``monkeypatch.setattr``; ``setattr`` in a process that a test starts for itself.
    """
    from glomedge_export.frameworks import keras, layers
    from glomedge_export.network import network

    def block(value: Any, filters: int, channels: int, stride: int, name: str) -> Any:
        before = layers.Activation("relu")(layers.BatchNormalization()(value))
        shortcut = layers.Conv2D(channels, 1, strides=stride)(before)
        inner = layers.Conv2D(filters, 3, strides=stride, padding="same", use_bias=False, name=name)(before)
        inner = layers.Activation("relu")(layers.BatchNormalization()(inner))
        return layers.Add()([shortcut, layers.Conv2D(channels, 1)(inner)])

    def new_backbone(side_px: int | None = SIZE_PX) -> Any:
        pictures = keras.Input((side_px, side_px, 3))
        value = layers.MaxPooling2D(4)(layers.Conv2D(8, 7, strides=2, padding="same")(pictures))
        for filters, stride, name in ((8, 2, "first_3x3"), (64, 2, FROZEN_BEFORE)):
            value = block(value, filters, 2048 if name == FROZEN_BEFORE else 32, stride, name)
        value = layers.Activation("relu")(layers.BatchNormalization()(value))
        return keras.Model(pictures, value, name=network.BACKBONE_NAME)

    names = [layer.name for layer in new_backbone().layers]
    set_attribute(network, "BACKBONE_LAYERS", len(names))
    set_attribute(network, "FROZEN_LAYERS", names.index(FROZEN_BEFORE))
    set_attribute(network, "new_backbone", new_backbone)
