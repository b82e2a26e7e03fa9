"""The configuration: the printed form of the code. One group a folder, one YAML a choice."""
