"""Colour enhancement as ONNX: not one byte differs from ``glomedge.enhance``."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from glomedge.imaging.enhance import enhance
from glomedge.imaging.images import decode
from glomedge.model.graph import read_graph_facts
from glomedge.model.spec import Recipe
from glomedge_export.enhancement.graph import enhancement_graph
from helpers.colour_crops import arithmetic_crop, random_crop
from helpers.enhance_files import as_onnx, differing_bytes

RECIPES = ("seed", "published", "plain")


def recipe(name: str, side_px: int = 224) -> Recipe:
    return Recipe.named(name).model_copy(update={"size_px": side_px})


@pytest.mark.parametrize(
    "of",
    [
        recipe("seed", 1024),
        recipe("published", 1024),
        Recipe(name="plain", size_px=1024, equalise=False, saturation_factor=1.5, hue_degrees=8.0),
        Recipe(name="plain", size_px=1024, equalise=False, saturation_factor=1.0, hue_degrees=-36.0),
    ],
    ids=["seed", "published", "saturation and hue alone", "hue alone"],
)
def test_all_colours_there_are(of: Recipe) -> None:
    level = np.arange(256, dtype=np.uint8)
    for block in range(16):
        # 16 levels of green a block, spread over all 256: each block has every red and blue, and a full histogram.
        red, green, blue = np.meshgrid(level, level[block::16], level, indexing="ij")
        crop = np.stack([red, green, blue], axis=-1).reshape(1024, 1024, 3)
        assert differing_bytes(crop, of) == 0, block


@pytest.mark.parametrize("name", RECIPES)
def test_sizes_that_take_every_way_of_resizing(name: str) -> None:
    sizes = [
        (224, 224), (448, 448), (672, 448), (1120, 1120), (224, 448), (448, 224), (223, 225), (225, 223),
        (577, 601), (1201, 1199), (2048, 1025), (100, 90), (7, 5), (1, 1), (1, 2), (2, 1), (20_000, 1), (1, 20_000),
        (300, 90), (90, 300), (448, 100), (223, 600), (1, 224), (224, 1), (448, 449), (1000, 223),
    ]  # fmt: skip
    for seed, size in enumerate(sizes):
        assert differing_bytes(random_crop(0, *size), recipe(name)) == 0, size
        assert differing_bytes(random_crop(seed, *size), recipe(name)) == 0, size


# 1,000 is where OpenCV begins to leave out the part of a source pixel that a target pixel hardly touches.
@pytest.mark.parametrize("side_px", [32, 97, 299, 1000, 1001, 1024])
@pytest.mark.parametrize("name", ["published", "plain"])
def test_other_sides(name: str, side_px: int) -> None:
    rng = np.random.default_rng(side_px)
    sizes = [(side_px, side_px), (side_px + 1, side_px - 1)]
    if side_px < 500:
        sizes += [(2 * side_px, 2 * side_px), (2 * side_px, 3 * side_px)]
        sizes += [tuple(rng.integers(1, 1500, 2)) for _ in range(16)]
    else:
        sizes += [tuple(rng.integers(1, side_px, 2)), tuple(side_px + rng.integers(1, 500, 2))]
    for seed, size in enumerate(sizes):
        # Noise, where every weight shows.
        assert differing_bytes(random_crop(4 * seed, *size), recipe(name, side_px)) == 0, size


@pytest.mark.parametrize(("factor", "hue_degrees", "equalise"), [
    (0.0, 0.0, True), (0.3, 8.0, True), (1.0, 8.0, True), (1.0, 0.0, True), (1.2, -4.0, False), (1.7, 178.0, False),
    (2.7, -180.0, False), (3.0, 2.0, False), (10.0, 180.0, True), (0.5, 62.0, False),
])  # fmt: skip
def test_parameters(factor: float, hue_degrees: float, equalise: bool) -> None:
    of = Recipe(equalise=equalise, saturation_factor=factor, hue_degrees=hue_degrees)
    for seed in range(4):
        assert differing_bytes(random_crop(seed), of) == 0, seed
    if hue_degrees == 0.0:
        published = recipe("published").model_copy(update={"saturation_factor": factor})
        assert differing_bytes(random_crop(1), published) == 0


def test_one_level_and_two() -> None:
    flat = np.full((224, 224, 3), 90, np.uint8)
    dotted = flat.copy()
    dotted[100, 100] = 91
    for name in RECIPES:
        for crop in (flat, dotted, np.zeros_like(flat), np.full_like(flat, 255)):
            assert differing_bytes(crop, recipe(name)) == 0, name


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("optimised", [True, False], ids=["optimised", "as written"])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_runtimes_options_change_nothing(name: str, optimised: bool, threads: int) -> None:
    for size in ((224, 224), (448, 448), (601, 577), (90, 300), (60, 50)):
        crop = arithmetic_crop(*size)
        assert differing_bytes(crop, recipe(name), threads=threads, optimised=optimised) == 0, size


def test_many_threads_at_once_in_one_session() -> None:
    crops = [random_crop(seed, 200 + 31 * seed, 500 - 29 * seed) for seed in range(16)]
    expected = [enhance(crop, "seed") for crop in crops]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda crop: as_onnx(crop, recipe("seed")), crops))
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", ["seed", "published"])
def test_the_real_crops(real_data: Path, name: str) -> None:
    files = sorted(real_data.glob("*/*.png"))
    assert len(files) == 830
    for file in files:
        assert differing_bytes(decode(file.read_bytes()).pixels_hwc, recipe(name)) == 0, file.name


def test_the_graph_is_small_and_needs_nothing_but_standard_operators(tmp_path: Path) -> None:
    import onnx

    for name in RECIPES:
        graph = enhancement_graph(recipe(name, 512))
        onnx.checker.check_model(graph, full_check=True)
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(graph.SerializeToString())
        assert path.stat().st_size < 50_000
        facts = read_graph_facts(path)
        assert facts.opset == 17
        assert facts.foreign_domains == set()
        assert {node.domain for node in graph.graph.node} == {""}
        # Their sums may be reordered, or computed with fewer bits.
        assert {"Conv", "MatMul", "Gemm", "Resize"}.isdisjoint(facts.operators)
