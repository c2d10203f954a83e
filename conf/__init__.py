"""The configuration groups, as YAML; `pipeline.schema` holds the types, the ranges and the same defaults."""
