"""From a folder of files to batches of enhanced crops in front of the engine."""
