"""YAML files, BERT sizes, and the schema they obey."""
