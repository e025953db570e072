"""Files, tables, text, templates, the terminal: nothing here knows what a model is."""
