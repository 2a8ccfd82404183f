"""Whole slides: outlines from annotation files, the crops they stand for, and answers written back for viewers."""
