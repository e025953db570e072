"""The small verbs."""
