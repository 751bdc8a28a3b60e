"""One shard after the other: read ahead, predict, put bad rows aside, write behind."""
