"""A complete ModelSpec for tests of what is made from one."""

from __future__ import annotations

import numpy as np

from glomedge.model.spec import (
    Calibration,
    GateLimits,
    Golden,
    Interval,
    ModelSpec,
    OperatingPoint,
    Parity,
    Recipe,
    SplitCounts,
    TrainingProvenance,
)


def example_spec() -> ModelSpec:
    """An int8 file with everything filled in."""
    return ModelSpec(
        producer="glomedge test",
        created_utc="2026-01-01T00:00:00+00:00",
        threshold=0.42,
        temperature=1.3,
        recipe=Recipe(),
        input_scaling="resnet",
        precision="int8",
        target="onnxruntime",
        opset=17,
        weights_sha256="b" * 64,
        multiply_adds=3_480_307_712,
        training=TrainingProvenance(
            data_sha256="c" * 64,
            data_name="glomeruli",
            split_method="random",
            seed=42,
            splits={"train": SplitCounts(crops=100, positive=40, cases=20)},
            weights="imagenet",
            optimizer="sgd",
            learning_rate=0.001,
            batch_size=32,
            epochs=7,
            best_epoch=5,
            metrics={"auroc": Interval(value=0.95, low=0.9, high=0.98)},
            package_versions={},
        ),
        operating_point=OperatingPoint(true_positive=30, false_negative=2, true_negative=60, false_positive=3),
        calibration=Calibration(method="entropy", crops=2, cases=1, names_sha256="d" * 64, names=("a.png", "b.png")),
        parity=Parity(
            reference="the float32 file of the same weights",
            crops=200,
            cases=12,
            source="held-out crops of the training data",
            max_probability_difference=0.03,
            mean_probability_difference=0.004,
            probability_spread=0.97,
            flips=1,
            auroc_reference=0.95,
            auroc=0.949,
            max_percent_gs_shift=4.0,
            grades_changed=0,
            min_map_rank_correlation=0.97,
            limits=GateLimits(max_flip_fraction=0.005, min_map_rank_correlation=0.95),
        ),
        golden=Golden(
            seed=1,
            pixels_zlib_base64=Golden.pack(np.zeros((224, 224, 3), np.uint8)),
            probability=0.4,
            pixel_tolerance=3,
            probability_tolerance=0.05,
        ),
    )
