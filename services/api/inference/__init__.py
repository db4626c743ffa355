"""Loads, batches and runs models in onnxruntime. Independent of HTTP."""
