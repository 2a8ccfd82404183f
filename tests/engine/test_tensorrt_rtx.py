"""The whole way to the TensorRT-RTX plugin: the real onnxruntime, with stand-ins for plugin, driver and NVML.

The plugin's stand-in leaves every node to the CPU, so the answers can be compared, and notes what is asked of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from helpers import builders
from helpers.paths import ROOT
from helpers.stand_ins import compiled

# One process for each machine, several sessions in it; each line of standard input is a session's wishes.
_SESSIONS = """
import json, os, sys
from pathlib import Path
import numpy as np
from glomedge.engine import loading
from glomedge.errors import GlomedgeError

answers = []
for wish in json.loads(sys.stdin.read()):
    os.environ.update(wish.get("environment", {}))
    cache = Path(os.environ["CACHE"])
    if "torn" in wish:
        import hashlib
        for path in cache.rglob("*.cache"):
            before = hashlib.sha256(path.read_bytes()).hexdigest()
            path.write_bytes(b"torn")
            passport = path.parent / "passport.json"
            after = hashlib.sha256(b"torn").hexdigest()
            passport.write_text(passport.read_text().replace(before, after))
    try:
        with loading.load(os.environ["MODEL"], "tensorrt-rtx", cache_dir=cache, **wish.get("load", {})) as model:
            images = np.full((3, 224, 224, 3), 130, np.uint8)
            answers.append([list(model.runtime.notes), model.infer(images).probability.tolist(), model.provider])
    except GlomedgeError as error:
        answers.append(f"{type(error).__name__}: {error}")
print(json.dumps(answers))
"""


class Machine:
    """A machine with these GPUs (places on the PCI bus, in the plugin's order), of which CUDA counts one as 0."""

    def __init__(self, folder: Path, model: Path, gpus: str, cuda_0: str) -> None:
        library = folder / "modules" / "onnxruntime_ep_nv_tensorrt_rtx" / "libonnxruntime_providers_nv_tensorrt_rtx.so"
        library.parent.mkdir(parents=True)
        compiled("fake_rtx_plugin.c", library)
        (library.parent / "__init__.py").write_text(
            f"__version__ = '0.5.0'\ndef get_library_path(): return {str(library)!r}\n", encoding="utf-8"
        )
        (folder / "lib").mkdir()
        compiled("fake_cuda.c", folder / "lib" / "libcuda.so.1")
        compiled("fake_nvml.c", folder / "lib" / "libnvidia-ml.so.1")
        self._log = folder / "log"
        self._environment = {
            **{name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"},
            "LD_LIBRARY_PATH": str(folder / "lib"),
            "PYTHONPATH": os.pathsep.join([str(folder / "modules"), str(ROOT)]),
            "FAKE_GPUS": "NVIDIA L4|8.9|23034",
            "FAKE_CUDA_VERSION": "13000",
            "FAKE_CUDA_PCI": cuda_0,
            "FAKE_RTX_GPUS": gpus,
            "FAKE_RTX_LOG": str(self._log),
            "CACHE": str(folder / "cache"),
            "MODEL": str(model),
        }

    def sessions(self, *wishes: dict[str, Any]) -> tuple[list[Any], list[str]]:
        """What each session answered, and what the plugin noted."""
        done = subprocess.run(
            [sys.executable, "-c", _SESSIONS],
            input=json.dumps(wishes),
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answers: list[Any] = json.loads(done.stdout.splitlines()[-1])
        return answers, self._log.read_text().splitlines() if self._log.exists() else []


def machine(tmp_path: Path, model: Path, gpus: str = "0000:65:00.0", cuda_0: str = "0000:65:00.0") -> Machine:
    return Machine(tmp_path, model, gpus, cuda_0)


def test_its_cache_is_used_again_and_replaced_where_it_cannot_be_read(tmp_path: Path, tiny_model: Path) -> None:
    answers, noted = machine(tmp_path, tiny_model).sessions({}, {}, {"torn": True}, {})
    assert noted == [f"{what} on 0000:65:00.0" for what in ("built", "read", "could not read", "built", "read")]
    expected = 1 / (1 + np.exp(-builders.tiny_logit(np.full((3, 224, 224, 3), 130, np.uint8))))
    for _, probability, provider in answers:
        assert provider == "tensorrt-rtx"
        np.testing.assert_allclose(probability, expected, atol=1e-5)
    notes = [notes[0] for notes, _, _ in answers]
    assert notes[0].startswith("engine built")
    assert notes[1] == notes[3] == "engine taken from the cache"
    assert "could not deserialize engine from cache" in notes[2]


def test_it_runs_on_the_gpu_that_cuda_counts_as_0(tmp_path: Path, tiny_model: Path) -> None:
    # The engine's key names that one; CUDA writes the place with capitals.
    gpus = "0000:17:00.0 0000:b3:00.0"
    _, noted = machine(tmp_path, tiny_model, gpus, "0000:B3:00.0").sessions({})
    assert noted == ["built on 0000:b3:00.0"]


def test_where_neither_says_which_gpu_is_which_the_choice_is_said(tmp_path: Path, tiny_model: Path) -> None:
    answers, noted = machine(tmp_path, tiny_model, "0000:17:00.0 0000:b3:00.0", "").sessions({})
    assert noted == ["built on 0000:17:00.0"]
    assert any("which of the plugin's 2 GPUs is CUDA's first is not known" in note for note in answers[0][0])


def test_failures_have_names_and_cost_no_cache(tmp_path: Path, tiny_model: Path) -> None:
    out_of_memory = {"FAKE_RTX_ERROR": "NvTensorRTRTX EP could not build execution context for fused node: 1_0"}
    lost = {"FAKE_RTX_ERROR": "CUDA failure 999: unknown error"}
    no_cudnn = {"FAKE_RTX_ERROR": "cuDNN is unavailable or disabled", "FAKE_RTX_CODE": "9"}
    mended = {"FAKE_RTX_ERROR": ""}
    wishes = ({"environment": error} for error in ({}, out_of_memory, lost, mended, no_cudnn))
    answers, noted = machine(tmp_path, tiny_model).sessions(*wishes)
    assert answers[1].startswith("OutOfMemoryError: There is not enough memory to load")
    assert answers[2].startswith("ProviderUnavailableError: ")
    assert "CUDA failure 999" in answers[2]
    assert answers[3][0][0] == "engine taken from the cache"
    assert answers[4].startswith("ProviderUnavailableError: cuda: onnxruntime did not find cuDNN")
    # Memory that ran out is no reason for another try; anything else is, once, without what the cache held.
    done = [line.split(" on ")[0] for line in noted]
    assert done == ["built", "failed", "failed", "failed", "read", "failed", "failed"]


def test_strict_placement_counts_what_it_left_to_the_cpu(tmp_path: Path, tiny_model: Path) -> None:
    (answer,), _ = machine(tmp_path, tiny_model).sessions({"load": {"strict_placement": True}})
    assert answer.startswith("ProviderUnavailableError: --strict-placement: ")
    assert "would not run on tensorrt-rtx (CPUExecutionProvider: " in answer


def test_a_plugin_without_a_device_says_so(tmp_path: Path, tiny_model: Path) -> None:
    (answer,), _ = machine(tmp_path, tiny_model, gpus="").sessions({})
    assert answer.startswith("ProviderUnavailableError: tensorrt-rtx: the plugin offers no device on this machine")
