"""Training jobs as the API sees them: submit, watch, compare, recover."""
