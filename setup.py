"""The C extension; everything else stands in pyproject.toml."""

from setuptools import Extension, setup

session = Extension(
    "pysshfs.fuse._session",
    ["pysshfs/fuse/_session.c", "pysshfs/fuse/_quick.c"],
    depends=["pysshfs/fuse/_quick.h"],
    define_macros=[("_FILE_OFFSET_BITS", "64"), ("_GNU_SOURCE", None)],
    libraries=["fuse3", "dl"],
)
setup(ext_modules=[session])
