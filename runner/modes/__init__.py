"""Who executes: one file per mode. The only room that imports Ray."""
