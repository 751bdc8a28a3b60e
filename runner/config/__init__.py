"""From YAML to a checked job. With the two doors, the only place that imports Hydra."""
