"""What a sink records and proves."""
