"""Machines as they are: no home, a closed or full standard output, a user's own modules, little memory."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from glomedge.cli.streams import LossyStream
from glomedge.system.children import python_command
from glomedge.system.memory import is_memory_error
from helpers.paths import ROOT
from helpers.run_kit import write_crops

_CODE = f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'export')]!r}; from glomedge.cli import main; main()"


def _glomedge(
    arguments: list[str], *, redirect: str = "", before: Callable[[], object] | None = None, cwd: Path | None = None,
    **environment: str,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """The command behind a shell's redirections, such as ``>&-``."""
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, "-P", "-c", _CODE, *arguments],
        capture_output=True, text=True, errors="replace", timeout=200, check=False, preexec_fn=before, cwd=cwd,
        env={**os.environ, **environment},
    )  # fmt: skip


@pytest.fixture
def infer(tmp_path: Path, tiny_model: Path) -> list[str]:
    write_crops(tmp_path / "crops", 4, broken=0)
    paths = [str(tmp_path / "crops"), "-m", str(tiny_model), "-o", str(tmp_path / "out")]
    return ["infer", *paths, "--provider", "cpu"]


@pytest.mark.parametrize(
    "redirect", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full", ">/dev/full 2>/dev/full"]
)
@pytest.mark.parametrize("bad", [False, True])
def test_a_lost_summary_is_no_error(tmp_path: Path, infer: list[str], redirect: str, bad: bool) -> None:
    if bad:
        (tmp_path / "crops" / "bad.png").write_bytes(b"no image")
    done = _glomedge(infer, redirect=redirect)
    assert done.returncode == (2 if bad else 0), done.stderr
    assert "Traceback" not in done.stderr
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written >= {"predictions.csv", "cases.csv", "report.html", "run.json"}
    # With a closed stream, a file could have got its number, and what is printed.
    assert "inputs on cpu" not in (tmp_path / "out" / "predictions.csv").read_text()


def test_a_reader_that_goes_away_changes_nothing(infer: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-P", "-c", _CODE, *infer]
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize(("redirect", "reason"), [(">&-", "it is closed"), (">/dev/full", "No space left")])
def test_what_only_prints_fails_without_its_output(tiny_model: Path, redirect: str, reason: str) -> None:
    done = _glomedge(["info", str(tiny_model)], redirect=redirect)
    assert done.returncode == 1
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_stream_that_fails_once_is_not_written_to_again(tmp_path: Path) -> None:
    with (tmp_path / "kept").open("w") as kept, open("/dev/full", "w") as full:  # noqa: PTH123
        stream = LossyStream(full)
        assert stream.write("lost\n") == 5
        stream.flush()
        assert stream.lost is not None
        assert stream.lost.errno == errno.ENOSPC
        stream.write("lost, too\n")
        stream.flush()
        assert stream.fileno() == full.fileno()
        kept.write("kept")
    assert (tmp_path / "kept").read_text() == "kept"


# A container's user: HOME is not set, and the password database does not know the number.
_NOBODY = "import os, pwd; os.environ.pop('HOME', None); os.environ.pop('XDG_CACHE_HOME', None)\n" + (
    "def unknown(number): raise KeyError(f'getpwuid(): uid not found: {number}')\n"
    "pwd.getpwuid = unknown\n"
    "for name in ('MPLCONFIGDIR', 'KERAS_HOME'): os.environ.pop(name, None)\n"
)  # fmt: skip


@pytest.mark.parametrize("provider", ["cpu", "auto", pytest.param("openvino", marks=pytest.mark.openvino)])
def test_a_user_without_a_home(infer: list[str], tmp_path: Path, provider: str) -> None:
    if provider == "openvino" and importlib.util.find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed: pip install openvino")
    # Else the optimised graph of so small a model is not cached at all.
    code = f"{_NOBODY}{_CODE.replace('; main()', '')}\nfrom glomedge.engine.backends import onnxrt\n"
    code += "onnxrt.WORTH_COPYING_BYTES = 0\nmain()"
    arguments = [*infer[:-1], provider]
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out" / "predictions.csv").is_file()
    notes = json.loads((tmp_path / "out" / "run.json").read_text())
    assert "no home folder" in json.dumps(notes)


@pytest.mark.keras
def test_train_and_its_libraries_without_a_home(tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("needs TensorFlow: pip install 'glomedge[export]'")
    code = f"{_NOBODY}import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'export')]!r}\n"
    code += "from glomedge_export.training import plots\nimport os; print(os.environ['MPLCONFIGDIR'])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert not Path(done.stdout.strip()).exists()  # it went with the process


# What a user may have in the folder the night is started in, by the names of modules of the standard library.
_TRAP = "import os; open(os.environ['TRAP'], 'a').write(__name__ + '\\n'); raise SystemExit(99)\n"


@pytest.mark.parametrize("command", ["infer", "bench"])
def test_modules_in_the_current_folder_are_not_run(
    tmp_path: Path, infer: list[str], tiny_model: Path, command: str
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    for name in ("random", "types", "json", "pickle", "numpy", "cv2", "sitecustomize", "glomedge"):
        (work / f"{name}.py").write_text(_TRAP)
    trap = tmp_path / "trap"
    arguments = {
        "infer": [*infer, "--decode-in", "processes", "--workers", "2"],
        "bench": ["bench", "-m", str(tiny_model), "--provider", "cpu", "--images", str(tmp_path / "crops"),
                  "--duration", "0.1", "-o", str(tmp_path / "out")],
    }[command]  # fmt: skip
    done = _glomedge(arguments, cwd=work, TRAP=str(trap))
    assert done.returncode == 0, done.stderr
    assert not trap.exists(), trap.read_text()


def test_something_that_prints_at_start_up_is_not_taken_for_an_answer(
    tmp_path: Path, infer: list[str], tiny_model: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("print('Welcome to the lab cluster! Quota: 93% used.' * 20, flush=True)\n")
    done = _glomedge([*infer, "--decode-in", "processes", "--workers", "2"], PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    bench = ["bench", "-m", str(tiny_model), "--provider", "cpu", "--images", str(tmp_path / "crops")]
    done = _glomedge([*bench, "--duration", "0.1", "-o", str(tmp_path / "bench")], PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr


def test_a_child_finds_what_its_parent_imports_behind_its_own(tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text(_TRAP)
    (tmp_path / "only_here.py").write_text("import random, sys; print(random.__file__, sys.argv[1:], __name__)\n")
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}]; sys.path.append({str(tmp_path)!r})\n"
        "import subprocess; from glomedge.system.children import python_command\n"
        "subprocess.run(python_command('only_here', 'a', 'b'), check=True)\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) not in done.stdout
    assert "['a', 'b'] __main__" in done.stdout
    assert "-P" in python_command("m")


@pytest.mark.parametrize("limit_mb", [300, 400, 500, 600, 700, 800, 900])
def test_a_small_address_space_is_said_to_be_one(infer: list[str], limit_mb: int) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit_mb << 20, limit_mb << 20))

    done = _glomedge(infer, before=limit)
    assert done.returncode == 1
    assert "not enough memory" in done.stderr
    assert "ulimit -v" in done.stderr
    assert "Traceback" not in done.stderr
    assert "disk" not in done.stderr


def _caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (RuntimeError("can't start new thread"), True),
        (ImportError("libavcodec.so.62: failed to map segment from shared object"), True),
        (_caused(RuntimeError("loading failed"), MemoryError()), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("a defect"), False),
    ],
)
def test_what_says_that_memory_ran_out(error: BaseException, expected: bool) -> None:
    assert is_memory_error(error) is expected


def test_any_command_says_memory_where_memory_ran_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from glomedge import cli

    def fail() -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(cli, "build", lambda names: fail)
    monkeypatch.setattr(sys, "argv", ["glomedge", "infer"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("glomedge: There is not enough memory")
