"""What a run did: one record, several renderings."""
