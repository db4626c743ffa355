"""Models in onnxruntime: loading, batching, running. Knows no HTTP."""
