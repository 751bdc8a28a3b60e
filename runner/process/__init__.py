"""One process of the operating system: its signals, its threads, its children."""
