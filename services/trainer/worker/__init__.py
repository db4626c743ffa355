"""One job from claim to end: the supervisor and the process it starts. Imports no torch."""
