"""What the gates are fed with: whole biopsies, every batch size of the profile, honest rounding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from glomedge.errors import GateError
from glomedge.model.spec import BatchProfile
from glomedge_export.data.export_crops import Crops
from glomedge_export.graph import convert, run, surgery
from glomedge_export.graph.run import Answers, OnnxRunner, onnx_answers
from glomedge_export.proof import gates, judge, parity

Pixels = npt.NDArray[np.uint8]
Head = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def crops(images: Pixels, cases: str) -> Crops:
    """One crop for each letter of ``cases``, the pictures over and over."""
    index = np.arange(len(cases)) % len(images)
    return Crops(images[index], index % 2, tuple(cases), tuple(f"{i}.png" for i in range(len(cases))), "made up")


def test_first_biopsies_are_whole(crops_nhwc: Pixels) -> None:
    given = crops(crops_nhwc, "aaabbbbbcc")
    kept = judge.first_biopsies(given, 4)
    assert kept.cases == tuple("aaabbbbb")
    assert kept.names == given.names[:8]
    np.testing.assert_array_equal(kept.images_nhwc, given.images_nhwc[:8])
    np.testing.assert_array_equal(kept.labels, given.labels[:8])
    assert judge.first_biopsies(given, 10) is given
    assert judge.first_biopsies(given, 3).cases == tuple("aaa")


@pytest.fixture
def answers_only(backbone: onnx.ModelProto, tiny_head: Head) -> Callable[[int, float], onnx.ModelProto]:
    """A file that divides by zero (or not) exactly where the batch has a given size."""

    def make(size: int, poison: float) -> onnx.ModelProto:
        model = surgery.copy(convert.assemble(backbone, "resnet", *tiny_head).model)
        helper = onnx.helper
        for name, value in (("size", size), ("axis", 0)):
            surgery.add_constant(model, name, np.asarray(value, np.int64))
        surgery.add_constant(model, "poison", np.asarray(poison, np.float32))
        surgery.add_constant(model, "nothing", np.asarray(0.0, np.float32))
        sigmoid = next(node for node in model.graph.node if node.op_type == "Sigmoid")
        sigmoid.output[:] = ["clean"]
        extra = [
            helper.make_node("Shape", ["images"], ["shape"]),
            helper.make_node("Gather", ["shape", "axis"], ["batch"]),
            helper.make_node("Equal", ["batch", "size"], ["hit"]),
            helper.make_node("Where", ["hit", "poison", "nothing"], ["added"]),
            helper.make_node("Add", ["clean", "added"], ["probability"]),
        ]
        surgery.replace_nodes(model, [*model.graph.node, *extra])
        return model

    return make


@pytest.mark.parametrize("size", [1, 4, 9])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_nan_or_inf_at_any_batch_of_the_profile_is_refused(
    answers_only: Callable[[int, float], onnx.ModelProto], crops_nhwc: Pixels, size: int, poison: float
) -> None:
    given = crops(crops_nhwc, "aabbccdd")
    runner = OnnxRunner(answers_only(size, poison).SerializeToString())
    judge.check_profile(runner, given, BatchProfile(min=2, opt=3, max=8))
    with pytest.raises(GateError, match=f"at batch {size} is refused: {size} of {size} answers are NaN or Inf"):
        judge.check_profile(runner, given, BatchProfile(min=1, opt=4, max=9))


def test_float32_rounding_grows_with_the_head(backbone: onnx.ModelProto, tiny_head: Head, crops_nhwc: Pixels) -> None:
    """Two orders of summation: nothing to speak of for logits of order 1, and a thousand times that for a huge head."""
    kernel, bias = tiny_head
    given = crops(crops_nhwc, "aabbccdd")
    plain = judge.float32_rounding(convert.assemble(backbone, "resnet", kernel, bias).model, given)
    # The bias brings the huge logits back to 0, where the sigmoid shows every digit.
    huge = convert.assemble(backbone, "resnet", kernel * 1000, bias).model
    logits = run.logits_runner(huge)(crops_nhwc)
    centred = convert.assemble(backbone, "resnet", kernel * 1000, bias - np.float32(logits[0])).model
    assert plain <= 1e-6
    assert judge.float32_rounding(centred, given) > 10 * plain


def test_a_refused_float32_graph_is_told_from_rounding(
    backbone: onnx.ModelProto, tiny_head: Head, crops_nhwc: Pixels
) -> None:
    model = convert.assemble(backbone, "resnet", *tiny_head).model
    given = crops(crops_nhwc, "aabbccdd")
    said = onnx_answers(OnnxRunner(model.SerializeToString()), given.images_nhwc)
    moved = Answers(said.probability - np.float32(1e-3), said.activation)
    limits = gates.limits_for("fp32")
    same, wrong = (
        parity.compare(reference, said, given, decision=parity.Decision(0.5), limits=limits, reference_name="Keras")
        for reference in (said, moved)
    )
    judge.enforce_float32(same, model, given, "model.onnx")
    with pytest.raises(GateError, match=r"model\.onnx is refused.*so this is not rounding: report it"):
        judge.enforce_float32(wrong, model, given, "model.onnx")
