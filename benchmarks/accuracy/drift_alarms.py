"""How often a night's scores raise the alarm of ``infer --site``: without any change, and with a changed scanner.

    python -m benchmarks.accuracy.drift_alarms [--nights 400] [--files 40]

Sites are drawn (``benchmarks.lib.drawn_sites``): biopsies of 10 to 100 glomeruli, each with a share of globally
sclerotic ones and a shift of its own. Of each site 8 to 20 biopsies stand in the model file, and a night has 6 to 15
others, whose logits are changed by a slope and an offset. A laboratory keeps one file for many nights, and the biopsies
in it may happen to be unusual: so 40 files of 16 biopsies are also held against 50 unchanged nights of 8 biopsies each.
The figures say nothing of sites unlike the drawn ones.
"""

from __future__ import annotations

import numpy as np

from benchmarks.lib.common import markdown_table, parser, set_results_directory, write_result
from benchmarks.lib.drawn_sites import draw_site
from glomedge.cases.decision import sigmoid
from glomedge.cases.drift import ALARM_BELOW, Drift, compare, scores_of
from glomedge.cases.prevalence import wilson_interval

CHANGES = ((1.0, 0.0), (1.0, 0.5), (1.0, 1.0), (1.0, 2.0), (1.0, -1.0), (1.0, -2.0), (0.7, 0.0), (0.5, 0.0))
"""Slope and offset of the night's logits; the first is no change."""

FILE_BIOPSIES, FILE_NIGHT, FILE_NIGHTS = 16, 8, 50


def main() -> None:
    """Draw, compare, count, write."""
    options = parser(__doc__)
    options.add_argument("--nights", type=int, default=400)
    options.add_argument("--files", type=int, default=40)
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    nights = 20 if arguments.quick else arguments.nights
    p_values: dict[str, list[float]] = {f"{slope:g} {offset:+g}": [] for slope, offset in CHANGES}
    for seed in range(nights):
        for key, value in _night(seed).items():
            p_values[key].append(value)
    files = [_one_file(seed) for seed in range(2 if arguments.quick else arguments.files)]
    rows = []
    for slope, offset in CHANGES:
        found = np.array(p_values[f"{slope:g} {offset:+g}"]) <= ALARM_BELOW
        low, high = wilson_interval(int(found.sum()), nights)
        share = f"{100 * found.mean():.1f}% ({100 * low:.1f} to {100 * high:.1f})"
        rows.append([f"{slope:g}", f"{offset:+g}", f"{found.sum()} of {nights}", share])
    write_result(
        "drift_alarms",
        {"nights": nights, "alarm_at_or_below": ALARM_BELOW, "p_values": p_values, "false_alarms_of_files": files},
        f"{markdown_table(['slope', 'offset', 'alarms', 'share (95% interval)'], rows)}\nNights of 6 to 15 biopsies "
        f"against 8 to 20 of the same drawn site; alarm at p <= {ALARM_BELOW:g}. Slope 1, offset 0: false alarms.\n\n"
        f"{_words(files)}",
        title="Is a changed scanner noticed?",
    )


def _words(files: list[float]) -> str:
    shares = 100 * np.array(files)
    return (
        f"One file, {FILE_NIGHTS} unchanged nights of {FILE_NIGHT} biopsies against its {FILE_BIOPSIES}: false alarms "
        f"on {shares.mean():.1f}% of the nights over {len(files)} files; on {np.median(shares):.0f}% with the median "
        f"file and {shares.max():.0f}% with the worst; above 5% with {int((shares > 5).sum())} files.\n"
    )


def _one_file(seed: int) -> float:
    """The share of unchanged nights with an alarm, by the biopsies that one file happens to hold."""
    site = draw_site(40_000 + seed, biopsies=FILE_BIOPSIES + FILE_NIGHTS * FILE_NIGHT, offset_sd=1.0)
    of_case, cases = np.array(site.cases), list(dict.fromkeys(site.cases))
    probabilities = {case: sigmoid(site.logits[of_case == case]).tolist() for case in cases}
    scores = scores_of({case: probabilities[case] for case in cases[:FILE_BIOPSIES]}, 0.5)
    assert scores is not None
    alarms = 0
    for begin in range(FILE_BIOPSIES, len(cases), FILE_NIGHT):
        night = compare(scores, {case: probabilities[case] for case in cases[begin : begin + FILE_NIGHT]}, 0.5)
        assert isinstance(night, Drift)
        alarms += night.found
    return alarms / FILE_NIGHTS


def _night(seed: int) -> dict[str, float]:
    """p of one night under each change."""
    before, now = 8 + seed % 13, 6 + seed % 10
    site = draw_site(20_000 + seed, biopsies=before + now, offset_sd=1.0)
    of_case, cases = np.array(site.cases), sorted(set(site.cases))
    scores = scores_of({case: sigmoid(site.logits[of_case == case]).tolist() for case in cases[:before]}, 0.5)
    assert scores is not None
    found = {}
    for slope, offset in CHANGES:
        night = {case: sigmoid(slope * site.logits[of_case == case] + offset).tolist() for case in cases[before:]}
        one = compare(scores, night, 0.5)
        assert isinstance(one, Drift)
        found[f"{slope:g} {offset:+g}"] = one.p_value
    return found


if __name__ == "__main__":
    main()
