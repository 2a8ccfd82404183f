"""``glomedge serve``: Open Inference Protocol over HTTP and gRPC, biopsies as JSON, and a page to drop crops on.

Handlers (``app``, ``grpc_service``) speak a protocol each; ``core`` answers crops for all of them, through one queue
(``batcher``) and one model (``served``). ``server`` runs them until a signal.
"""
