"""Preprocessing as ONNX: colour enhancement for programs without Python, equal to ``glomedge.enhance`` to the byte.

``graph`` builds it from a recipe (``resizing``, ``colours``, written with ``builder``), ``gate`` compares it,
``merged`` puts it in front of a model, ``files`` seals and writes both for ``glomedge export``.
"""
