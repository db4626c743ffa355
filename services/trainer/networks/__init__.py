"""The generators and discriminators that Kiln can train."""
