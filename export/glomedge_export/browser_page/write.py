"""``glomedge export-page``: one HTML file that holds onnxruntime-web, the enhancement and the network.

A page that is opened from disk may load nothing, not even files beside it. So everything stands inside, compressed, and
its Content-Security-Policy lets the browser send nothing.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from markupsafe import Markup

from glomedge.about import __version__
from glomedge.engine import golden
from glomedge.engine.loading import load
from glomedge.errors import OutputError, UsageError
from glomedge.files.writing import check_writable, replacing
from glomedge.imaging.enhance import enhance
from glomedge.model.file import ModelFile, read_model_file
from glomedge.model.graph import check_graph
from glomedge.reports import html
from glomedge_export.enhancement.files import sealed_enhancement

PAGE_NAME = "index.html"
_BUNDLE, _WASM = "dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm"
_FP32_TOLERANCE = 1e-4
_ADVICE = (
    "Install it with 'npm install --ignore-scripts onnxruntime-web', then give --onnxruntime-web "
    "node_modules/onnxruntime-web"
)


@dataclass(frozen=True)
class Runtime:
    """What is taken from the npm package onnxruntime-web.

    Attributes:
        version: of the package.
        bundle: its JavaScript, one module.
        wasm: the runtime itself.
    """

    version: str
    bundle: bytes
    wasm: bytes

    @classmethod
    def read(cls, package: Path) -> Runtime:
        """From the package's folder. Raises UsageError where it is not that."""
        try:
            described = json.loads((package / "package.json").read_bytes())
            if not isinstance(described, dict) or described.get("name") != "onnxruntime-web":
                raise UsageError(f"{package} is not the npm package onnxruntime-web. {_ADVICE}.")
            return cls(str(described.get("version")), (package / _BUNDLE).read_bytes(), (package / _WASM).read_bytes())
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "package.json is damaged"
            where = getattr(error, "filename", None) or package
            raise UsageError(f"{where} cannot be read ({reason}). {_ADVICE}.") from None


def write_browser_page(folder: Path, model: Path, package: Path) -> Path:
    """Write the page; made when missing, its ``index.html`` is replaced.

    Args:
        folder: where to.
        model: an exported model for onnxruntime.
        package: the npm package onnxruntime-web, unpacked.

    Returns:
        The page.

    Raises:
        ModelError: ``model`` is no intact model of glomedge.
        UsageError: it is laid out for another runtime; ``package`` is not that.
        GateError: the enhancement as ONNX differs from ``glomedge.enhance``.
        OutputError: ``folder`` cannot be made, or the page cannot be written.
    """
    file = read_model_file(model)
    check_graph(model, file.spec)
    if file.spec.target not in ("any", "onnxruntime"):
        raise UsageError(
            f"{model} is laid out for {file.spec.target}, and the page runs onnxruntime. Export it with --target "
            "onnxruntime."
        )
    runtime = Runtime.read(package)
    enhancement, _ = sealed_enhancement(file.spec.recipe)
    check_writable(folder, "Name another OUT.")
    path = folder / PAGE_NAME
    try:
        with replacing(path) as temporary, temporary.open("wb") as handle:
            handle.writelines(_parts(file, runtime, enhancement))
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}. Name another OUT.") from None
    return path


def _parts(file: ModelFile, runtime: Runtime, enhancement: bytes) -> Iterator[bytes]:
    crop, pixels, settings = _self_test(file)
    script = _template("browser.js").decode("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    blocks = {
        "worker": _template("browser_worker.js"),
        "runtime": runtime.bundle,
        "wasm": runtime.wasm,
        "enhance": enhancement,
        "model": file.path.read_bytes(),
        "golden-crop": crop,
        "golden-pixels": pixels,
    }
    return html.stream(
        "browser.html",
        title="Globally sclerotic glomeruli",
        subtitle=f"glomedge {__version__} in this browser, model {file.sha256[:12]} ({file.spec.precision})",
        script=Markup(script),
        script_hash=f"'sha256-{digest}'",
        settings=settings,
        blocks=((name, Markup(_packed(data))) for name, data in blocks.items()),
        runtime_notice=f"Runs on ONNX Runtime Web {runtime.version}, copyright Microsoft Corporation, MIT License.",
    )


def _template(name: str) -> bytes:
    return resources.files("glomedge.reports").joinpath("templates", name).read_bytes()


def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode("ascii")


def _self_test(file: ModelFile) -> tuple[bytes, bytes, dict[str, Any]]:
    """A crop as PNG, its enhanced pixels, and what the page is told; the probability is that of this machine's CPU."""
    spec = file.spec
    crop = golden.draw_crop(spec.golden.seed, spec.golden.side_px)
    done, png = cv2.imencode(".png", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR))
    assert done
    pixels = enhance(crop, spec.recipe)
    with load(file, "cpu") as engine:
        probability = float(engine.infer(pixels[np.newaxis]).probability[0])
    exact = spec.precision == "fp32"
    return (
        np.asarray(png).tobytes(),
        pixels.tobytes(),
        {
            "class_names": list(spec.class_names),
            "threshold": spec.threshold,
            "model_sha256": file.sha256,
            "golden_probability": probability,
            # Processors round differently at each requantisation (``golden.PROBABILITY_TOLERANCE``).
            "golden_tolerance": _FP32_TOLERANCE if exact else spec.golden.probability_tolerance,
        },
    )
