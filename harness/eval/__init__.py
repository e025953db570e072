"""The third stage: every candidate is scored on every suite."""
