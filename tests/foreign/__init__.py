"""Kinds that somebody else wrote, as a package outside of this one has them."""
