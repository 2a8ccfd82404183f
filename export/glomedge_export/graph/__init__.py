"""From a Keras model to an ONNX graph, and what is done to that graph for each precision and target."""
