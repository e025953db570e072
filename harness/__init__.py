"""From a task to a small model that may ship: augment, train, eval, report, check."""

__version__ = "0.1.0"
