"""Files of outlines: readers for each format, the choice of classes, and writers for QuPath and the DSA."""
