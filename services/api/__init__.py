"""Serving: FastAPI and onnxruntime. No torch."""
