"""Run and task files as typed models, and what their loading checks."""
