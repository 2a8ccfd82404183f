"""What an export starts from: a Keras model, what is known about it, and the crops to compare and calibrate on."""
