"""Triton kernels whose time `bench` measures beside cuBLAS and cuDNN."""
