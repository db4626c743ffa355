"""A published generator in onnxruntime, from seed to PNG; the API and the trainer share it. Knows neither, nor HTTP."""
