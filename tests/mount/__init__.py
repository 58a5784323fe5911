"""Real mounts on real servers: what programs may rely on, and programs that do rely on it."""
