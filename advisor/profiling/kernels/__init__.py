"""What each kernel is: class, cut, residency and waves, on the GPU the trace was recorded on."""
