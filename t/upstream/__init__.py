"""A stand-in for the LLM services, for tests and the demo: no packages."""
