"""Keras model files that glomedge did not write: what they are, whether they are safe to load, and loading them.

A model file is a program. ``identify`` and ``safety`` read it without any framework; ``load`` gives it to the
framework that fits only after both.
"""
