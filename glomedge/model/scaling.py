"""Input scalings as numbers: one factor and one summand a channel, and the names under which Keras knows them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glomedge.model.spec import Affine, InputScaling

# keras.applications.resnet.preprocess_input ("caffe" mode): ImageNet means, in BGR order.
IMAGENET_MEAN_BGR = (103.939, 116.779, 123.68)
# keras.applications.imagenet_utils, mode "torch": of pixels in 0..1, in RGB order.
_TORCH_MEAN = (0.485, 0.456, 0.406)
_TORCH_DEVIATION = (0.229, 0.224, 0.225)

NAMED: dict[InputScaling, Affine] = {
    "resnet": Affine(channel_order="BGR", scale=(1.0, 1.0, 1.0), offset=tuple(-m for m in IMAGENET_MEAN_BGR)),
    "resnet_v2": Affine(scale=(1 / 127.5,) * 3, offset=(-1.0,) * 3),
    "torch": Affine(
        scale=tuple(1 / (255.0 * d) for d in _TORCH_DEVIATION),
        offset=tuple(-m / d for m, d in zip(_TORCH_MEAN, _TORCH_DEVIATION, strict=True)),
    ),
    "unit": Affine(scale=(1 / 255.0,) * 3, offset=(0.0,) * 3),
    "none": Affine(scale=(1.0,) * 3, offset=(0.0,) * 3),
}
# Of the span that a channel takes over 0..255: float32 rounds at 6e-8, and no two named scalings are this near.
_SAME = 1e-5


@dataclass(frozen=True)
class Scaling:
    """What is applied between the pixels and the network.

    Attributes:
        name: as in the spec.
        affine: the numbers, for every name.
    """

    name: InputScaling
    affine: Affine

    @staticmethod
    def named(name: InputScaling) -> Scaling:
        """The scaling of that name. Raises KeyError for ``affine``, which has no numbers of its own."""
        return Scaling(name, NAMED[name])

    @staticmethod
    def of(affine: Affine) -> Scaling:
        """The scaling with these numbers, under its name where it has one."""
        for name, known in NAMED.items():
            if known.channel_order == affine.channel_order and _alike(known, affine):
                return Scaling(name, known)
        return Scaling("affine", affine)

    @property
    def in_spec(self) -> Affine | None:
        """What the spec keeps beside the name."""
        return self.affine if self.name == "affine" else None

    def factors_and_means(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The scaling as ``factor * (x - mean)``, both ``[3]`` in the order of the network's channels.

        Raises:
            ZeroDivisionError: a channel whose factor is 0 has no such form.
        """
        factor = np.asarray(self.affine.scale, np.float64)
        if not factor.all():
            raise ZeroDivisionError("a channel is multiplied by 0")
        return factor, -np.asarray(self.affine.offset, np.float64) / factor

    def applied(self, images_nhwc: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """RGB 0..255 ``[N, H, W, 3]`` -> what the network reads, float32 of the same shape."""
        ordered = images_nhwc[..., ::-1] if self.affine.channel_order == "BGR" else images_nhwc
        scaled = ordered * np.asarray(self.affine.scale, np.float32) + np.asarray(self.affine.offset, np.float32)
        return np.ascontiguousarray(scaled, np.float32)


def _alike(a: Affine, b: Affine) -> bool:
    ends = [[np.asarray(one.scale) * x + np.asarray(one.offset) for x in (0.0, 255.0)] for one in (a, b)]
    span = np.abs(ends[0][1] - ends[0][0])
    return all(bool((np.abs(left - right) <= _SAME * span).all()) for left, right in zip(*ends, strict=True))
