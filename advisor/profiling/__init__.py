"""What a torch.profiler trace tells: where a step's time goes, what waves and missed Tensor Cores cost, what to try."""
