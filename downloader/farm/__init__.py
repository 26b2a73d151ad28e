"""The build farm: models.toml, the catalogue, the CI runner and its workflow steps."""
