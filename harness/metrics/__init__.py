"""What an answer is worth: one table of metrics, and one module for each family of them."""
