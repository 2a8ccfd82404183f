"""TensorFlow without its chatter.

Importing TensorFlow and its first look for devices print a dozen lines to standard error, partly from C++ before any
log level is read; on a machine without a GPU some of them say ERROR. They bury glomedge's own messages.
"""

from __future__ import annotations

import os
import sys
import tempfile

from glomedge.system.telemetry import silence_tensorflow


def start_tensorflow() -> None:
    """Import TensorFlow and let it look for devices, quietly; what it printed is shown only if that fails.

    Does nothing where TensorFlow is already loaded, and hides nothing where ``TF_CPP_MIN_LOG_LEVEL`` is set: then the
    user has asked to see. The variable is set for this process from here on. Raises ImportError as the import does.
    """
    silence_tensorflow()
    if "tensorflow" in sys.modules or "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        # The file descriptor, not sys.stderr: the lines come from C++.
        os.dup2(said.fileno(), 2)
        done = False
        try:
            from glomedge_export.frameworks import tf

            tf.config.list_physical_devices()
            done = True
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            if not done:
                said.seek(0)
                os.write(2, said.read())
