"""Benchmarks for transfer learning in PyTorch: architecture x freezing policy x device on Fashion-MNIST."""

__version__ = "0.1.0"
