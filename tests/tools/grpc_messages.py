"""Writes ``glomedge/serve/grpc_descriptor.py`` from ``open_inference.proto`` (``make grpc-messages``).

Generated classes would bind glomedge to the protobuf of the day; the descriptor alone is understood by all of them.
"""

from __future__ import annotations

import base64
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "glomedge" / "serve"
_HEAD = '''"""Made from ``open_inference.proto`` by ``make grpc-messages``: its FileDescriptorProto, in base64."""

DESCRIPTOR = """
'''


def source() -> str:
    """The module's text."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made"
        command = ["-m", "grpc_tools.protoc", f"-I{FOLDER}", f"--descriptor_set_out={made}", "open_inference.proto"]
        subprocess.run([sys.executable, *command], check=True)
        data = made.read_bytes()
    from google.protobuf import descriptor_pb2

    (file,) = descriptor_pb2.FileDescriptorSet.FromString(data).file
    text = base64.b64encode(file.SerializeToString(deterministic=True)).decode("ascii")
    return _HEAD + "\n".join(textwrap.wrap(text, 116)) + '\n"""\n'


if __name__ == "__main__":
    (FOLDER / "grpc_descriptor.py").write_text(source(), "utf-8")
