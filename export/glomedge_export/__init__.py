"""The workstation side of glomedge: data, training, export. Only this package uses TensorFlow."""
