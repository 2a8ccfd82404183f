"""One crop: from the bytes of a file to enhanced pixels."""
