"""The training steps of a trace, what they leave the GPU idle for, and their batch size."""
