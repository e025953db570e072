"""Log-likelihoods of many continuations at once: sequences that begin alike are computed once."""
