"""The model on its way to the workers."""
