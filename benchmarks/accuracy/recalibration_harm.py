"""How often a recalibration from few labels makes a model worse: on drawn sites, of which every label is known.

    python -m benchmarks.accuracy.recalibration_harm [--sites 300]

The sites are those of the tests (``benchmarks.lib.drawn_sites``): a slope and an offset of their own, 12 biopsies of 10
to 100 glomeruli. On each, ``glomedge label``'s choice of 20, 30 and 50 crops is labelled with the truth, and the model
is recalibrated from it, at the threshold 0.5. Accuracy is counted over all crops of the site, before and after. The
figures say nothing of sites that are unlike the drawn ones.
"""

from __future__ import annotations

import numpy as np

from benchmarks.lib.common import markdown_table, parser, set_results_directory, write_result
from benchmarks.lib.drawn_sites import accuracies, draw_site
from glomedge.cases.recalibration import recalibrate
from glomedge.errors import DatasetError

COUNTS = (20, 30, 50)
LOSS = 0.02
"""Accuracy lower by more than this counts as harm."""


def main() -> None:
    """Draw, recalibrate, count, write."""
    options = parser(__doc__)
    options.add_argument("--sites", type=int, default=300)
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    sites = 30 if arguments.quick else arguments.sites
    pairs: dict[int, list[tuple[float, float]]] = {count: [] for count in COUNTS}
    refused = dict.fromkeys(COUNTS, 0)
    for seed in range(sites):
        site = draw_site(seed)
        for count in COUNTS:
            try:
                found = recalibrate(site.labelled(count, seed))
            except DatasetError:  # fewer than three of a class among them: the command refuses them
                refused[count] += 1
                continue
            pairs[count].append(accuracies(site, found))
    rows = [_row(count, np.array(pairs[count]), refused[count]) for count in COUNTS]
    header = ["labels", "sites", "refused", "mean before", "mean after", "worse by more than 2 points", "worst change"]
    write_result(
        "recalibration_harm",
        {
            "sites": sites,
            "refused": {str(count): refused[count] for count in COUNTS},
            "accuracy_before_after": {str(count): pairs[count] for count in COUNTS},
        },
        f"{markdown_table(header, rows)}\nAccuracy over all crops of each of {sites} drawn sites, in percent; changes "
        "in percentage points. Refused: the labels have fewer than three crops of a class.\n",
        title="Does recalibration do harm?",
    )


def _row(count: int, accuracy: np.ndarray[tuple[int, int], np.dtype[np.float64]], refused: int) -> list[str]:
    """One row of the table; ``accuracy`` is ``[sites, 2]``, before and after."""
    if not len(accuracy):
        return [str(count), "0", str(refused), "", "", "", ""]
    change = accuracy[:, 1] - accuracy[:, 0]
    worse = int((change < -LOSS).sum())
    return [
        str(count),
        str(len(change)),
        str(refused),
        f"{100 * accuracy[:, 0].mean():.1f}",
        f"{100 * accuracy[:, 1].mean():.1f}",
        f"{worse} ({100 * worse / len(change):.1f}%)",
        f"{100 * change.min():+.1f}",
    ]


if __name__ == "__main__":
    main()
