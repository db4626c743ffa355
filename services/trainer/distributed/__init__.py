"""Several GPUs of one machine that train one model."""
