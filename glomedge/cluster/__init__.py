"""One run over many machines on Ray: parts of a manifest, answered by a pool of workers, published as one."""
