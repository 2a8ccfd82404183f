"""Proof that an exported file still says what Keras said."""
