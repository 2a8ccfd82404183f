"""Put a real tritonserver and its client into a folder (``make triton-server``), without touching any environment.

    python tests/tools/install_triton.py build/triton

The wheel of nvidia-pytriton carries tritonserver 2.51 for x86-64, with the Python backend alone. It is unpacked, never
installed; a stand-in (triton_standin.py) takes the place of the backend ``onnxruntime``. NVIDIA's client and what the
server's models need get an environment each, because neither goes together with ours (protobuf, numpy).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

WHEEL = "nvidia-pytriton==0.7.0"
ENVIRONMENTS = {
    # numpy 2 gives Triton 2.51's Python backend tensors of zeros.
    "server": ["numpy<2", "onnxruntime"],
    "client": ["tritonclient[http,grpc]==2.73.0", "protobuf<7", "packaging"],
}


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder), WHEEL], check=True)
    (wheel,) = folder.glob("nvidia_pytriton-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        # The server finds its libraries beside it, in the other folder.
        wanted = ("pytriton/tritonserver/", "nvidia_pytriton.libs/")
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith(wanted)])
    wheel.unlink()
    server = folder / "pytriton" / "tritonserver"
    stub = server / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copy(stub / "triton_python_backend_stub", server / "backends" / "python")
    for program in (server / "bin" / "tritonserver", server / "backends" / "python" / "triton_python_backend_stub"):
        program.chmod(0o755)
    backend = server / "backends" / "onnxruntime"
    backend.mkdir(exist_ok=True)
    shutil.copy(Path(__file__).with_name("triton_standin.py"), backend / "model.py")
    for name, packages in ENVIRONMENTS.items():
        venv.create(folder / name, with_pip=True, clear=True)
        python = str(folder / name / "bin" / "python")
        subprocess.run(
            [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", *packages], check=True
        )
    (folder / ".installed").touch()


if __name__ == "__main__":
    main()
