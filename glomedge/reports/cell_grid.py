"""Where the cells of an activation map lie in the picture that the network saw.

Resizing a map like a picture would put cell i of ``n`` at the middle of the i-th of ``n`` equal parts. Convolutions do
not look there: it depends on their padding. In ResNet50V2 every stride is taken by a padded odd kernel centred on even
positions, so cell i looks at pixel 32 i (0, 32 ... 192 of 224), not at 32 i + 15.5; a test measures it on the network's
gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

from glomedge.model.spec import MAP_SIZE, SIZE_PX, ModelSpec

_RESNET50V2_PITCH_PX = 32.0


@dataclass(frozen=True)
class CellGrid:
    """Cells along one axis; both axes are alike.

    Attributes:
        side_px: side of the network's input.
        cells: how many.
        first_px: pixel at which the first one looks.
        pitch_px: pixels from one to the next.
    """

    side_px: int = SIZE_PX
    cells: int = MAP_SIZE
    first_px: float = 0.0
    pitch_px: float = _RESNET50V2_PITCH_PX

    @staticmethod
    def of(spec: ModelSpec, views: int = 1) -> CellGrid:
        """The grid of a model's map, or of the mean over ``views`` views of a crop.

        As the spec says; ResNet50V2's own where it does not; for another network then evenly over the picture, which
        is off by at most half a cell.
        """
        side_px, cells = spec.input.side_px, spec.map_cells
        if spec.map_placement is not None:
            grid = CellGrid(side_px, cells, spec.map_placement.first_px, spec.map_placement.pitch_px)
        elif spec.backbone == "resnet50v2":
            grid = CellGrid(side_px, cells)
        else:
            grid = CellGrid.even(side_px, cells)
        return grid.seen_from(views)

    @staticmethod
    def even(side_px: int, cells: int) -> CellGrid:
        """Cells that lie like the parts of a picture cut into ``cells`` by ``cells``."""
        pitch_px = side_px / cells
        return CellGrid(side_px, cells, (pitch_px - 1.0) / 2.0, pitch_px)

    def seen_from(self, views: int) -> CellGrid:
        """Of the mean over all eight views (``--tta 8``): symmetric.

        A view that was turned or mirrored has its cells counted from the other edge once it is turned back, and the
        mean over all eight lies half-way.
        """
        if views == 1:
            return self
        first_px = (self.side_px - 1 - self.pitch_px * (self.cells - 1)) / 2.0
        return CellGrid(self.side_px, self.cells, first_px, self.pitch_px)


RESNET50V2_GRID = CellGrid()
"""Of ResNet50V2 at 224 px."""
