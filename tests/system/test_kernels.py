"""kernels.py: which GPUs a library was compiled for."""

from __future__ import annotations

from pathlib import Path

import pytest

from glomedge.system.kernels import Kernels, kernels_in
from helpers.gpu_machines import fat_binary

CUBIN, PTX = 2, 1


def test_every_fat_binary_of_a_library_is_read(tmp_path: Path) -> None:
    path = tmp_path / "library.so"
    chance = fat_binary()[:6] + b"\xff" * 40  # the magic and then no header
    path.write_bytes(
        b"code" * 7 + fat_binary((CUBIN, 75), (CUBIN, 80)) + b"\0" * 9 + chance + fat_binary((PTX, 90), (CUBIN, 120))
    )
    found = kernels_in(path)
    assert found == Kernels(frozenset({(7, 5), (8, 0), (12, 0)}), frozenset({(9, 0)}))


@pytest.mark.parametrize("content", [b"", b"no kernels", fat_binary(), fat_binary((CUBIN, 90))[:-5], fat_binary()[:7]])
def test_what_cannot_be_read_says_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "library.so"
    path.write_bytes(content)
    assert kernels_in(path) == kernels_in(tmp_path / "missing") == Kernels(frozenset(), frozenset())
    assert kernels_in(path).run_on((9, 9))


WHEEL = frozenset({(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (12, 0)})


@pytest.mark.parametrize(
    ("cubin", "ptx", "capability", "runs"),
    [
        (WHEEL, frozenset(), (9, 0), True),
        (WHEEL, frozenset(), (12, 1), True),
        (WHEEL, frozenset(), (10, 0), False),
        (WHEEL, frozenset(), (7, 0), False),
        # A cubin of a card is not made for a GPU on a chip, nor the other way round.
        (WHEEL, frozenset(), (8, 7), False),
        (frozenset({(8, 7)}), frozenset(), (8, 9), False),
        (frozenset({(8, 7)}), frozenset(), (8, 7), True),
        (WHEEL, frozenset({(9, 0)}), (10, 0), True),
        (frozenset(), frozenset({(9, 0)}), (8, 9), False),
    ],
)
def test_which_gpus_run_them(
    cubin: frozenset[tuple[int, int]], ptx: frozenset[tuple[int, int]], capability: tuple[int, int], runs: bool
) -> None:
    assert Kernels(cubin, ptx).run_on(capability) is runs
