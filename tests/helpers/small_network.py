"""The trained network with two thin residual blocks a stage: built, traced and trained in a fraction of the time.

For what training does around the network: what is drawn, kept, resumed. Everything of the network itself that training
looks for is there: stages of pre-activated blocks with BatchNormalization, a border between frozen and trained
layers with a residual connection across it, 2048 features of 7 x 7.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from glomedge.model.spec import SIZE_PX

FROZEN_BEFORE = "conv5_block2_1_conv"
"""In the middle of the last block, so that its shortcut crosses the border."""


def shrink(set_attribute: Callable[[Any, str, Any], None]) -> None:
    """Have ``network.assemble`` build the small network.

    Args:
        set_attribute: ``monkeypatch.setattr``; ``setattr`` in a process that a test starts for itself.
    """
    from keras.src.applications.resnet import ResNet, stack_residual_blocks_v2

    from glomedge_export.network import network

    def stages(x: Any) -> Any:
        for filters, stride, name in ((4, 2, "conv2"), (8, 2, "conv3"), (16, 2, "conv4"), (512, 1, "conv5")):
            x = stack_residual_blocks_v2(x, filters, 2, stride1=stride, name=name)
        return x

    def new_backbone(side_px: int | None = SIZE_PX) -> Any:
        shape = (side_px, side_px, 3)
        return ResNet(
            stages, True, True, name=network.BACKBONE_NAME, include_top=False, weights=None, input_shape=shape
        )

    names = [layer.name for layer in new_backbone().layers]
    set_attribute(network, "BACKBONE_LAYERS", len(names))
    set_attribute(network, "FROZEN_LAYERS", names.index(FROZEN_BEFORE))
    set_attribute(network, "new_backbone", new_backbone)
