"""Which network of ``keras.applications`` a configuration holds, by its convolutions: names of layers say nothing.

``KNOWN`` is printed by ``tests/tools/backbone_table.py``, together with that of ``glomedge_export.graph.backbones``,
which names the same networks.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from glomedge_export.keras_files.layers import Layer

OTHER = "other"


def convolutions_sha256(convolutions: list[Layer]) -> str:
    """SHA-256 of class, filters, kernel and strides of every convolution, sorted: branches have no order."""
    lines = sorted(
        json.dumps([layer.kind, layer.config.get("filters"), _pair(layer, "kernel_size"), _pair(layer, "strides")])
        for layer in convolutions
    )
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def backbone_of(convolutions: list[Layer]) -> str:
    """The network's name in ``keras.applications``, in lower case, or ``other``."""
    return KNOWN.get(convolutions_sha256(convolutions)[:16], OTHER) if convolutions else OTHER


def _pair(layer: Layer, key: str) -> list[Any]:
    value = layer.config.get(key, 1)
    return list(value) if isinstance(value, list) else [value, value]


# First 16 hexadecimal digits of ``convolutions_sha256`` of the networks that Keras 3.15 builds without top.
KNOWN: dict[str, str] = {
    "3d115b87a6cbb570": "resnet50",
    "247eddc06d9cedc4": "resnet101",
    "71da49e006f2e6d2": "resnet152",
    "0009b051b27772c0": "resnet50v2",
    "525f42504eb21131": "resnet101v2",
    "81b1a0802596f9ee": "resnet152v2",
    "1b7c1b8f816223ea": "inceptionv3",
    "1daa3ac011f46e13": "inceptionresnetv2",
    "09821210a11c93c7": "xception",
    "a5fca78e790f902e": "vgg16",
    "d0b6d04f1fbcf28d": "vgg19",
    "65297c6baedb50d0": "mobilenet",
    "fec1908410633e1a": "mobilenetv2",
    "42d6a9a63924a6d8": "mobilenetv3small",
    "0f1136ddc521838f": "mobilenetv3large",
    "95c3675848c3d15e": "densenet121",
    "307d616e92cccc3c": "densenet169",
    "9a3e27e6f27ea8aa": "densenet201",
    "9528f8c6528e9312": "efficientnetb0",
    "87eb3874b3d3f083": "efficientnetb1",
    "1f163edd2741e805": "efficientnetb2",
    "6ef6ef0f0e8a2c92": "efficientnetb3",
    "54efb928d44884f0": "efficientnetb4",
    "d9b5bb5e3437cb2e": "efficientnetb5",
    "3bf339eb278b3268": "efficientnetv2b0",
    "b6b936abaa9a1665": "efficientnetv2b1",
    "834c4ffb3a1b2af5": "efficientnetv2b2",
    "e56ad3943715454a": "efficientnetv2b3",
    "12d7ee248a5578e7": "efficientnetv2m",
    "f33372fa92980c37": "efficientnetv2s",
    "9847435d0474763c": "nasnetmobile",
    "14621dabe4500305": "convnexttiny",
}
