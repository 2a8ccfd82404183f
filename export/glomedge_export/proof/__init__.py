"""Checks that an exported file gives the same answers as Keras."""
