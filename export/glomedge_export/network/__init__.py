"""The Keras network: ResNet50V2 with its head, and weights to start from."""
