"""The same model served by others, each as its own documentation shows it. Each runs in an environment of its own."""
