/*
 * Between libfuse and pyfuse3: interrupts, and what pyfuse3 cannot set.
 *
 * This extension defines fuse_session_new (and, for libfuse 3.17 and later,
 * fuse_session_new_versioned). Loaded with RTLD_GLOBAL before pyfuse3, its definitions are the ones
 * that pyfuse3 calls. It hands libfuse a copy of pyfuse3's operation table in which every operation
 * that can wait first notes what it is ("the current request") and registers an interrupt callback,
 * then calls pyfuse3's own. pyfuse3 makes the handler's coroutine inside that call and awaits it
 * right after, in the same task; so `current()` in the handler's first statement is this request.
 * fuse_session_mount, fuse_session_receive_buf, fuse_session_process_buf, fuse_add_direntry_plus and
 * fuse_reply_open are defined likewise, for what is said there. What needs no waiting is answered
 * before all that, by `_quick.c`.
 *
 * Everything runs in the one thread that holds the GIL while pyfuse3 processes a request. The
 * interrupt callback is called with libfuse's request lock held: it may cancel, it must not reply.
 */
#include "_quick.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

struct request {
    uint64_t serial;
    const char *operation;
    uint64_t ino;
    unsigned detail; /* setattr: the to_set mask; write: 1 when it comes from the page cache */
    pid_t pid;       /* the calling thread's id; 0 when the kernel acts for nobody */
    uid_t uid;
};

static struct request current_request;
static uint64_t last_serial;
static PyObject *interrupt_callback;
static PyObject *mount_options; /* tuple of bytes */
static struct fuse_lowlevel_ops pyfuse3_ops;
static struct fuse_lowlevel_ops wrapped_ops;

static struct {
    unsigned max_background;
    unsigned congestion_threshold;
} wanted = {512, 384};

static struct {
    int seen;
    unsigned proto_major, proto_minor, max_write, max_readahead, max_background,
        congestion_threshold, capable, want;
    int parallel_dirops;
} negotiated;

/* ---- requests ------------------------------------------------------------------------------ */

static void on_interrupt(fuse_req_t req, void *data)
{
    (void)req;
    PyGILState_STATE state = PyGILState_Ensure();
    if (interrupt_callback != NULL) {
        PyObject *result =
            PyObject_CallFunction(interrupt_callback, "K", (unsigned long long)(uintptr_t)data);
        if (result == NULL)
            PyErr_WriteUnraisable(interrupt_callback);
        Py_XDECREF(result);
    }
    PyGILState_Release(state);
}

static void begin(fuse_req_t req, const char *operation, fuse_ino_t ino, unsigned detail)
{
    const struct fuse_ctx *ctx = fuse_req_ctx(req);
    current_request.serial = ++last_serial;
    current_request.operation = operation;
    current_request.ino = ino;
    current_request.detail = detail;
    current_request.pid = ctx->pid;
    current_request.uid = ctx->uid;
    /* An INTERRUPT that was read before its request makes this call back at once. */
    fuse_req_interrupt_func(req, on_interrupt, (void *)(uintptr_t)current_request.serial);
}

#define WRAP_UNLESS(quick, name, ino, detail, parameters, arguments) \
    static void wrapped_##name parameters                            \
    {                                                                \
        if (quick)                                                   \
            return;                                                  \
        begin(req, #name, ino, detail);                              \
        pyfuse3_ops.name arguments;                                  \
    }
#define WRAP(name, ino, detail, parameters, arguments) \
    WRAP_UNLESS(0, name, ino, detail, parameters, arguments)

WRAP_UNLESS(quick_lookup(req, parent, name), lookup, parent, 0, (fuse_req_t req, fuse_ino_t parent, const char *name), (req, parent, name))
WRAP_UNLESS(quick_getattr(req, ino), getattr, ino, 0, (fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi), (req, ino, fi))
WRAP_UNLESS(quick_setattr(req, ino, attr, to_set, fi), setattr, ino, (unsigned)to_set,
     (fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi),
     (req, ino, attr, to_set, fi))
WRAP(readlink, ino, 0, (fuse_req_t req, fuse_ino_t ino), (req, ino))
WRAP(mknod, parent, 0, (fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev),
     (req, parent, name, mode, rdev))
WRAP(mkdir, parent, 0, (fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode),
     (req, parent, name, mode))
WRAP_UNLESS(quick_unlink(req, parent, name), unlink, parent, 0, (fuse_req_t req, fuse_ino_t parent, const char *name), (req, parent, name))
WRAP(rmdir, parent, 0, (fuse_req_t req, fuse_ino_t parent, const char *name), (req, parent, name))
WRAP(symlink, parent, 0,
     (fuse_req_t req, const char *link, fuse_ino_t parent, const char *name),
     (req, link, parent, name))
WRAP(rename, parent, flags,
     (fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent,
      const char *newname, unsigned int flags),
     (req, parent, name, newparent, newname, flags))
WRAP(link, ino, 0, (fuse_req_t req, fuse_ino_t ino, fuse_ino_t newparent, const char *newname),
     (req, ino, newparent, newname))
WRAP_UNLESS(quick_open(req, ino, fi), open, ino, 0, (fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi), (req, ino, fi))
WRAP_UNLESS(quick_read(req, size, off, fi), read, ino, 0,
     (fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi),
     (req, ino, size, off, fi))
WRAP_UNLESS(quick_write(req, buf, size, off, fi), write, ino, fi->writepage ? 1 : 0,
     (fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
      struct fuse_file_info *fi),
     (req, ino, buf, size, off, fi))
WRAP_UNLESS(quick_flush(req, fi), flush, ino, 0, (fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi), (req, ino, fi))
WRAP_UNLESS(quick_release(req, fi), release, ino, 0, (fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi), (req, ino, fi))
WRAP(fsync, ino, 0, (fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi),
     (req, ino, datasync, fi))
WRAP_UNLESS(quick_opendir(req, ino, fi), opendir, ino, 0, (fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi), (req, ino, fi))
WRAP_UNLESS(quick_readdirplus(req, size, off, fi), readdirplus, ino, 0,
     (fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi),
     (req, ino, size, off, fi))
WRAP_UNLESS(quick_releasedir(req, fi), releasedir, ino, 0, (fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi),
     (req, ino, fi))
WRAP(fsyncdir, ino, 0, (fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi),
     (req, ino, datasync, fi))
WRAP(statfs, ino, 0, (fuse_req_t req, fuse_ino_t ino), (req, ino))
WRAP(access, ino, 0, (fuse_req_t req, fuse_ino_t ino, int mask), (req, ino, mask))
WRAP_UNLESS(quick_create(req, parent, name, mode, fi), create, parent, 0,
     (fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi),
     (req, parent, name, mode, fi))

/* pyfuse3 has no handler for this one. Its handler for writes has all that is needed: it makes a
 * coroutine from a file, an offset and bytes, awaits it like every other, and answers with a count.
 * So the copy goes there, with the source as the bytes; `current()` tells the two apart. */
struct copy_source {
    uint64_t fh, offset, length;
};

static void wrapped_copy_file_range(fuse_req_t req, fuse_ino_t ino_in, off_t off_in,
                                    struct fuse_file_info *fi_in, fuse_ino_t ino_out,
                                    off_t off_out, struct fuse_file_info *fi_out, size_t len,
                                    int flags)
{
    (void)ino_in;
    if (flags != 0) { /* none is defined */
        fuse_reply_err(req, EINVAL);
        return;
    }
    struct copy_source source = {fi_in->fh, (uint64_t)off_in, len};
    begin(req, "copy_file_range", ino_out, 0);
    pyfuse3_ops.write(req, ino_out, (const char *)&source, sizeof source, off_out, fi_out);
}

/* ---- INIT ---------------------------------------------------------------------------------- */

/* FUSE_PARALLEL_DIROPS in the INIT reply (linux/fuse.h). libfuse before 3.16.2 asks for it and then
 * leaves it out of the reply (libfuse issue 861), so that the kernel serialises all lookups in a
 * directory on a lock that no signal interrupts. */
#define INIT_PARALLEL_DIROPS (1U << 18)
static int correct_init_reply;
static int device = -1; /* the session's /dev/fuse */
static struct fuse_session *session;

static void wrapped_init(void *userdata, struct fuse_conn_info *conn)
{
    pyfuse3_ops.init(userdata, conn);
    conn->max_background = wanted.max_background;
    conn->congestion_threshold = wanted.congestion_threshold;
    /* Given as a mount option, libfuse wants to hear it from init, too, and ends otherwise. */
    for (Py_ssize_t i = 0; mount_options != NULL && i < PyTuple_GET_SIZE(mount_options); i++) {
        const char *option = PyBytes_AS_STRING(PyTuple_GET_ITEM(mount_options, i));
        if (strncmp(option, "max_read=", 9) == 0)
            conn->max_read = (unsigned)strtoul(option + 9, NULL, 10);
    }
    /* With ASYNC_READ, who reads waits for pages, and the kernel sends no word of a handled signal;
     * with ASYNC_DIO, who reads or writes with O_DIRECT waits so that not even SIGKILL reaches him.
     * Without, they wait for their requests. Several READs in flight is what read-ahead is for. */
    conn->want &= ~(unsigned)(FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO);
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 10)
    /* What a link's text may be depends on where the link lies: vfs/readlink.py is asked each time. */
    conn->want &= ~(unsigned)FUSE_CAP_CACHE_SYMLINKS;
#endif
    if (fuse_version() <= 316 && (conn->capable & FUSE_CAP_PARALLEL_DIROPS))
        correct_init_reply = 1;
    negotiated.seen = 1;
    negotiated.proto_major = conn->proto_major;
    negotiated.proto_minor = conn->proto_minor;
    negotiated.max_write = conn->max_write;
    negotiated.max_readahead = conn->max_readahead;
    negotiated.max_background = conn->max_background;
    negotiated.congestion_threshold = conn->congestion_threshold;
    negotiated.capable = conn->capable;
    negotiated.want = conn->want;
    negotiated.parallel_dirops =
        fuse_version() > 316 && (conn->want & FUSE_CAP_PARALLEL_DIROPS) != 0;
}

#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 13)
static ssize_t reply_writev(int fd, struct iovec *iov, int count, void *userdata)
{
    (void)userdata;
    /* Header (16 bytes), then fuse_init_out: major, minor, max_readahead, flags. */
    if (correct_init_reply && count >= 2 && iov[1].iov_len >= 16) {
        uint32_t flags;
        memcpy(&flags, (char *)iov[1].iov_base + 12, sizeof flags);
        flags |= INIT_PARALLEL_DIROPS;
        memcpy((char *)iov[1].iov_base + 12, &flags, sizeof flags);
        correct_init_reply = 0;
        negotiated.parallel_dirops = 1;
    }
    return writev(fd, iov, count);
}

static ssize_t request_read(int fd, void *buf, size_t size, void *userdata)
{
    (void)userdata;
    return read(fd, buf, size);
}

static const struct fuse_custom_io plain_io = {.writev = reply_writev, .read = request_read};
#endif

/* ---- the functions that pyfuse3 calls ------------------------------------------------------- */

static void *next_symbol(const char *name)
{
    void *symbol = dlsym(RTLD_NEXT, name);
    if (symbol == NULL) {
        fprintf(stderr, "pysshfs: libfuse3 has no %s\n", name);
        abort();
    }
    return symbol;
}

#define TAKE(name)                \
    if (wrapped_ops.name != NULL) \
    wrapped_ops.name = wrapped_##name

static const struct fuse_lowlevel_ops *wrap(const struct fuse_lowlevel_ops *op, size_t size)
{
    memset(&pyfuse3_ops, 0, sizeof pyfuse3_ops);
    memcpy(&pyfuse3_ops, op, size < sizeof pyfuse3_ops ? size : sizeof pyfuse3_ops);
    wrapped_ops = pyfuse3_ops;
    TAKE(init); TAKE(lookup); TAKE(getattr); TAKE(setattr); TAKE(readlink); TAKE(mknod);
    TAKE(mkdir); TAKE(unlink); TAKE(rmdir); TAKE(symlink); TAKE(rename); TAKE(link); TAKE(open);
    TAKE(read); TAKE(write); TAKE(flush); TAKE(release); TAKE(fsync); TAKE(opendir);
    TAKE(readdirplus); TAKE(releasedir); TAKE(fsyncdir); TAKE(statfs); TAKE(access);
    TAKE(create);
    wrapped_ops.copy_file_range = wrapped_copy_file_range;
    /* SFTP carries no extended attributes: with no operation libfuse answers ENOSYS and the kernel
     * asks once only. poll likewise. write_buf would add a pipe between the kernel and us. */
    wrapped_ops.setxattr = NULL;
    wrapped_ops.getxattr = NULL;
    wrapped_ops.listxattr = NULL;
    wrapped_ops.removexattr = NULL;
    wrapped_ops.poll = NULL;
    wrapped_ops.write_buf = NULL;
    return &wrapped_ops;
}

typedef struct fuse_session *(*new_function)(struct fuse_args *, const struct fuse_lowlevel_ops *,
                                             size_t, void *);
typedef struct fuse_session *(*new_versioned_function)(struct fuse_args *,
                                                       const struct fuse_lowlevel_ops *, size_t,
                                                       void *, void *);
typedef int (*mount_function)(struct fuse_session *, const char *);
typedef int (*receive_function)(struct fuse_session *, struct fuse_buf *);
typedef void (*process_function)(struct fuse_session *, const struct fuse_buf *);
typedef int (*reply_open_function)(fuse_req_t, const struct fuse_file_info *);
typedef size_t (*add_direntry_function)(fuse_req_t, char *, size_t, const char *,
                                        const struct fuse_entry_param *, off_t);

/* The C names differ from the symbols: the headers of libfuse 3.17 make fuse_session_new a macro. */
EXPORT struct fuse_session *exported_new(struct fuse_args *args,
                                         const struct fuse_lowlevel_ops *op, size_t op_size,
                                         void *userdata) __asm__("fuse_session_new");
EXPORT struct fuse_session *exported_new_versioned(struct fuse_args *args,
                                                   const struct fuse_lowlevel_ops *op,
                                                   size_t op_size, void *version, void *userdata)
    __asm__("fuse_session_new_versioned");
EXPORT int exported_mount(struct fuse_session *se, const char *mountpoint)
    __asm__("fuse_session_mount");
EXPORT int exported_receive_buf(struct fuse_session *se, struct fuse_buf *buf)
    __asm__("fuse_session_receive_buf");
EXPORT void exported_process_buf(struct fuse_session *se, const struct fuse_buf *buf)
    __asm__("fuse_session_process_buf");
EXPORT int exported_reply_open(fuse_req_t req, const struct fuse_file_info *fi)
    __asm__("fuse_reply_open");
EXPORT size_t exported_add_direntry_plus(fuse_req_t req, char *buf, size_t size, const char *name,
                                         const struct fuse_entry_param *entry, off_t next)
    __asm__("fuse_add_direntry_plus");

/* pyfuse3 takes ASCII only for mount options; a source may hold any bytes. */
static void add_mount_options(struct fuse_args *args)
{
    Py_ssize_t count = mount_options != NULL ? PyTuple_GET_SIZE(mount_options) : 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        fuse_opt_add_arg(args, "-o");
        fuse_opt_add_arg(args, PyBytes_AS_STRING(PyTuple_GET_ITEM(mount_options, i)));
    }
}

struct fuse_session *exported_new(struct fuse_args *args, const struct fuse_lowlevel_ops *op,
                                  size_t op_size, void *userdata)
{
    add_mount_options(args);
    new_function real = (new_function)next_symbol("fuse_session_new");
    return real(args, wrap(op, op_size), sizeof wrapped_ops, userdata);
}

struct fuse_session *exported_new_versioned(struct fuse_args *args,
                                            const struct fuse_lowlevel_ops *op, size_t op_size,
                                            void *version, void *userdata)
{
    new_versioned_function real =
        (new_versioned_function)next_symbol("fuse_session_new_versioned");
    add_mount_options(args);
    return real(args, wrap(op, op_size), sizeof wrapped_ops, version, userdata);
}

int exported_mount(struct fuse_session *se, const char *mountpoint)
{
    mount_function real = (mount_function)next_symbol("fuse_session_mount");
    int result = real(se, mountpoint);
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 13)
    if (result == 0 && fuse_version() <= 316)
        result = fuse_session_custom_io(se, &plain_io, fuse_session_fd(se));
#endif
    if (result == 0) {
        int fd = device = fuse_session_fd(se);
        session = se;
        int flags = fcntl(fd, F_GETFL);
        if (flags == -1 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) == -1)
            perror("pysshfs: /dev/fuse");
    }
    return result;
}

/* The request that made the device readable can be gone when it is read: its program was killed, or
 * an INTERRUPT was overtaken by the reply. A read that waited then would stop the whole daemon until
 * the next request. pyfuse3 repeats for EINTR, and only for that.
 *
 * A connection that ends while the kernel hands a request over gives ECONNABORTED (fuse_dev_do_read in
 * fs/fuse/dev.c), once; it means what ENODEV does, for which libfuse ends the session like this. */
int exported_receive_buf(struct fuse_session *se, struct fuse_buf *buf)
{
    static receive_function real;
    if (real == NULL)
        real = (receive_function)next_symbol("fuse_session_receive_buf");
    int result = real(se, buf);
    if (result == -ECONNABORTED) {
        fuse_session_exit(se);
        return 0;
    }
    return result == -EAGAIN ? -EINTR : result;
}

/* Behind a request that was answered on the spot the next one is there already (the RELEASE of one
 * file, the OPEN of the next), or comes in a moment, when the program that has its answer goes on. So
 * the device is looked at again and again for that long, which is less than a turn of trio's takes;
 * to sleep for it would take longer by as much as it takes to be woken. Not without end: whatever else
 * the daemon has to do waits meanwhile. */
#define MOST_AT_ONCE 32
#define MOMENT 40000 /* nanoseconds */

static int next_request(receive_function receive, struct fuse_session *se, struct fuse_buf *buf)
{
    struct timespec began, now;
    clock_gettime(CLOCK_MONOTONIC, &began);
    for (;;) {
        int received = receive(se, buf);
        clock_gettime(CLOCK_MONOTONIC, &now);
        long passed = (now.tv_sec - began.tv_sec) * 1000000000L + now.tv_nsec - began.tv_nsec;
        if (received != -EAGAIN || passed > MOMENT)
            return received;
    }
}

void exported_process_buf(struct fuse_session *se, const struct fuse_buf *buf)
{
    static process_function real;
    static receive_function receive;
    if (real == NULL) {
        real = (process_function)next_symbol("fuse_session_process_buf");
        receive = (receive_function)next_symbol("fuse_session_receive_buf");
    }
    for (int left = MOST_AT_ONCE; left > 0; left--) {
        quick_answered = 0;
        real(se, buf);
        /* The buffer is its caller's, who has it filled the same way. */
        if (!quick_answered || left == 1 || next_request(receive, se, (struct fuse_buf *)buf) <= 0)
            return;
    }
}

/* Who has a file open for reading only has nothing to deliver when it closes it: one request less for
 * each file that is read. (A directory's reply comes here, too; the kernel sends no FLUSH for one.) */
int exported_reply_open(fuse_req_t req, const struct fuse_file_info *fi)
{
    static reply_open_function real;
    if (real == NULL)
        real = (reply_open_function)next_symbol("fuse_reply_open");
    struct fuse_file_info told = *fi;
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 11)
    if ((fi->flags & O_ACCMODE) == O_RDONLY)
        told.noflush = 1;
#endif
    return real(req, &told);
}

/* A name that is no lookup has no node, and pyfuse3 has one field for that and for the number that
 * programs see. So it is marked by its generation, which the kernel does not look at then. */
#define BARE UINT64_MAX

size_t exported_add_direntry_plus(fuse_req_t req, char *buf, size_t size, const char *name,
                                  const struct fuse_entry_param *entry, off_t next)
{
    static add_direntry_function real;
    if (real == NULL)
        real = (add_direntry_function)next_symbol("fuse_add_direntry_plus");
    if (entry->generation != BARE)
        return real(req, buf, size, name, entry, next);
    struct fuse_entry_param bare = *entry;
    bare.generation = 0;
    bare.ino = 0; /* its attr.st_ino stays */
    return real(req, buf, size, name, &bare, next);
}

/* ---- the module ----------------------------------------------------------------------------- */

static PyObject *py_current(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    return Py_BuildValue("KsKIiI", (unsigned long long)current_request.serial,
                         current_request.operation ? current_request.operation : "",
                         (unsigned long long)current_request.ino, current_request.detail,
                         (int)current_request.pid, (unsigned)current_request.uid);
}

static PyObject *py_configure(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *callback, *options;
    unsigned background, congestion;
    if (!PyArg_ParseTuple(args, "OO!II", &callback, &PyTuple_Type, &options, &background,
                          &congestion))
        return NULL;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(options); i++)
        if (!PyBytes_Check(PyTuple_GET_ITEM(options, i)))
            return PyErr_Format(PyExc_TypeError, "mount options are bytes");
    Py_INCREF(options);
    Py_XSETREF(mount_options, options);
    Py_INCREF(callback);
    Py_XSETREF(interrupt_callback, callback);
    wanted.max_background = background;
    wanted.congestion_threshold = congestion;
    Py_RETURN_NONE;
}

static PyObject *py_negotiated(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    return Py_BuildValue(
        "{s:I,s:I,s:I,s:I,s:I,s:I,s:O,s:O}", "protocol_major", negotiated.proto_major,
        "protocol_minor", negotiated.proto_minor, "max_write", negotiated.max_write,
        "max_readahead", negotiated.max_readahead, "max_background", negotiated.max_background,
        "congestion_threshold", negotiated.congestion_threshold, "parallel_dirops",
        negotiated.parallel_dirops ? Py_True : Py_False, "async_read",
        (negotiated.want & FUSE_CAP_ASYNC_READ) ? Py_True : Py_False);
}

static PyObject *py_device(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    return PyLong_FromLong(device);
}

/* pyfuse3 has no call for this one. An entry that has expired is asked for again; one that is
 * invalidated, which pyfuse3 can, takes what is mounted on it along. Since libfuse 3.13, and later
 * without the last argument, which does no harm. Takes the directory's lock, which a call of a
 * program may hold that waits for us: never from the thread that serves. */
#define EXPIRE_ONLY 1

typedef int (*expire_function)(struct fuse_session *, fuse_ino_t, const char *, size_t, int);

static PyObject *py_expire_entry(PyObject *self, PyObject *args)
{
    (void)self;
    unsigned long long parent;
    const char *name;
    Py_ssize_t length;
    if (!PyArg_ParseTuple(args, "Ky#", &parent, &name, &length))
        return NULL;
    expire_function expire =
        (expire_function)dlsym(RTLD_DEFAULT, "fuse_lowlevel_notify_expire_entry");
    int result = -ENOSYS;
    if (expire != NULL && session != NULL) {
        Py_BEGIN_ALLOW_THREADS
        result = expire(session, parent, name, (size_t)length, EXPIRE_ONLY);
        Py_END_ALLOW_THREADS
    }
    return PyLong_FromLong(-result);
}

static PyMethodDef methods[] = {
    {"current", py_current, METH_NOARGS,
     "(serial, operation, inode, detail, thread id, uid) of the request being started."},
    {"configure", py_configure, METH_VARARGS,
     "configure(callback, options, max_background, congestion_threshold), before init()."},
    {"answer_quickly", quick_configure, METH_O,
     "answer_quickly({operation: handler}): who is asked first, see `_quick.c`."},
    {"device", py_device, METH_NOARGS, "The descriptor of the session's /dev/fuse; -1 before init()."},
    {"expire_entry", py_expire_entry, METH_VARARGS,
     "expire_entry(directory, name): the kernel is to ask for the name again; an errno, or 0."},
    {"negotiated", py_negotiated, METH_NOARGS, "What INIT settled with the kernel."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "pysshfs.fuse._session",
    .m_doc = "Interrupts and connection settings between libfuse and pyfuse3.",
    .m_size = -1,
    .m_methods = methods,
};

/* Each worker of pyfuse3 has a buffer for the largest request, of which it touches the first page
 * most of the time. From the heap, where glibc takes them once it has seen one freed, a thousand of
 * them lie somewhere else whenever many requests were blocked, and each time other pages stay touched:
 * memory grew by 3 MiB for each thousand interrupted calls. Mapped, they go back whole. What programs
 * write, a little less, is better taken from the heap, and the heap's end kept. */
#define WORKER_BUFFERS (1024 * 1024 + 2048)
#define KEPT_AT_THE_END (16 * 1024 * 1024)

PyMODINIT_FUNC PyInit__session(void)
{
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, WORKER_BUFFERS);
    mallopt(M_TRIM_THRESHOLD, KEPT_AT_THE_END);
#endif
    return PyModule_Create(&module);
}
