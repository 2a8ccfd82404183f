"""Whole runs: a folder of crops in, a folder of results out; or a labelled data set, compared."""
