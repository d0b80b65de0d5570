"""Pull: trees of entities, read level by level."""
