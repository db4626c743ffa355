"""Training jobs: submit, control, watch, compare, recover."""
