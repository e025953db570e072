"""The second stage: one adapter for each cell of the grid."""
