"""Arrow to what a model takes, and back."""
