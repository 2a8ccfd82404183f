"""Training speed: images/s of glomedge's trainer against a plain Keras script, and the time spent waiting for data.

    python -m benchmarks.speed.training_speed --data DIR        # a labelled folder; drawn crops by default

Plain: the compiled network as it is, Keras' own training step, fed by a Python generator that reads, decodes (Pillow)
and enhances every crop of every batch in every epoch. Ours: memory-mapped enhanced crops, tf.data, and a step that
differentiates the trained tail alone, in float32 and in bfloat16. All train the same layers from the same start with
SGD, in one process (so with the same deterministic kernels and threads); all are traced before the clock starts. Ratios
are paired by round. Plain, no files: Keras' own step on enhanced crops in memory, so that what the cache gives
and what the step gives can be distinguished.

The profile: seconds of an epoch in which the training loop waits for the next batch, over all its seconds.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks.lib.common import (
    alternate,
    log,
    markdown_table,
    paired_ratio,
    parser,
    set_results_directory,
    write_result,
)
from glomedge.imaging.enhance import enhance
from glomedge.model.spec import Recipe
from glomedge_export.training.feed import batches
from glomedge_export.training.optimizer import build, make_optimizer

if TYPE_CHECKING:
    from glomedge.model.spec import ComputeDtype
    from glomedge_export.data.dataset import Dataset

BATCH = 32
PLAIN = "plain Keras from files"


def main() -> None:
    """Parse, measure, write."""
    options = parser(__doc__)
    options.add_argument("--data", type=Path, help="labelled folder (public.csv and two folders)")
    options.add_argument("--steps", type=int, default=6, help="steps of 32 crops a round")
    options.add_argument("--rounds", type=int, default=7, help="rounds of either side")
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    steps, rounds = (2, 3) if arguments.quick else (arguments.steps, arguments.rounds)
    with tempfile.TemporaryDirectory() as scratch:
        _measure(arguments.data or _drawn(Path(scratch) / "drawn"), Path(scratch), steps, rounds)


def _drawn(directory: Path) -> Path:
    from glomedge_export.synthetic.dataset import write_dataset

    write_dataset(directory, crops=240, cases=12, seed=0)
    return directory


def _measure(data: Path, scratch: Path, steps: int, rounds: int) -> None:
    from glomedge_export.data import enhanced
    from glomedge_export.data.dataset import read_dataset
    from glomedge_export.training import fit

    fit.make_repeatable()
    dataset = read_dataset(data, min_cases=0)
    begin = time.perf_counter()
    crops = enhanced.enhanced(dataset, Recipe(), scratch / "cache")
    cache_s = time.perf_counter() - begin
    rng = np.random.default_rng(0)
    indices = rng.choice(len(dataset.items), steps * BATCH, replace=len(dataset.items) < steps * BATCH)
    waits: dict[str, list[float]] = {}
    samples = alternate(_trainers(dataset, crops, indices, waits), rounds=rounds)
    images = steps * BATCH
    ratios = {name: paired_ratio(samples[PLAIN], seconds) for name, seconds in samples.items()}
    shares = {dtype: float(np.median(values[1:])) for dtype, values in waits.items()}
    rows = [
        [name, f"{images / float(np.median(seconds)):.2f}", f"{r.value:.2f} ({r.low:.2f}-{r.high:.2f})"]
        for (name, seconds), r in zip(samples.items(), ratios.values(), strict=True)
    ]
    for row in rows:
        log(f"  {row}")
    pixels = np.mean([_pixels(dataset.items[int(index)].path) for index in set(indices)])
    waiting = ", ".join(f"{100 * share:.2f}% ({dtype})" for dtype, share in shares.items())
    write_result(
        "training_speed",
        {
            "batch": BATCH,
            "images_a_round": images,
            "samples_s": samples,
            "ratios": {name: vars(ratio) for name, ratio in ratios.items()},
            "waiting_share": waits,
            "cache_s": cache_s,
            "cache_crops": len(dataset.items),
            "mean_pixels": float(pixels),
        },
        f"{markdown_table(['trainer', 'images/s', f'times {PLAIN} (95% interval)'], rows)}\n\n"
        f"Crops of {pixels / 1e3:.0f} thousand pixels on average. Share of an epoch's training steps that waits for "
        f"data: {waiting}. Making the cache once: {cache_s:.1f} s for {len(dataset.items)} crops.\n",
        title="Training steps",
    )


def _trainers(
    dataset: Dataset, crops: npt.NDArray[np.uint8], indices: npt.NDArray[np.int64], waits: dict[str, list[float]]
) -> dict[str, Callable[[], object]]:
    """What is compared; each call trains on ``indices`` once. ``waits`` is given the shares spent waiting for data."""
    from glomedge_export.network import network
    from glomedge_export.training import fit

    labels = dataset.labels[indices].astype(np.float32)
    targets = np.stack([labels, np.ones_like(labels)], axis=1)
    plain = build("none")
    paths = [dataset.items[int(index)].path for index in indices]
    in_memory = [(crops[indices[i : i + BATCH]].astype(np.float32), labels[i : i + BATCH]) for i in _starts(indices)]

    def run_plain() -> None:
        for images, answers in _from_files(paths, labels):
            plain.train_on_batch(images, answers)

    def run_memory() -> None:
        for images, answers in in_memory:
            plain.train_on_batch(images, answers)

    def ours(dtype: ComputeDtype) -> Callable[[], None]:
        trainer = fit.Trainer(network.assemble(), make_optimizer(), dtype)

        def go() -> None:
            begun = time.perf_counter()
            waited = 0.0
            feed = iter(batches(crops, indices, BATCH, targets))
            while True:
                asked = time.perf_counter()
                batch: Any = next(feed, None)
                waited += time.perf_counter() - asked
                if batch is None:
                    break
                loss, _ = trainer.train_step(*batch)
                float(loss)
            waits.setdefault(dtype, []).append(waited / (time.perf_counter() - begun))

        return go

    return {
        PLAIN: run_plain,
        "plain Keras, crops in memory": run_memory,
        "glomedge": ours("float32"),
        "glomedge --compute-dtype bfloat16": ours("bfloat16"),
    }


def _starts(indices: npt.NDArray[np.int64]) -> range:
    return range(0, len(indices), BATCH)


def _pixels(path: Path) -> int:
    from PIL import Image

    with Image.open(path) as image:
        return image.width * image.height


def _from_files(
    paths: list[Path], labels: npt.NDArray[np.float32]
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """What a plain script does: every picture read, decoded and enhanced again for every epoch."""
    from PIL import Image

    for start in range(0, len(paths), BATCH):
        batch = []
        for path in paths[start : start + BATCH]:
            with Image.open(path) as image:
                batch.append(enhance(np.asarray(image.convert("RGB"))))
        yield np.stack(batch).astype(np.float32), labels[start : start + BATCH]


if __name__ == "__main__":
    main()
