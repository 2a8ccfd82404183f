"""Device recipes: which precision, target and batch profile suit which machine, and why."""

from __future__ import annotations

from dataclasses import dataclass

from glomedge.errors import UsageError
from glomedge.model.spec import BatchProfile, Precision, Target


@dataclass(frozen=True)
class Device:
    """One recipe.

    Attributes:
        name: as given to ``--device``.
        precision: of the file.
        target: runtime that the file is laid out for.
        profile: batch sizes that an engine is built for.
        opset: ONNX opset of the file.
        why: one line for ``--list-devices``.
    """

    name: str
    precision: Precision
    target: Target
    profile: BatchProfile
    opset: int
    why: str


DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        Device(
            "generic",
            "fp32",
            "any",
            BatchProfile(min=1, opt=8, max=32),
            17,
            "float32 for every runtime: the same answer everywhere, and the reference for the others",
        ),
        Device(
            "intel-cpu",
            "int8",
            "openvino",
            BatchProfile(min=1, opt=4, max=16),
            17,
            "int8 in the layout that OpenVINO and onnxruntime run fastest on x86 processors with VNNI",
        ),
        Device(
            "jetson-orin",
            "fp16",
            "tensorrt",
            BatchProfile(min=1, opt=8, max=16),
            17,
            "float16, strongly typed, small batches: 8 to 64 GB shared by CPU and GPU, and no calibration to go wrong",
        ),
        Device(
            "rtx-workstation",
            "fp16",
            "tensorrt",
            BatchProfile(min=1, opt=32, max=128),
            17,
            "float16, strongly typed, large batches: decoding on the CPU is the limit long before the GPU is",
        ),
    )
}


def device(name: str) -> Device:
    """The recipe of that name. Raises UsageError naming those that exist."""
    try:
        return DEVICES[name]
    except KeyError:
        raise UsageError(
            f"There is no device recipe {name!r}. Choose {', '.join(sorted(DEVICES))}; "
            "glomedge export --list-devices explains them."
        ) from None
