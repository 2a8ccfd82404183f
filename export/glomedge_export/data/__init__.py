"""Labelled crops: reading a data set, splitting it by biopsy, keeping enhanced crops."""
