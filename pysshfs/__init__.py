"""pysshfs mounts a remote directory over SFTP through FUSE."""

__version__ = "0.1.0"
