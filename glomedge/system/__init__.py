"""What the machine is and has: processors, GPUs, shared libraries, signals, versions."""
