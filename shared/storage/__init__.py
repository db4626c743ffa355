"""Where data is stored: the artifact store, the model registry, Redis and the Celery queue."""
