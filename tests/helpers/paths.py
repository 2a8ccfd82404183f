"""Where things lie in the checkout (a module of its own: there is more than one ``conftest``)."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
