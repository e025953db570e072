"""The gate: rules over paired scores, what they are read from, and how a verdict is told."""

from harness.gate.rules import (
    LEVEL,
    Better,
    Bound,
    Decision,
    Evidence,
    Rule,
    Verdict,
    decide,
    overall,
)
from harness.stats.contrasts import Question

__all__ = ["LEVEL", "Better", "Bound", "Decision", "Evidence", "Question", "Rule", "Verdict", "decide", "overall"]
