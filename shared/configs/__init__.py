"""What is trained, and with which values: configs, presets, references to checkpoints."""
