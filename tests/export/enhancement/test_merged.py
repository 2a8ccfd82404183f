"""Enhancement and network in one graph give the answers of the two, one after the other."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from glomedge.errors import GateError, ModelError
from glomedge.imaging.enhance import enhance
from glomedge.model.spec import Recipe
from glomedge.system.telemetry import import_onnxruntime
from glomedge_export.enhancement import gate
from glomedge_export.enhancement.graph import enhancement_graph
from glomedge_export.enhancement.merged import merged_graph
from helpers.builders import tiny_graph
from helpers.colour_crops import random_crop
from helpers.tiny_graphs import tiny_backbone


def run(graph: onnx.ModelProto, **inputs: object) -> list[np.ndarray]:
    session = import_onnxruntime().InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    answers: list[np.ndarray] = session.run(["probability", "activation"], inputs)
    return answers


@pytest.mark.parametrize(
    ("name", "opset"), [("seed", 17), ("published", 17), ("plain", 17), ("seed", 18), ("published", 19), ("seed", 21)]
)
def test_the_answers_are_those_of_the_two_steps(name: str, opset: int) -> None:
    recipe, model = Recipe.named(name), tiny_graph(opset=opset)
    merged = merged_graph(model, recipe)
    onnx.checker.check_model(merged, full_check=True)
    assert merged.opset_import[0].version == opset
    for size in ((224, 224), (448, 448), (300, 500), (100, 400), (1, 1)):
        for count in (1, 3):
            crops = np.stack([random_crop(seed, *size) for seed in range(count)])
            images = np.stack([enhance(crop, recipe) for crop in crops])
            for ours, theirs in zip(run(merged, crops=crops), run(model, images=images), strict=True):
                assert np.array_equal(ours, theirs), (size, count)


def test_the_models_own_nodes_and_weights_are_untouched() -> None:
    model = tiny_graph()
    before = model.SerializeToString()
    merged = merged_graph(model, Recipe())
    assert model.SerializeToString() == before
    assert list(merged.graph.node)[-len(model.graph.node) :] == list(model.graph.node)
    assert list(merged.graph.output) == list(model.graph.output)
    assert [value.name for value in merged.graph.input] == ["crops"]
    assert merged.metadata_props == []


def test_names_never_collide() -> None:
    model = tiny_graph()
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "enhance/split.1"
    merged = merged_graph(model, Recipe())
    onnx.checker.check_model(merged, full_check=True)
    made = [name for node in merged.graph.node for name in node.output]
    assert len(made) == len(set(made))
    taken = tiny_graph()
    taken.graph.node[0].output[0] = taken.graph.node[1].input[0] = "crops"
    with pytest.raises(ModelError, match="Rename the layer"):
        merged_graph(taken, Recipe())


def test_the_gate_refuses_another_recipe_in_front_of_the_model() -> None:
    model = tiny_graph()
    right = merged_graph(model, Recipe()).SerializeToString()
    assert gate.enforce_merged(right, model.SerializeToString(), Recipe()).crops == 16
    wrong = merged_graph(model, Recipe(hue_degrees=10.0)).SerializeToString()
    with pytest.raises(GateError, match="merged file is refused") as raised:
        gate.enforce_merged(wrong, model.SerializeToString(), Recipe())
    assert len(str(raised.value)) < 500


# One hundredth more of these changes no byte of any image, or only where sides are 1,000 px and more (0.001).
HARMLESS = {0.001, 0.5, 2.0, -128.0, 127.0}


def test_the_gate_refuses_a_constant_of_the_enhancement_that_is_off() -> None:
    recipe = Recipe(size_px=96)
    graph = enhancement_graph(recipe)
    assert gate.enforce_enhancement(graph.SerializeToString(), recipe).differing_bytes == 0
    changed = 0
    for position, tensor in list(enumerate(graph.graph.initializer))[::2]:  # every second, for the time it takes
        value = onnx.numpy_helper.to_array(tensor)
        if value.dtype.kind != "f" or value.size != 1 or float(value.reshape(())) in HARMLESS | {0.0}:
            continue
        broken = onnx.ModelProto()
        broken.CopyFrom(graph)
        broken.graph.initializer[position].CopyFrom(
            onnx.numpy_helper.from_array((value * 1.01).astype(value.dtype), tensor.name)
        )
        with pytest.raises(GateError, match="bytes differ") as raised:
            gate.enforce_enhancement(broken.SerializeToString(), recipe)
        assert len(str(raised.value)) < 500
        changed += 1
    assert changed > 12


@pytest.mark.parametrize("side_px", [32, 224, 299])
def test_the_golden_crops_take_every_way_of_resizing(side_px: int) -> None:
    crops = gate.golden_crops(side_px)
    assert [crop.dtype for crop in crops.values()] == [np.dtype(np.uint8)] * len(crops)
    sizes = {what: crop.shape[:2] for what, crop in crops.items()}
    assert sizes["at the side"] == (side_px, side_px)
    assert sizes["twice the side"] == (2 * side_px, 2 * side_px)
    assert sizes["shrunk by a fraction"][0] % side_px != 0
    assert max(sizes["enlarged"]) < side_px
    assert min(sizes["mixed aspect"]) < side_px < max(sizes["mixed aspect"])
    assert len(np.unique(crops["flat"].reshape(-1, 3), axis=0)) == 1
    # Enough colours for an error in a formula to show.
    assert len(np.unique(crops["at the side"].reshape(-1, 3), axis=0)) > 200


def test_a_network_of_many_layers() -> None:
    """Behind the merge the runtime still fuses and lays out as it does without."""
    backbone = tiny_backbone()
    graph = backbone.graph
    graph.node.insert(0, onnx.helper.make_node("Cast", ["images"], ["floats"], to=onnx.TensorProto.FLOAT))
    graph.node.insert(1, onnx.helper.make_node("Transpose", ["floats"], ["scaled"], perm=[0, 3, 1, 2]))
    del graph.input[:]
    graph.input.append(onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["N", 224, 224, 3]))
    merged = merged_graph(backbone, Recipe())
    found = gate.enforce_merged(merged.SerializeToString(), backbone.SerializeToString(), Recipe())
    assert found.differing_bytes == 0
