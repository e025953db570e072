"""One run on many machines, by Ray. Nothing here is imported without a cluster."""
