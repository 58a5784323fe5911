"""The filesystem itself. Knows neither FUSE (pyfuse3) nor SSH (asyncssh, asyncio)."""
