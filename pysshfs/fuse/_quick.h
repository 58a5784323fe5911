/* What is answered without waiting; see `_quick.c`. */
#ifndef PYSSHFS_QUICK_H
#define PYSSHFS_QUICK_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define FUSE_USE_VERSION 35
#include <fuse3/fuse_lowlevel.h>

/* Each returns whether the request has its reply; if not, it is as if it had not been called. */
int quick_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
int quick_getattr(fuse_req_t req, fuse_ino_t ino);
int quick_setattr(fuse_req_t req, fuse_ino_t ino, const struct stat *attr, int to_set,
                  const struct fuse_file_info *fi);
int quick_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                 const struct fuse_file_info *fi);
int quick_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
int quick_open(fuse_req_t req, fuse_ino_t ino, const struct fuse_file_info *fi);
int quick_read(fuse_req_t req, size_t size, off_t off, const struct fuse_file_info *fi);
int quick_write(fuse_req_t req, const char *buf, size_t size, off_t off,
                const struct fuse_file_info *fi);
int quick_flush(fuse_req_t req, const struct fuse_file_info *fi);
int quick_release(fuse_req_t req, const struct fuse_file_info *fi);
int quick_opendir(fuse_req_t req, fuse_ino_t ino, const struct fuse_file_info *fi);
int quick_readdirplus(fuse_req_t req, size_t size, off_t off, const struct fuse_file_info *fi);
int quick_releasedir(fuse_req_t req, const struct fuse_file_info *fi);

/* Whether the last request that libfuse handed over was answered by one of these. */
extern int quick_answered;

PyObject *quick_configure(PyObject *self, PyObject *handlers);

#endif
