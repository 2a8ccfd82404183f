"""Training speed: images/s of glomedge's trainer beside a plain Keras script, and how much of it waits for data.

    python benchmarks/training_speed.py --data DIR        # a labelled folder; drawn crops where none is given

Plain: the compiled network as it is, Keras' own training step, fed by a Python generator that reads, decodes (Pillow)
and enhances every crop of every batch in every epoch. Ours: memory-mapped enhanced crops, tf.data, and a step that
differentiates the trained tail alone. Both train the same layers from the same start with SGD, in one process (so with
the same deterministic kernels and threads); both are traced before the clock starts. The ratio is paired by round.

The profile: seconds of an epoch in which the training loop waits for the next batch, over all its seconds.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common import alternate, log, markdown_table, paired_ratio, parser, set_results_directory, write_result
from glomedge.preprocess import enhance
from glomedge.spec import Recipe

BATCH = 32


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
    from glomedge_export.synthetic import write_dataset

    write_dataset(directory, crops=240, cases=12, seed=0)
    return directory


def _measure(data: Path, scratch: Path, steps: int, rounds: int) -> None:
    from glomedge_export import cropcache, network, training
    from glomedge_export.dataset import read_dataset

    training.make_repeatable()
    dataset = read_dataset(data, min_cases=0)
    begin = time.perf_counter()
    crops = cropcache.enhanced(dataset, Recipe(), scratch / "cache")
    cache_s = time.perf_counter() - begin
    rng = np.random.default_rng(0)
    indices = rng.choice(len(dataset.items), steps * BATCH, replace=len(dataset.items) < steps * BATCH)
    labels = dataset.labels[indices].astype(np.float32)
    targets = np.stack([labels, np.ones_like(labels)], axis=1)

    plain = network.build("none")
    ours = training.Trainer(network.assemble(), network.make_optimizer())
    paths = [dataset.items[int(index)].path for index in indices]
    waits: list[float] = []

    def run_plain() -> None:
        for images, answers in _from_files(paths, labels):
            plain.train_on_batch(images, answers)

    def run_ours() -> None:
        begun = time.perf_counter()
        waited = 0.0
        batches = iter(training.batches(crops, indices, BATCH, targets))
        while True:
            asked = time.perf_counter()
            batch: Any = next(batches, None)
            waited += time.perf_counter() - asked
            if batch is None:
                break
            loss, _ = ours.train_step(*batch)
            float(loss)
        waits.append(waited / (time.perf_counter() - begun))

    samples = alternate({"plain": run_plain, "ours": run_ours}, rounds=rounds)
    images = steps * BATCH
    rates = {name: images / float(np.median(seconds)) for name, seconds in samples.items()}
    ratio = paired_ratio(samples["plain"], samples["ours"])
    share = float(np.median(waits[1:]))
    log(f"  {rates}, waiting for data {100 * share:.2f}%")
    table = markdown_table(["trainer", "images/s"], [[name, f"{rate:.2f}"] for name, rate in rates.items()])
    write_result(
        "training_speed",
        {
            "batch": BATCH,
            "images_a_round": images,
            "samples_s": samples,
            "waiting_share": waits,
            "cache_s": cache_s,
            "cache_crops": len(dataset.items),
        },
        f"{table}\n\nOurs over plain: {ratio.value:.2f} (95% {ratio.low:.2f} to {ratio.high:.2f}). "
        f"Waiting for data: {100 * share:.2f}% of an epoch's training steps. "
        f"Making the cache once: {cache_s:.1f} s for {len(dataset.items)} crops.\n",
    )


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
