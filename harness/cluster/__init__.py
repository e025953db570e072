"""One run on many machines, by Ray, which is imported where a cluster is joined."""
