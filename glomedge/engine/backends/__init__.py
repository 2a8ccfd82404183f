"""One file a runtime: onnxruntime, NVIDIA's providers, OpenVINO."""
