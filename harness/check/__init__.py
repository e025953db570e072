"""May this student ship? Rules over paired scores, baselines, comparisons."""
