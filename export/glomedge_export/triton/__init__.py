"""A repository for NVIDIA's Triton Inference Server: ``config`` describes its models, ``repository`` writes it."""
