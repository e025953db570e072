"""The first stage: a teacher writes rows, filters drop some."""
