"""``glomedge demo``: the whole workflow on drawn crops, every step a command that a user would type."""
