"""For which GPUs a library holds compiled kernels, read from the fat binaries inside it without loading it.

A wheel is compiled for some compute capabilities. On another GPU it loads, lists its device and fails at the first run
(cudaErrorNoKernelImageForDevice). Layout: the header is ``fatBinaryHeader`` of CUDA's fatbinary_section.h (magic
0xBA55ED50, version, header size, size); of each entry behind it only kind, sizes and compute capability are read, which
NVIDIA does not document: checked on onnxruntime-gpu 1.31.1, whose other traces of its compilation name the same GPUs.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

_MAGIC_AND_VERSION = b"\x50\xed\x55\xba\x01\x00"
_HEADER = struct.Struct("<HQ")  # header size, size of all entries
_ENTRY = struct.Struct("<HHIQ12xI")  # kind, version, header size, padded size, ..., compute capability times ten
_PTX, _CUBIN = 1, 2
_LEAST_ENTRY_BYTES = 32

# Boards with a GPU on the processor's chip: cubins of cards are not made for them (CUDA C++ Best Practices Guide,
# "Binary Compatibility": not supported between desktop and Tegra).
_ON_CHIP = {(5, 3), (6, 2), (7, 2), (8, 7), (10, 1), (11, 0)}

Capability = tuple[int, int]


@dataclass(frozen=True)
class Kernels:
    """What a library was compiled for: machine code for ``cubin``, and code that the driver compiles for ``ptx``."""

    cubin: frozenset[Capability]
    ptx: frozenset[Capability]

    def run_on(self, capability: Capability) -> bool:
        """Whether a GPU of that compute capability can run them; True where no kernel was found at all.

        A cubin runs on GPUs of its major version with the same or a higher minor one, PTX on every newer GPU (CUDA C++
        Programming Guide, "Binary Compatibility" and "PTX Compatibility").
        """
        if not self.cubin and not self.ptx:
            return True
        if capability in self.cubin or any(made <= capability for made in self.ptx):
            return True
        same_major = [made for made in self.cubin - _ON_CHIP if made[0] == capability[0]]
        return capability not in _ON_CHIP and any(made <= capability for made in same_major)


def kernels_in(path: Path) -> Kernels:
    """The kernels in a library; none where it has no fat binary or cannot be read."""
    found: dict[int, set[Capability]] = {_PTX: set(), _CUBIN: set()}
    try:
        with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
            position = data.find(_MAGIC_AND_VERSION)
            while position >= 0:
                end = _walk(data, position, found)
                position = data.find(_MAGIC_AND_VERSION, max(end, position + len(_MAGIC_AND_VERSION)))
    except (OSError, ValueError):  # an empty file cannot be mapped
        pass
    return Kernels(frozenset(found[_CUBIN]), frozenset(found[_PTX]))


def _walk(data: mmap.mmap, position: int, found: dict[int, set[Capability]]) -> int:
    """Note the entries of one fat binary; where it ends, or ``position`` where the magic was a chance match."""
    start = position + len(_MAGIC_AND_VERSION)
    if start + _HEADER.size > len(data):
        return position
    header_bytes, size = _HEADER.unpack_from(data, start)
    end: int = position + header_bytes + size
    if end > len(data):
        return position
    entry = position + header_bytes
    while entry + _ENTRY.size <= end:
        kind, _, header_bytes, padded_bytes, capability = _ENTRY.unpack_from(data, entry)
        if kind not in found or header_bytes < _LEAST_ENTRY_BYTES:
            break
        found[kind].add(divmod(capability, 10))
        entry += header_bytes + padded_bytes
    return end
