"""The grid of cells, packing, nested subsets and the checks before training."""
