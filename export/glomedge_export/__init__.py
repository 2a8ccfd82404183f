"""The workstation side of glomedge: data, training, export. TensorFlow lives here and nowhere else."""
