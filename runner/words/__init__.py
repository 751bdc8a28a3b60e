"""What people read: plain, short, and without credentials."""
