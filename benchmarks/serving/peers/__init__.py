"""The same model behind other servers. Each follows its own documentation and runs in its own environment."""
