"""The same model behind other servers, each as in its own documentation, and in an environment of its own."""
