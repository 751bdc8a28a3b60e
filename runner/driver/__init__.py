"""What a run keeps in its head. No Ray."""
