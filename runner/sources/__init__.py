"""Where observations come from: one file per kind of source."""
