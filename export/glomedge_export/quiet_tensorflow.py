"""TensorFlow without its chatter.

Importing TensorFlow and its first look for devices print a dozen lines to standard error, partly from C++ before any
log level is read; on a machine without a GPU some of them say ERROR. They bury glomedge's own messages.
"""

from __future__ import annotations

import os
import sys
import tempfile

from glomedge.system.telemetry import silence_tensorflow


def start_tensorflow(*, exact: bool = False) -> None:
    """Import TensorFlow and let it look for devices, quietly; what it printed is shown only if that fails.

    Args:
        exact: for answers that are compared: without oneDNN's kernels, unless the user has set
            ``TF_ENABLE_ONEDNN_OPTS``. Their sums round more. Against the same network in float64 (the published
            structure, 24 crops) probabilities were off by up to 7.1e-6 with them and 4.9e-6 without, on average by
            2.6e-6 and 1.4e-6. Otherwise with them, unless the user has set it: TensorFlow leaves them off on x86
            processors without VNNI, where its own kernels take several times as long for small pictures, backwards
            above all.

    Does nothing where TensorFlow is already loaded, and hides nothing where ``TF_CPP_MIN_LOG_LEVEL`` is set: then the
    user has asked to see. The variable is set for this process from here on. Raises ImportError as the import does.
    """
    silence_tensorflow()
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0" if exact else "1")
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
