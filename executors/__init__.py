"""Where variants run: the registry of backends, one executor per library, conversions, fallback, breakers."""
