"""Providers: the requested one runs, or the error says which library is missing and what provides it.

Nothing here pretends to be onnxruntime. Where the installed wheel decides what is right (``onnxruntime`` or
``onnxruntime-gpu``), the expectation is worked out from the wheel itself by other means than the code under test.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from glomedge.about import install_command
from glomedge.engine import loading, providers
from glomedge.engine.backends import nvidia_machine, onnxrt
from glomedge.engine.runner import SessionRequest
from glomedge.errors import ModelError, ProviderUnavailableError, UsageError
from glomedge.system import gpu, libraries
from glomedge.system.telemetry import import_onnxruntime
from helpers import builders
from helpers.wheels import GPU_WHEEL, HAS_GPU, cpu_only, cpu_wheel, gpu_wheel, request_for

ort = import_onnxruntime()


@cpu_only
@cpu_wheel
@pytest.mark.parametrize(
    ("name", "ort_name"), [("cuda", "CUDAExecutionProvider"), ("tensorrt", "TensorrtExecutionProvider")]
)
def test_the_cpu_wheel_names_the_package_to_install(tiny_model: Path, name: str, ort_name: str) -> None:
    with pytest.raises(ProviderUnavailableError) as caught:
        loading.load(tiny_model, name)
    text = str(caught.value)
    assert f"onnxruntime {ort.__version__} is built without {ort_name}" in text
    assert "pip uninstall onnxruntime" in text
    assert install_command("glomedge[gpu]") in text
    assert "--allow-fallback" in text


@cpu_only
@gpu_wheel
@pytest.mark.parametrize(
    ("name", "library", "package"),
    [
        ("cuda", "libcuda.so.1", "the NVIDIA driver"),
        ("tensorrt", "libnvinfer.so.10", "tensorrt-cu13==10.*"),
        ("tensorrt", "libnvonnxparser.so.10", "NVIDIA TensorRT 10"),
    ],
)
def test_the_gpu_wheel_names_the_missing_library(tiny_model: Path, name: str, library: str, package: str) -> None:
    with pytest.raises(ProviderUnavailableError) as caught:
        loading.load(tiny_model, name)
    assert library in str(caught.value)
    assert package in str(caught.value)


@cpu_only
def test_tensorrt_rtx_says_what_is_missing(tiny_model: Path) -> None:
    with pytest.raises(ProviderUnavailableError) as caught:
        loading.load(tiny_model, "tensorrt-rtx")
    if libraries.module_folder(nvidia_machine.RTX_MODULE) is None:
        assert "'onnxruntime-ep-nv-tensorrt-rtx-cu13' is not installed" in str(caught.value)
        assert install_command("glomedge[cpu,tensorrt-rtx-provider]") in str(caught.value)
    else:
        assert "libcuda.so.1" in str(caught.value)


@pytest.fixture
def no_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package openvino cannot be found, whether it is installed here or not."""
    real = importlib.util.find_spec

    def found(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == "openvino" else real(name, package)

    # None in sys.modules is how Python itself marks a module that must not be found.
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(importlib.util, "find_spec", found)


@pytest.mark.usefixtures("no_openvino")
def test_openvino_absent_names_its_package(tiny_model: Path) -> None:
    with pytest.raises(ProviderUnavailableError, match=r"'openvino' is not installed.*\[openvino\]") as caught:
        loading.load(tiny_model, "openvino")
    assert str(caught.value).endswith("add --allow-fallback.")


@cpu_only
@pytest.mark.usefixtures("no_openvino")
def test_openvino_absent_falls_back_only_where_that_is_allowed(tmp_path: Path) -> None:
    # Exported for OpenVINO, the file still runs elsewhere.
    path = tmp_path / "model.onnx"
    builders.build_tiny_model(path, target="openvino")
    images = np.full((2, 224, 224, 3), 130, np.uint8)
    with loading.load(path, "openvino", allow_fallback=True) as model:
        assert model.provider == "cpu"
        assert model.runtime.requested == "openvino"
        (why,) = (note for note in model.runtime.notes if note.startswith("--allow-fallback: openvino was asked for"))
        assert "'openvino' is not installed" in why
        assert install_command("glomedge[openvino]") in why
        assert model.runtime.notes[-1].startswith("--allow-fallback chose cpu; glomedge doctor")
        expected = 1 / (1 + np.exp(-builders.tiny_logit(images)))
        np.testing.assert_allclose(model.infer(images).probability, expected, atol=1e-5)


@cpu_only
@pytest.mark.parametrize("name", ["cuda", "tensorrt", "tensorrt-rtx"])
def test_with_allow_fallback_another_provider_runs_and_is_named(tiny_model: Path, name: str) -> None:
    with loading.load(tiny_model, name, allow_fallback=True) as model:
        assert model.provider == "cpu"
        assert model.runtime.requested == name
        assert any(f"{name} was asked for and cannot run" in note for note in model.runtime.notes)
        assert model.runtime.notes[-1].startswith("--allow-fallback chose cpu; glomedge doctor")
        images = np.full((2, 224, 224, 3), 130, np.uint8)
        expected = 1 / (1 + np.exp(-builders.tiny_logit(images)))
        np.testing.assert_allclose(model.infer(images).probability, expected, atol=1e-5)


def test_a_misspelt_provider_lists_the_names(tiny_model: Path) -> None:
    with pytest.raises(UsageError, match=r"no provider 'gpu'.*auto, cpu, cuda, tensorrt, tensorrt-rtx, openvino"):
        loading.load(tiny_model, "gpu")


@cpu_only
def test_auto_says_what_it_chose_in_one_line_and_records_why_not_the_others(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "find_gpus", lambda: gpu.Gpus("", (), "no driver"))
    with loading.load(tiny_model, "auto") as model:
        runtime = model.runtime
    assert runtime.notes == (f"auto chose {model.provider}; glomedge doctor explains why not another provider",)
    for name in set(providers.PROVIDERS) - {model.provider}:
        assert any(reason.startswith(f"{name}: ") for reason in runtime.passed_over), name


@cpu_only
def test_auto_tells_of_a_gpu_that_is_there_and_not_used(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = gpu.Gpu("A card", "8.9", 16 << 30)
    monkeypatch.setattr(gpu, "find_gpus", lambda: gpu.Gpus("580.1", (card,)))
    with loading.load(tiny_model, "auto") as model:
        notes = model.runtime.notes
    assert any(note.startswith("cuda: ") for note in notes)


@pytest.mark.openvino
def test_auto_takes_openvino_for_a_file_exported_for_it(tmp_path: Path) -> None:
    if (reason := providers.named("openvino").unusable()) is not None:
        pytest.skip(reason)
    path = tmp_path / "model.onnx"
    builders.build_tiny_model(path, target="openvino")
    with loading.load(path, "auto", cache_dir=tmp_path / "cache") as model:
        assert model.provider == "openvino"


def test_when_nothing_can_run_every_reason_is_given(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    def broken(name: str) -> providers.Provider:
        def refuse(request: SessionRequest) -> onnxrt.OrtRunner:
            raise ProviderUnavailableError(f"{name}: out to lunch")

        return providers.Provider(name, "", lambda: None, refuse)

    for name in list(providers.PROVIDERS):
        monkeypatch.setitem(providers.PROVIDERS, name, broken(name))
    with pytest.raises(ProviderUnavailableError) as caught:
        loading.load(tiny_model, "auto")
    assert all(f"{name}: out to lunch" in str(caught.value) for name in providers.PROVIDERS)


def test_a_new_provider_is_one_entry_and_one_option_builder(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    seen: list[SessionRequest] = []

    def options(request: SessionRequest) -> Mapping[str, str]:
        seen.append(request)
        return {"use_arena": "0"}

    entry = providers.onnxruntime_provider("frugal", "CPUExecutionProvider", options, install="onnxruntime")
    monkeypatch.setitem(providers.PROVIDERS, "frugal", entry)
    with loading.load(tiny_model, "frugal", max_batch=5) as model:
        assert model.provider == "frugal"
        assert model.runtime.options["use_arena"] == "0"
        assert model.infer(np.zeros((3, 224, 224, 3), np.uint8)).probability.shape == (3,)
    assert seen[0].profile.max == 5
    assert "frugal" in providers.names()


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_onnxruntime_would_silently_replace_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    """onnxruntime itself only warns and uses the CPU. The entry claims to be usable, so the session is really made."""
    absent = next(name for name in ort.get_all_providers() if name not in ort.get_available_providers())

    def open_it(request: SessionRequest) -> onnxrt.OrtRunner:
        return onnxrt.open_session(absent, request, {})

    monkeypatch.setitem(providers.PROVIDERS, "absent", providers.Provider("absent", "", lambda: None, open_it))
    with pytest.raises(ProviderUnavailableError, match=f"{absent} was asked for but onnxruntime would run on CPU"):
        loading.load(tiny_model, "absent")


@pytest.mark.skipif(
    "AzureExecutionProvider" not in ort.get_available_providers(), reason="this wheel has no Azure provider"
)
def test_strict_placement_counts_and_names_nodes_that_run_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    """Azure's provider is in the wheels, opens anywhere and takes no ordinary node: all of them land on the CPU."""
    entry = providers.onnxruntime_provider("azure", "AzureExecutionProvider", install="")
    monkeypatch.setitem(providers.PROVIDERS, "azure", entry)
    with loading.load(tiny_model, "azure") as model:
        assert model.provider == "azure"
    with pytest.raises(ProviderUnavailableError) as caught:
        loading.load(tiny_model, "azure", strict_placement=True)
    text = str(caught.value)
    assert "nodes would not run on azure (CPUExecutionProvider: " in text
    assert "(Conv)" in text
    assert "(Sigmoid)" in text


def test_strict_placement_passes_where_every_node_is_at_home(tiny_model: Path) -> None:
    with loading.load(tiny_model, "cpu", strict_placement=True) as model:
        assert set(model.runtime.placement) == {"CPUExecutionProvider"}
        assert sum(model.runtime.placement.values()) >= 5


def padded_pool_model(path: Path) -> npt.NDArray[np.float32]:
    """Zero padding before a max-pool whose inputs are all negative: the zeros must win at the border."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["padded"], mode="constant"),
        helper.make_node("MaxPool", ["padded"], ["y"], kernel_shape=[3, 3], strides=[2, 2]),
    ]
    graph = helper.make_graph(
        nodes,
        "pool",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "pads")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return np.full((1, 1, 6, 6), -1.0, np.float32)


def test_padding_is_never_fused_into_the_pool(tmp_path: Path, tiny_model: Path) -> None:
    path = tmp_path / "pool.onnx"
    x = padded_pool_model(path)
    request = request_for(tiny_model)
    session = onnxrt.create_session(request, [(onnxrt.CPU, {})], onnxrt.session_options(request), model=str(path))
    found = session.run(None, {"x": x})[0][0, 0]
    padded = np.pad(x[0, 0], 1)
    naive = np.array([[padded[i : i + 3, j : j + 3].max() for j in range(0, 6, 2)] for i in range(0, 6, 2)])
    np.testing.assert_array_equal(found, naive)
    assert found[0].max() == 0.0
    assert found[1, 1] == -1.0


def test_a_graph_that_onnxruntime_cannot_load_is_a_model_error(tmp_path: Path, tiny_model: Path) -> None:
    path = tmp_path / "noise.onnx"
    path.write_bytes(b"\x08\x08\x3a\x03abc")
    request = request_for(tiny_model)
    with pytest.raises(ModelError, match="cannot load"):
        onnxrt.create_session(request, [(onnxrt.CPU, {})], onnxrt.session_options(request), model=str(path))


# Options: every name must exist in the provider's own library, so that a misspelt one cannot pass.


# With a GPU.


@pytest.mark.gpu
@pytest.mark.skipif(not (HAS_GPU and GPU_WHEEL), reason="needs an NVIDIA GPU and onnxruntime-gpu")
@pytest.mark.parametrize("name", ["cuda", "tensorrt"])
@pytest.mark.parametrize("fixed", [False, True])
def test_gpu_agrees_with_the_reference(tiny_model: Path, tmp_path: Path, name: str, fixed: bool) -> None:
    if (reason := providers.named(name).unusable()) is not None:
        pytest.skip(reason)
    images = np.random.default_rng(0).integers(0, 256, (37, 224, 224, 3), np.uint8)
    expected = 1 / (1 + np.exp(-builders.tiny_logit(images)))
    for _ in range(2):  # the second time from the cache
        with loading.load(tiny_model, name, fixed_batch=fixed, cache_dir=tmp_path / "cache") as model:
            assert model.provider == name
            np.testing.assert_allclose(model.infer(images).probability, expected, atol=1e-4)
