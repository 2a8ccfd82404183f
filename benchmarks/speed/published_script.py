"""``glomedge infer`` against the published evaluation script's way, from command to answers, same crops, same machine.

The script's way, literally (docs/preprocessing.md, recipe ``published``): every crop is read, enhanced step by step,
written to disk as PNG, read back, and given to ``model.predict`` alone. Both are whole commands: start, imports,
loading the model and writing the answers are counted. In every round each command runs once, in rotating order; a
ratio is the median of the ratios within rounds.

    .venv/bin/python -m benchmarks.speed.published_script [--quick] [--rounds 5] [--crops 300]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.lib.common import (
    ROOT,
    alternate,
    log,
    markdown_table,
    paired_ratio,
    parser,
    set_results_directory,
    user_crops,
)
from benchmarks.lib.common import write_result as write
from benchmarks.lib.prepare import artifacts as prepared_artifacts

PUBLISHED = "published script"

# Kept as one piece of text, so that it runs in its own process as the notebook's cell would.
SCRIPT = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import cv2, numpy as np
from PIL import Image, ImageEnhance
sys.path[:0] = sys.argv[4:]
from glomedge_export.network.network import load_model

source, scratch, keras_file = sys.argv[1:4]
names = sorted(os.path.join(where, name) for where, _, files in os.walk(source) for name in files if "png" in name)
for number, name in enumerate(names):
    image = cv2.resize(cv2.imread(name), (224, 224))
    image = (image.astype(np.int64) * 255 % 256).astype(np.uint8)
    yuv = cv2.cvtColor(image, cv2.COLOR_RGB2YUV)
    yuv[:, :, 0] = cv2.equalizeHist(yuv[:, :, 0])
    equalised = cv2.cvtColor(yuv, cv2.COLOR_YUV2RGB)
    equalised = (equalised.astype(np.int64) * 255 % 256).astype(np.uint8)
    ImageEnhance.Color(Image.fromarray(equalised)).enhance(1.5).save(os.path.join(scratch, f"{number}.png"))
model = load_model(keras_file)
for number, name in enumerate(names):
    image = np.asarray(Image.open(os.path.join(scratch, f"{number}.png")).convert("RGB"))
    probability = float(np.ravel(model.predict(image[np.newaxis], verbose=0))[0])
    print(name, probability, int(probability >= 0.5))
"""


def published(folder: Path, keras_file: Path, crops: int) -> None:
    """The published way, once."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-c", SCRIPT, str(folder), scratch, str(keras_file), str(ROOT), str(ROOT / "export")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or len(done.stdout.splitlines()) != crops:
        raise SystemExit(f"the published way failed:\n{done.stderr[-2000:]}")


def glomedge(folder: Path, model: Path, crops: int) -> None:
    """``glomedge infer`` with its defaults on the CPU, once: with CSV, cases and report."""
    scratch = Path(tempfile.mkdtemp())
    try:
        command = [sys.executable, "-m", "glomedge", "infer", str(folder), "--model", str(model), "--provider", "cpu"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [*command, "--output", str(scratch / "out")], capture_output=True, text=True, check=False, env=environment
        )
        if done.returncode != 0:
            raise SystemExit(f"glomedge infer failed:\n{done.stderr[-2000:]}")
        with (scratch / "out" / "predictions.csv").open(encoding="utf-8") as handle:
            if sum(1 for _ in handle) != crops + 1:
                raise SystemExit("glomedge infer left rows out")
    finally:
        shutil.rmtree(scratch)


def main() -> None:
    """Measure and write ``published_script.json`` and ``.md``."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--crops", type=int, default=300)
    options.add_argument("--artifacts", type=Path, help="folder with model.keras and the exported files")
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    crops = 24 if arguments.quick else arguments.crops
    rounds = 2 if arguments.quick else arguments.rounds
    folder = user_crops(crops)
    models = arguments.artifacts or prepared_artifacts()
    ways = {PUBLISHED: partial(published, folder, models / "model.keras", crops)}
    files = {
        "glomedge fp32": "model.onnx",
        "glomedge fp32, laid out for onnxruntime": "model.fp32.onnxruntime.onnx",
        "glomedge int8": "model.int8.onnxruntime.onnx",
    }
    for name, file in ((name, models / file) for name, file in files.items()):
        if file.is_file():
            ways[name] = partial(glomedge, folder, file, crops)
        else:
            log(f"  {name}: no {file.name}, left out")
    samples = alternate(ways, rounds=rounds, warmup=1)
    rows = []
    ratios = {}
    for name, seconds in samples.items():
        ratio = paired_ratio(samples[PUBLISHED], seconds)
        ratios[name] = {"value": ratio.value, "low": ratio.low, "high": ratio.high}
        middle = sorted(seconds)[len(seconds) // 2]
        shown = f"{ratio.value:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"
        rows.append((name, round(middle, 2), round(crops / middle, 1), shown))
    header = ("command", "seconds", "crops/s", "times faster (95% interval)")
    text = f"{crops} drawn crops, {rounds} rounds, whole commands.\n\n{markdown_table(header, rows)}"
    document = {"crops": crops, "rounds": rounds, "samples_s": samples, "times_faster": ratios}
    write("published_script", document, text, title="glomedge infer against the published evaluation script")


if __name__ == "__main__":
    main()
