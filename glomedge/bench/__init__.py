"""Parts of ``glomedge bench``: statistics, environment, workloads, the record and its reports.

Nothing here imports TensorFlow, and nothing is imported at the top of this package.
"""
