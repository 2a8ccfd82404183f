"""One file per runtime: onnxruntime, NVIDIA's providers, OpenVINO."""
