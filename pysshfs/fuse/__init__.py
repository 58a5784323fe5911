"""The kernel's side: requests, interrupts, mounting. The only importer of pyfuse3."""
