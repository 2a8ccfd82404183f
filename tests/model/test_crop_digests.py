"""Crops that a model was made with, known by the hashes of their files."""

from __future__ import annotations

import hashlib

import pytest

from glomedge.errors import ModelError
from glomedge.model.crop_digests import among, data_sha256, pack


def sha256(index: int) -> str:
    return hashlib.sha256(str(index).encode()).hexdigest()


def test_those_that_were_packed_are_found_and_no_others() -> None:
    packed = pack(sha256(index) for index in range(500))
    assert among(packed, [sha256(index) for index in range(450, 600)]) == {sha256(index) for index in range(450, 500)}
    assert among(pack([]), [sha256(1)]) == set()
    assert len(packed) == 500 * 6 * 4 / 3


def test_the_order_is_of_no_account() -> None:
    assert pack([sha256(1), sha256(2)]) == pack([sha256(2), sha256(1), sha256(2)])


def test_a_damaged_list_is_an_error() -> None:
    with pytest.raises(ModelError, match="damaged"):
        among("not base64!", [sha256(1)])


def test_a_data_set_is_its_names_labels_and_bytes() -> None:
    rows = [("a.png", 1, sha256(1)), ("b.png", 0, sha256(2))]
    hashes = {
        data_sha256(rows),
        data_sha256(rows[:1]),
        data_sha256([("a.png", 0, sha256(1)), rows[1]]),
        data_sha256([("a.png", 1, sha256(3)), rows[1]]),
        data_sha256([("c.png", 1, sha256(1)), rows[1]]),
    }
    assert len(hashes) == 5
