"""Where predictions go: one file per kind of sink."""
