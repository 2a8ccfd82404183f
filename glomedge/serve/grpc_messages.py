"""The messages of ``open_inference.proto`` as classes."""

from __future__ import annotations

import base64
from typing import Any

from google.protobuf import descriptor_pool, message_factory

from glomedge.serve.grpc_descriptor import DESCRIPTOR

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

# A pool of our own: a client library in the same process may have registered the same names.
_pool = descriptor_pool.DescriptorPool()
_pool.AddSerializedFile(base64.b64decode(DESCRIPTOR))


def message(name: str) -> Any:
    """The class of a message; KeyError where there is none of that name."""
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))


def calls() -> list[str]:
    """The names of the service's calls; ``X`` takes ``XRequest`` and returns ``XResponse``."""
    return [method.name for method in _pool.FindServiceByName(SERVICE).methods]
