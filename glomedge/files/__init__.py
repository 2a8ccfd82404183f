"""Files as the disk has them: names of any bytes, the lock on an output folder, writing that survives a full disk."""
