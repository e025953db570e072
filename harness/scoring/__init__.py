"""How a student's answers become numbers."""
