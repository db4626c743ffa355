"""Where data is kept: the artifact store, the model registry, Redis and the Celery queue."""
