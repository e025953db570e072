"""Tests, one module per module; bench/ holds the benchmarks."""
