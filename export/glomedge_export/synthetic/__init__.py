"""Drawn crops and data sets, for demos and tests."""
