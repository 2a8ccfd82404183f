"""What all parts of the spec have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Frozen(BaseModel):
    """Immutable, strict about keys and about numbers (no NaN, no Inf)."""

    # Without the namespaces: pydantic before 2.10 warns of fields such as ``model_sha256``.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())
