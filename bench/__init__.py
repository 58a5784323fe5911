"""A side-by-side benchmark against sshfs, over links with emulated round-trip times."""
