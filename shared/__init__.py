"""The contract between Kiln's services: no torch, no onnxruntime, no FastAPI in here."""
