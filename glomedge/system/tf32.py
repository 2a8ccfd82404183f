"""TensorFloat-32 of NVIDIA's libraries, forbidden for this process before the first of them is loaded.

TF32 keeps 10 bits of a float32's mantissa. TensorRT's builder takes it wherever it is faster, and onnxruntime has no
option against it (onnxruntime#26029); so an fp32 file would differ from the CPU by more than 1e-4. cuBLAS, cuDNN and
TensorRT read one variable of the environment when they are loaded: NVIDIA, "Accelerating AI training with TF32":
``NVIDIA_TF32_OVERRIDE=0`` "will override all defaults or programmatic configuration of NVIDIA libraries".
"""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "NVIDIA_TF32_OVERRIDE"
_READ_BY = ("libcublas", "libcudnn", "libnvinfer", "libtensorrt_rtx")
_MAPPED_FILES = Path("/proc/self/maps")


def forbid() -> None:
    """Set the variable for this process and its children; a user's own setting is kept.

    Left alone where one of the libraries is loaded already (by PyTorch, for example): it has read the variable, and
    setting it now would only say what is not so.
    """
    if VARIABLE not in os.environ and not already_loaded():
        os.environ[VARIABLE] = "0"


def setting() -> str:
    """The value in force; empty where none was set before the libraries were loaded. An engine depends on it."""
    return os.environ.get(VARIABLE, "")


def already_loaded(maps: Path = _MAPPED_FILES) -> bool:
    """Whether a library that reads the variable is in this process; False where the system does not tell."""
    try:
        text = maps.read_text("utf-8", "replace")
    except OSError:
        return False
    return any(f"/{name}" in text for name in _READ_BY)


def note(precision: str) -> tuple[str, ...]:
    """What the user of an NVIDIA provider should know; empty where float32 is computed in float32."""
    if precision != "fp32" or setting() == "0":
        return ()
    cause = f"{VARIABLE} is {setting()}" if setting() else "another package loaded CUDA's libraries before glomedge"
    return (f"fp32 may be computed in TF32 here, off by up to 2e-3, because {cause}; start Python with {VARIABLE}=0",)
