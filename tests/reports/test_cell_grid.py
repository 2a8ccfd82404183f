"""Where cells of an activation map lie, for networks of any side."""

from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from glomedge.errors import UsageError
from glomedge.model.spec import ModelSpec
from glomedge.reports.cell_grid import RESNET50V2_GRID, CellGrid
from glomedge.reports.overlay import overlay, upsample
from glomedge.reports.run_page import map_place, map_png
from helpers.builders import tiny_graph, tiny_spec


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return tiny_spec(tiny_graph().SerializeToString())


def changed(spec: ModelSpec, **fields: Any) -> ModelSpec:
    return ModelSpec.from_json(json.dumps(json.loads(spec.to_json()) | fields))


def test_of_a_spec(spec: ModelSpec) -> None:
    assert CellGrid.of(spec) == RESNET50V2_GRID
    assert CellGrid.of(spec, 8) == CellGrid(224, 7, 15.5, 32.0)
    other = changed(spec, backbone="mobilenetv2", map_placement={"first_px": 31.0, "pitch_px": 32.0})
    assert CellGrid.of(other) == CellGrid(224, 7, 31.0, 32.0)
    # Seen mirrored, cell 0 looks at 223 - (31 + 32 * 6) = 0; half-way between is 15.5.
    assert CellGrid.of(other, 8).first_px == 15.5
    # Nothing said: as a picture would be cut.
    assert CellGrid.of(changed(spec, backbone="other", map_cells=14)) == CellGrid(224, 14, 7.5, 16.0)


GRIDS = [
    CellGrid(96, 3, 0.0, 32.0),
    CellGrid(299, 8, 37.0, 32.0),
    CellGrid(224, 7, 31.0, 32.0),
    CellGrid(1024, 32, 0.0, 32.0),
    CellGrid.even(331, 11),
]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_values_stand_where_the_cells_look(grid: CellGrid) -> None:
    centres = grid.first_px + grid.pitch_px * np.arange(grid.cells)
    ramp = np.tile(centres.astype(np.float32), (grid.cells, 1))
    field = upsample(ramp, grid.side_px, grid.side_px, grid=grid)
    inner = slice(int(np.ceil(centres[1])), int(centres[-2]) + 1)  # between the outermost, cubic convolution is exact
    columns = np.arange(grid.side_px)
    np.testing.assert_allclose(field[0, inner], columns[inner], atol=1e-3)
    np.testing.assert_allclose(field[-1, inner], columns[inner], atol=1e-3)


def test_a_single_cell_fills_the_crop() -> None:
    field = upsample(np.full((1, 1), 2.5, np.float32), 40, 30, grid=CellGrid.even(331, 1))
    assert field.shape == (40, 30)
    assert np.ptp(field) == 0.0
    crop = np.full((90, 80, 3), 128, np.uint8)
    assert overlay(crop, np.full((1, 1), 2.5, np.float32), threshold_logit=0.0).shape[0] == 90


@pytest.mark.parametrize("grid", [*GRIDS, RESNET50V2_GRID, RESNET50V2_GRID.seen_from(8)], ids=str)
def test_the_page_puts_each_pixel_of_the_map_over_its_cell_and_covers_the_crop(grid: CellGrid) -> None:
    cells: npt.NDArray[np.float32] = np.linspace(0.0, 1.0, grid.cells**2, dtype=np.float32).reshape(grid.cells, -1)
    picture: Any = cv2.imdecode(np.frombuffer(map_png(cells, (0.0, 1.0), grid), np.uint8), cv2.IMREAD_COLOR)
    start, size = map_place(grid)
    pixel = size / picture.shape[0]
    assert start <= 1e-9
    assert start + size >= 100.0 - 1e-9
    assert pixel == pytest.approx(100.0 * grid.pitch_px / grid.side_px)
    # The pixel that covers the first cell's centre has its colour, and so has the one over the last cell.
    alone: Any = cv2.imdecode(
        np.frombuffer(map_png(cells, (0.0, 1.0), CellGrid.even(grid.side_px, grid.cells)), np.uint8), cv2.IMREAD_COLOR
    )
    for cell in (0, grid.cells - 1):
        centre = 100.0 * (grid.first_px + grid.pitch_px * cell + 0.5) / grid.side_px
        at = (centre - start) / pixel - 0.5
        assert at == pytest.approx(round(at), abs=1e-6)
        assert tuple(picture[round(at), round(at)]) == tuple(alone[cell, cell])


def test_a_map_of_other_cells_than_the_grid_is_refused() -> None:
    crop = np.full((50, 50, 3), 128, np.uint8)
    with pytest.raises(UsageError, match="8 x 8 finite activations"):
        overlay(crop, np.zeros((7, 7), np.float32), grid=CellGrid.even(256, 8))
