"""The loop in Python: `Run`, one experiment and its verbs, and `tune`, all of it from one file of examples.

The files and caches are those of the command line: what one has done, the other goes on from.
"""

from harness.api.run import Run
from harness.api.tables import Answers, Check, Report, Table
from harness.api.tuning import tune

__all__ = ["Answers", "Check", "Report", "Run", "Table", "tune"]
