/*
 * Requests whose answer is at hand, answered on the spot.
 *
 * pyfuse3 makes a coroutine of each request, the guard of fuse/requests.py a cancel scope and an
 * entry in its table, and trio waits for the device before the next one: that is most of what a
 * request costs that need not wait for anything. So the operations below ask a plain function first
 * (`fuse/quick.py`), which returns the answer, or None for "not at hand"; then the request goes the
 * usual way. A function that is asked never suspends, so there is nothing to interrupt.
 */
#include "_quick.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>

enum operation {
    LOOKUP, GETATTR, SETATTR, CREATE, UNLINK, OPEN, READ, WRITE, FLUSH, RELEASE, OPENDIR, READDIR,
    RELEASEDIR, OPERATIONS
};

static const char *const names[OPERATIONS] = {
    "lookup", "getattr", "setattr", "create",  "unlink",  "open",       "read",
    "write",  "flush",   "release", "opendir", "readdir", "releasedir",
};
static PyObject *handlers[OPERATIONS];

int quick_answered;

/* The handler's answer to these arguments (a tuple, as Py_BuildValue has it), a new reference; NULL
 * when there is none. */
static PyObject *asked(enum operation operation, const char *format, ...)
{
    if (handlers[operation] == NULL)
        return NULL;
    va_list values;
    va_start(values, format);
    PyObject *arguments = Py_VaBuildValue(format, values);
    va_end(values);
    PyObject *answer = NULL;
    if (arguments != NULL) {
        answer = PyObject_Call(handlers[operation], arguments, NULL);
        Py_DECREF(arguments);
    }
    if (answer == NULL)
        PyErr_WriteUnraisable(handlers[operation]);
    if (answer == Py_None)
        Py_CLEAR(answer);
    return answer;
}

/* An answer of the wrong form is a mistake in fuse/quick.py: the program gets EIO. */
static int replied(fuse_req_t req, PyObject *answer, int is_right)
{
    if (!is_right) {
        if (PyErr_Occurred())
            PyErr_WriteUnraisable(answer);
        fuse_reply_err(req, EIO);
    }
    Py_DECREF(answer);
    quick_answered = 1;
    return 1;
}

/* (inode, mode, uid, gid, size, atime, mtime, seconds of the name, seconds of the attributes). As
 * `kernel_entry` of fuse/operations.py, which says why. */
static int parse_entry(PyObject *answer, struct fuse_entry_param *entry)
{
    unsigned long long number, size;
    long long atime, mtime;
    unsigned mode, uid, gid;
    memset(entry, 0, sizeof *entry);
    if (!PyArg_ParseTuple(answer, "KIIIKLLdd", &number, &mode, &uid, &gid, &size, &atime, &mtime,
                          &entry->entry_timeout, &entry->attr_timeout))
        return 0;
    entry->ino = number;
    entry->attr.st_ino = number;
    entry->attr.st_mode = mode;
    entry->attr.st_nlink = 1;
    entry->attr.st_uid = uid;
    entry->attr.st_gid = gid;
    entry->attr.st_size = (off_t)size;
    entry->attr.st_blksize = 4096;
    entry->attr.st_blocks = (blkcnt_t)(size / 512 + (size % 512 != 0));
    entry->attr.st_atime = atime;
    entry->attr.st_mtime = entry->attr.st_ctime = mtime;
    return 1;
}

int quick_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    PyObject *answer = asked(LOOKUP, "(Ky)", (unsigned long long)parent, name);
    if (answer == NULL)
        return 0;
    struct fuse_entry_param entry;
    int is_right = parse_entry(answer, &entry);
    if (is_right)
        fuse_reply_entry(req, &entry);
    return replied(req, answer, is_right);
}

static int told_attributes(fuse_req_t req, PyObject *answer)
{
    struct fuse_entry_param entry;
    int is_right = parse_entry(answer, &entry);
    if (is_right)
        fuse_reply_attr(req, &entry.attr, entry.attr_timeout);
    return replied(req, answer, is_right);
}

int quick_getattr(fuse_req_t req, fuse_ino_t ino)
{
    PyObject *answer = asked(GETATTR, "(K)", (unsigned long long)ino);
    return answer != NULL && told_attributes(req, answer);
}

/* A new reference: what is to be set, or None. */
static PyObject *wanted(int is_set, long long value)
{
    if (is_set)
        return PyLong_FromLongLong(value);
    Py_RETURN_NONE;
}

int quick_setattr(fuse_req_t req, fuse_ino_t ino, const struct stat *attr, int to_set,
                  const struct fuse_file_info *fi)
{
    /* Not a size, which has to be prepared for, nor what the kernel has not computed itself. */
    const int simple = FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID |
                       FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_CTIME;
    if (handlers[SETATTR] == NULL || (to_set & ~simple) != 0)
        return 0;
    PyObject *answer = asked(SETATTR, "(KNNNNNN)", (unsigned long long)ino,
                             wanted(to_set & FUSE_SET_ATTR_MODE, attr->st_mode & 07777),
                             wanted(to_set & FUSE_SET_ATTR_UID, attr->st_uid),
                             wanted(to_set & FUSE_SET_ATTR_GID, attr->st_gid),
                             wanted(to_set & FUSE_SET_ATTR_ATIME, attr->st_atime),
                             wanted(to_set & FUSE_SET_ATTR_MTIME, attr->st_mtime),
                             wanted(fi != NULL, fi != NULL ? (long long)fi->fh : 0));
    return answer != NULL && told_attributes(req, answer);
}

/* (file, direct_io, keep_cache), into what the kernel is told. */
static int parse_opened(PyObject *answer, struct fuse_file_info *told)
{
    unsigned long long fh;
    int direct_io, keep_cache;
    if (!PyArg_ParseTuple(answer, "Kpp", &fh, &direct_io, &keep_cache))
        return 0;
    told->fh = fh;
    told->direct_io = direct_io != 0;
    told->keep_cache = keep_cache != 0;
    return 1;
}

int quick_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                 const struct fuse_file_info *fi)
{
    PyObject *answer =
        asked(CREATE, "(KyIi)", (unsigned long long)parent, name, (unsigned)mode, fi->flags);
    if (answer == NULL)
        return 0;
    struct fuse_file_info told = *fi;
    struct fuse_entry_param entry;
    PyObject *opened, *made;
    int is_right =
        PyArg_ParseTuple(answer, "O!O!", &PyTuple_Type, &opened, &PyTuple_Type, &made) &&
        parse_opened(opened, &told) && parse_entry(made, &entry);
    if (is_right)
        fuse_reply_create(req, &entry, &told);
    return replied(req, answer, is_right);
}

int quick_open(fuse_req_t req, fuse_ino_t ino, const struct fuse_file_info *fi)
{
    PyObject *answer = asked(OPEN, "(Ki)", (unsigned long long)ino, fi->flags);
    if (answer == NULL)
        return 0;
    struct fuse_file_info told = *fi;
    int is_right = parse_opened(answer, &told);
    if (is_right)
        fuse_reply_open(req, &told);
    return replied(req, answer, is_right);
}

int quick_read(fuse_req_t req, size_t size, off_t off, const struct fuse_file_info *fi)
{
    PyObject *answer =
        asked(READ, "(KLn)", (unsigned long long)fi->fh, (long long)off, (Py_ssize_t)size);
    if (answer == NULL)
        return 0;
    char *data;
    Py_ssize_t length;
    int is_right = PyBytes_AsStringAndSize(answer, &data, &length) == 0;
    if (is_right)
        fuse_reply_buf(req, data, (size_t)length);
    return replied(req, answer, is_right);
}

int quick_write(fuse_req_t req, const char *buf, size_t size, off_t off,
                const struct fuse_file_info *fi)
{
    PyObject *answer =
        asked(WRITE, "(KLy#)", (unsigned long long)fi->fh, (long long)off, buf, (Py_ssize_t)size);
    if (answer == NULL)
        return 0;
    long written = PyLong_AsLong(answer);
    int is_right = written >= 0;
    if (is_right)
        fuse_reply_write(req, (size_t)written);
    return replied(req, answer, is_right);
}

/* What has no answer but that it is done. */
static int done(fuse_req_t req, PyObject *answer)
{
    if (answer == NULL)
        return 0;
    fuse_reply_err(req, 0);
    return replied(req, answer, 1);
}

int quick_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    return done(req, asked(UNLINK, "(Ky)", (unsigned long long)parent, name));
}

int quick_flush(fuse_req_t req, const struct fuse_file_info *fi)
{
    return done(req, asked(FLUSH, "(K)", (unsigned long long)fi->fh));
}

int quick_release(fuse_req_t req, const struct fuse_file_info *fi)
{
    return done(req, asked(RELEASE, "(K)", (unsigned long long)fi->fh));
}

int quick_opendir(fuse_req_t req, fuse_ino_t ino, const struct fuse_file_info *fi)
{
    PyObject *answer = asked(OPENDIR, "(K)", (unsigned long long)ino);
    if (answer == NULL)
        return 0;
    struct fuse_file_info told = *fi;
    told.fh = PyLong_AsUnsignedLongLong(answer);
    int is_right = !PyErr_Occurred();
    if (is_right)
        fuse_reply_open(req, &told);
    return replied(req, answer, is_right);
}

/* What fills the buffer from `used` on: (name, next offset, entry). -1 when it does not fit, which
 * was asked for in vain, or is of the wrong form. */
static Py_ssize_t add_name(fuse_req_t req, PyObject *item, char *buffer, size_t size, size_t used)
{
    const char *name;
    long long next;
    PyObject *told;
    struct fuse_entry_param entry;
    if (!PyArg_ParseTuple(item, "yLO!", &name, &next, &PyTuple_Type, &told) ||
        !parse_entry(told, &entry))
        return -1;
    /* A bare name: no lookup, hence no node; and without its own number programs would not see it. */
    if (entry.attr_timeout < 0) {
        entry.ino = 0;
        entry.entry_timeout = entry.attr_timeout = 0;
    }
    size_t length = fuse_add_direntry_plus(req, buffer + used, size - used, name, &entry, next);
    return length <= size - used ? (Py_ssize_t)length : -1;
}

int quick_readdirplus(fuse_req_t req, size_t size, off_t off, const struct fuse_file_info *fi)
{
    PyObject *answer =
        asked(READDIR, "(KLn)", (unsigned long long)fi->fh, (long long)off, (Py_ssize_t)size);
    if (answer == NULL)
        return 0;
    char *buffer = malloc(size);
    size_t used = 0;
    int is_right = buffer != NULL && PyList_Check(answer);
    for (Py_ssize_t i = 0; is_right && i < PyList_GET_SIZE(answer); i++) {
        Py_ssize_t length = add_name(req, PyList_GET_ITEM(answer, i), buffer, size, used);
        is_right = length >= 0;
        used += is_right ? (size_t)length : 0;
    }
    if (is_right)
        fuse_reply_buf(req, buffer, used);
    free(buffer);
    return replied(req, answer, is_right);
}

int quick_releasedir(fuse_req_t req, const struct fuse_file_info *fi)
{
    return done(req, asked(RELEASEDIR, "(K)", (unsigned long long)fi->fh));
}

PyObject *quick_configure(PyObject *self, PyObject *given)
{
    (void)self;
    if (!PyDict_Check(given))
        return PyErr_Format(PyExc_TypeError, "handlers are a dict");
    for (int i = 0; i < OPERATIONS; i++) {
        PyObject *handler = PyDict_GetItemString(given, names[i]);
        Py_XINCREF(handler);
        Py_XSETREF(handlers[i], handler);
    }
    Py_RETURN_NONE;
}
