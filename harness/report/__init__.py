"""What the stored scores say: contrasts, tables, figures, the page."""
