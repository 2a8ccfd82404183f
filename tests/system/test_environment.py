"""The environment record: complete, publishable, and named by kind of machine."""

from __future__ import annotations

import getpass
import json
import os
import platform
from typing import Any

from glomedge.system import environment


def test_record_is_json_and_names_no_person_or_place() -> None:
    text = json.dumps(environment.environment())
    record = json.loads(text)
    assert record["cpu"]["cores_usable"] == environment.usable_cores()
    assert record["versions"]["numpy"]
    assert platform.node() not in text
    assert f'"{getpass.getuser()}"' not in text
    assert os.getcwd() not in text  # noqa: PTH109 - a plain string is what is looked for


def _record(model: str, isa: list[str], cores: int, gpu: str | None = None) -> dict[str, Any]:
    gpus = [{"name": gpu}] if gpu else []
    return {"cpu": {"model": model, "architecture": "x86_64", "isa": isa, "cores_usable": cores}, "gpus": gpus}


def test_host_kinds() -> None:
    kind = environment.host_kind
    assert kind(_record("AMD EPYC", ["avx", "avx2", "fma"], 2)) == "amd-epyc-avx2-2cores"
    assert kind(_record("AMD EPYC 9R14 96-Core Processor", ["avx2", "avx512f", "avx512_vnni"], 4)) == (
        "amd-epyc-9r14-avx512vnni-4cores"
    )
    assert kind(_record("Intel(R) Xeon(R) CPU @ 2.20GHz", ["avx2"], 8, "NVIDIA L4")) == (
        "intel-xeon-avx2-8cores-nvidia-l4"
    )


def test_description_names_cpu_and_runtime() -> None:
    text = environment.describe(environment.environment())
    assert "Python" in text
    assert "cores" in text
