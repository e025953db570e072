"""One module for each kind of suite: its items, how they are asked, what is scored."""
