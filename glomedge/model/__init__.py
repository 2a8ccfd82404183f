"""The model file: its contract (spec), its seal, its graph."""
