"""How Sphinx builds the guide: `make docs`. Warnings are errors, links that lead nowhere among them."""

project = "harness"
extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "alabaster"
exclude_patterns = ["_build"]
