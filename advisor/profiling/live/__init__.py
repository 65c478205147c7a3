"""A model's steps run under torch.profiler in a child process, and the trace kept."""
