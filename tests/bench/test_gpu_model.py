"""The prediction for GPUs: the slower side binds, and nobody can take it for a measurement."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.speed import gpu_model
from benchmarks.speed.gpu_model import Device, predict

# 150,528 bytes a crop: a copy takes 0.1 ms, the network 0.1 ms in int8 and 0.2 ms in fp16.
CARD = Device("a card", 10_000.0, 150_528 / 1e-4, (1,), ("a publication",))


@pytest.mark.parametrize(
    ("precision", "cores", "series", "two_slots", "binds", "feeds"),
    [
        ("int8", 1, 250.0, 250.0, "the processor", 40),
        ("int8", 30, 5_000.0, 7_500.0, "the device", 40),
        ("int8", 100, 5_000.0, 10_000.0, "the device", 40),
        ("fp16", 100, 10_000 / 3, 5_000.0, "the device", 20),
    ],
)
def test_the_slower_of_cores_and_device_binds(
    precision: str, cores: int, series: float, two_slots: float, binds: str, feeds: int
) -> None:
    found = predict(CARD, precision, cores, host_s=4e-3)
    assert found["predicted_per_s"] == pytest.approx(series)
    assert found["predicted_two_slots_per_s"] == pytest.approx(two_slots)
    assert found["binds"].startswith(binds)
    assert found["cores_that_feed_it"] == feeds


def test_the_hosts_share_is_the_records(tmp_path: Path) -> None:
    runs = [
        {"crops": 100, "samples_s": {"decode and enhance": [9.0]}},
        {"crops": 1000, "samples_s": {"decode and enhance": [3.0, 3.5, 4.0]}},
    ]
    (tmp_path / "record.json").write_text(json.dumps({"cores": 2, "runs": runs}))
    assert gpu_model.host_seconds(tmp_path / "record.json") == pytest.approx(7e-3)
    assert 5e-3 < gpu_model.host_seconds(gpu_model.HOST_RECORD) < 10e-3


def test_the_table_says_that_it_is_a_prediction_and_names_its_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_model", "--results", str(tmp_path)])
    assert gpu_model.main() == 0
    text = (tmp_path / "gpu_model.md").read_text("utf-8")
    assert "nothing in this table was measured on a GPU" in text
    assert "PREDICTED" in text
    assert "except for fp16, which is an estimate" in text  # half of int8 is no upper limit
    for device in gpu_model.DEVICES:
        assert all(source in text for source in device.sources)
    assert json.loads((tmp_path / "gpu_model.json").read_text("utf-8"))["prediction"] is True
