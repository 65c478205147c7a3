"""From the traced shapes to a workload, its calibrated curve over the batch, and a size to try."""
