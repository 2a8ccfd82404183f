"""Dependencies that would send or keep data about their user, silenced before they are imported.

The crops are patients' tissue, and glomedge promises to work offline: nothing leaves the machine, and nothing is
written outside the output folder and glomedge's own cache. Some dependencies do both by default, on import:

- onnxruntime 1.29 and newer writes a device identifier and an event database below the user's cache, and looks its
  collector up. ``disable_telemetry_events()`` comes too late for that; only the environment is read in time.
- openvino sends an event to Google Analytics from a process of its own, and keeps a client identifier in ``~/intel``.
- Ray sends usage statistics every hour.
- pydantic loads plugins that other packages register, such as Logfire's, which sees and may send what is validated.
- Keras writes ``~/.keras/keras.json``, and Matplotlib, which it imports, a list of fonts.

So every import of these, pydantic's apart, goes through this module (a test searches the source for others).
docs/privacy.md is the list for users. Nothing is changed before one of the functions is called.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glomedge.system.user_folders import cache_folder, home

ONNXRUNTIME_OPT_OUTS = ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED")
"""The first is read by onnxruntime 1.32; a change of July 2026 to onnxruntime's source reads the second."""

_LOCK = threading.Lock()


def silence() -> None:
    """Set what dependencies read from the environment; child processes inherit it. A user's own setting is kept."""
    given = [os.environ[name] for name in ONNXRUNTIME_OPT_OUTS if name in os.environ]
    if not given or any(_is_true(value) for value in given):
        # Who opted out by one name has opted out, whichever this version reads.
        for name in ONNXRUNTIME_OPT_OUTS:
            os.environ.setdefault(name, "1")
    folder = cache_folder()
    if folder is not None:
        # NVIDIA's driver keeps the kernels that it compiles in ~/.nv otherwise.
        os.environ.setdefault("CUDA_CACHE_PATH", str(folder / "cuda"))


PLUGIN_OPT_OUTS = {"PYDANTIC_DISABLE_PLUGINS": "__all__"}
"""What pydantic reads when a model class is made; without it every start looks through all installed packages."""


def silence_plugins() -> None:
    """The same for pydantic, in glomedge's own processes: in another program its plugins are its own."""
    for name, value in PLUGIN_OPT_OUTS.items():
        os.environ.setdefault(name, value)


def _is_true(value: str) -> bool:
    return value.strip().lower() in ("1", "true", "yes", "on", "y")


def import_onnxruntime() -> Any:
    """The module ``onnxruntime``, its telemetry off. Raises ImportError as the import does."""
    silence()
    return importlib.import_module("onnxruntime")


def import_openvino() -> Any:
    """The module ``openvino``, its telemetry off. Raises ImportError as the import does.

    OpenVINO has no setting that is read in time. It takes a stub of its own where the package ``openvino_telemetry`` is
    not installed, so that package is hidden from it while it is imported.
    """
    silence()
    with _LOCK, _hidden("openvino_telemetry"):
        return importlib.import_module("openvino")


RAY_OPT_OUTS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_USAGE_STATS_PROMPT_ENABLED": "0"}
"""Read by Ray when a cluster starts, and by its processes."""


def import_ray() -> Any:
    """The module ``ray``, its statistics off. Raises ImportError.

    Whoever has set ``RAY_USAGE_STATS_ENABLED`` keeps the setting.
    """
    silence()
    for name, value in RAY_OPT_OUTS.items():
        os.environ.setdefault(name, value)
    return importlib.import_module("ray")


@contextlib.contextmanager
def _hidden(package: str) -> Iterator[None]:
    before = {name: module for name, module in sys.modules.items() if name == package or name.startswith(f"{package}.")}
    for name in before:
        del sys.modules[name]
    sys.modules[package] = None  # type: ignore[assignment]  # importing it raises ImportError
    try:
        yield
    finally:
        del sys.modules[package]
        sys.modules.update(before)


def silence_tensorflow() -> None:
    """Call before TensorFlow, Keras or Matplotlib is imported: what they write goes into glomedge's own cache.

    Keras keeps its settings and downloaded weights in ``~/.keras``: where the user has that folder, it stays in use.
    Without a writable cache, a temporary folder is used that goes with this process.
    """
    silence()
    at_home = home()
    keras = () if at_home is not None and (at_home / ".keras").is_dir() else ("KERAS_HOME",)
    wanted = [name for name in (*keras, "MPLCONFIGDIR") if name not in os.environ]
    if not wanted:
        return
    folder = _own_folder()
    for name in wanted:
        os.environ[name] = str(folder / {"KERAS_HOME": "keras", "MPLCONFIGDIR": "matplotlib"}[name])


def import_matplotlib(module: str = "") -> Any:
    """Matplotlib or one of its modules, such as ``pyplot``, its cache kept out of the user's home.

    Raises ImportError as the import does.
    """
    silence_tensorflow()
    return importlib.import_module(f"matplotlib.{module}" if module else "matplotlib")


def _own_folder() -> Path:
    folder = cache_folder()
    if folder is not None:
        with contextlib.suppress(OSError):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)  # it holds engines, too, which others must not be able to write
            if os.access(folder, os.W_OK | os.X_OK):
                return folder
    temporary = tempfile.mkdtemp(prefix="glomedge-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return Path(temporary)


@dataclass(frozen=True)
class Silenced:
    """What becomes of one dependency's telemetry.

    Attributes:
        package: the dependency.
        off: whether it is off.
        how: by what, or by whose wish it is on.
    """

    package: str
    off: bool
    how: str


def telemetry() -> tuple[Silenced, ...]:
    """The state for ``glomedge doctor``, of every dependency that has telemetry. Changes nothing."""
    given = {name: os.environ[name] for name in ONNXRUNTIME_OPT_OUTS if name in os.environ}
    settings = given or dict.fromkeys(ONNXRUNTIME_OPT_OUTS, "1")
    off = any(_is_true(value) for value in settings.values())
    shown = ", ".join(f"{name}={value}" for name, value in settings.items())
    return (
        Silenced("onnxruntime", off, shown if off else f"on by your own setting {shown}"),
        Silenced("openvino", True, "its telemetry package is hidden from it"),
        _ray(),
    )


def _ray() -> Silenced:
    name = "RAY_USAGE_STATS_ENABLED"
    value = os.environ.get(name, RAY_OPT_OUTS[name])
    off = not _is_true(value)
    return Silenced("ray", off, f"{name}={value}" if off else f"on by your own setting {name}={value}")
