"""Run the decode target under libFuzzer, guided by the coverage of glomedge (needs atheris).

    PYTHONPATH=. python tests/fuzz/decode_atheris.py CORPUS_DIR -max_total_time=600 -max_len=20000

PNG inputs reach the target with their checksums made right, or nearly all would end there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
with atheris.instrument_imports(include=["glomedge"]):
    from fuzz import decode_target


def test_one_input(data: bytes) -> None:
    """One input of the fuzzer."""
    decode_target.one_input(decode_target.repaired_png(data))


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
