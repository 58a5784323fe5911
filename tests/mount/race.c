/* A program for test_interrupt_races.py.
 *
 *   race CALLS SEED   Works in the current directory until CALLS calls have succeeded, while SIGINT,
 *                     which has a handler and does not restart calls, comes at random moments. Every
 *                     call that fails with EINTR is repeated; one that changes names may have been
 *                     carried out all the same, and then its repetition may say EEXIST or ENOENT.
 *                     The kernel may believe for a moment that a name is absent that such a call
 *                     made; nothing else may be out of date.
 *                     Ends with status 1 and a line for the first result that is wrong; else prints
 *                     how many calls succeeded, how many were interrupted, and how many of those
 *                     turned out to have been carried out.
 *
 * It expects the files stays-0 to stays-7 with the content that `fill` gives them, and leaves files
 * kept-N with it.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { STAYING = 8, LARGEST = 300 * 1024, KEPT_EVERY = 8, PAUSE = 1500 /* microseconds */ };
enum { LONGEST_ABSENCE = 2000 /* milliseconds; more than -o negative_timeout */ };

static volatile sig_atomic_t arrived;
static long succeeded, interrupted, carried_out;
static int again;
static pid_t sender;
static unsigned char content[LARGEST], seen[LARGEST + 1];

static void count(int number)
{
    (void)number;
    arrived++;
}

static _Noreturn void wrong(const char *format, ...)
{
    int number = errno;
    va_list arguments;

    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf(": %s\n", strerror(number));
    fflush(stdout);
    kill(sender, SIGKILL);
    _exit(1);
}

/* Repeats a call until it is not interrupted; `again` tells whether it was. */
#define REPEATED(result, call)                            \
    do {                                                  \
        again = 0;                                        \
        while (((result) = (call)) < 0 && errno == EINTR) \
            again = 1, interrupted++;                     \
        succeeded += (result) >= 0;                       \
    } while (0)

static long must(const char *what, const char *name, long result)
{
    if (result < 0)
        wrong("%s %s", what, name);
    return result;
}

/* For a call that changes names: that it says so counts as success if it had been interrupted. */
static void done(const char *what, const char *name, long result, int said)
{
    if (result < 0 && again && errno == said)
        carried_out++, succeeded++;
    else
        must(what, name, result);
}

static size_t size_of(int number)
{
    return 1 + (size_t)number * 7919 % LARGEST / (number % 16 ? 40 : 1);
}

static void fill(int number)
{
    for (size_t i = 0; i < size_of(number); i++)
        content[i] = (unsigned char)(number * 31 + i * 7 + (i >> 8));
}

static void is_file(const char *name, off_t size)
{
    struct stat found;
    long result;

    REPEATED(result, stat(name, &found));
    must("stat", name, result);
    if (!S_ISREG(found.st_mode) || found.st_size != size)
        wrong("%s is of mode %o, size %ld, not %ld", name, found.st_mode, (long)found.st_size,
              (long)size);
}

static void is_absent(const char *name)
{
    struct stat found;
    long result;

    REPEATED(result, stat(name, &found));
    if (result == 0 || errno != ENOENT)
        wrong("%s is not absent (mode %o)", name, result == 0 ? found.st_mode : 0);
    succeeded++;
}

/* Unlike is_file, for a name that an interrupted call has made. */
static void appears(const char *name)
{
    struct stat found;
    int waited;

    for (waited = 0; stat(name, &found) < 0; waited++) {
        if ((errno != EINTR && errno != ENOENT) || waited > LONGEST_ABSENCE)
            wrong("%s does not appear", name);
        usleep(1000);
    }
}

static void close_it(int fd)
{
    if (close(fd) < 0) { /* the descriptor is gone all the same */
        if (errno != EINTR)
            wrong("close");
        interrupted++;
    } else {
        succeeded++;
    }
}

static void has_content(const char *name, int number)
{
    size_t size = size_of(number), at = 0;
    long result;
    int fd;

    fill(number);
    REPEATED(fd, open(name, O_RDONLY));
    must("open", name, fd);
    do {
        REPEATED(result, read(fd, seen + at, sizeof seen - at));
        at += must("read", name, result);
    } while (result > 0);
    close_it(fd);
    if (at != size || memcmp(seen, content, size))
        wrong("%s has %zu bytes, not %zu, or other ones", name, at, size);
}

static void make(const char *name, int number)
{
    size_t size = size_of(number), at = 0;
    long result;
    int fd;

    REPEATED(fd, open(name, O_CREAT | O_EXCL | O_WRONLY, 0644));
    if (fd < 0 && again && errno == EEXIST) {
        carried_out++;
        REPEATED(fd, open(name, O_WRONLY | O_TRUNC));
    }
    must("create", name, fd);
    fill(number);
    while (at < size) {
        REPEATED(result, write(fd, content + at, size - at));
        at += must("write", name, result);
    }
    if (number % 3 == 0) {
        REPEATED(result, fsync(fd));
        must("fsync", name, result);
    }
    close_it(fd);
}

static void directory(const char *name)
{
    struct stat found;
    long result;

    REPEATED(result, mkdir(name, 0755));
    done("mkdir", name, result, EEXIST);
    REPEATED(result, stat(name, &found));
    if (must("stat", name, result) || !S_ISDIR(found.st_mode))
        wrong("%s is of mode %o", name, found.st_mode);
    REPEATED(result, rmdir(name));
    done("rmdir", name, result, ENOENT);
    is_absent(name);
}

static void listing(void)
{
    int found[STAYING];
    struct dirent *entry;
    DIR *opened;

    do {
        memset(found, 0, sizeof found);
        again = 0;
        while ((opened = opendir(".")) == NULL && errno == EINTR)
            interrupted++;
        if (opened == NULL)
            wrong("opendir");
        while ((errno = 0, entry = readdir(opened)) != NULL)
            if (!strncmp(entry->d_name, "stays-", 6))
                found[atoi(entry->d_name + 6)]++;
        if (errno == EINTR)
            interrupted++, again = 1;
        else if (errno)
            wrong("readdir");
        closedir(opened);
    } while (again);
    for (int i = 0; i < STAYING; i++)
        if (found[i] != 1)
            wrong("stays-%d was listed %d times", i, found[i]);
    succeeded += 2;
}

static void work(int round)
{
    char name[32], other[32];
    long result;

    snprintf(name, sizeof name, "stays-%d", round % STAYING);
    is_file(name, size_of(round % STAYING));
    has_content(name, round % STAYING);
    snprintf(name, sizeof name, "directory-%d", round % 4);
    directory(name);
    snprintf(name, sizeof name, "made-%d", round);
    snprintf(other, sizeof other, "kept-%d", round);
    make(name, round);
    is_file(name, size_of(round));
    has_content(name, round);
    REPEATED(result, rename(name, other));
    done("rename", name, result, ENOENT);
    if (result < 0)
        appears(other);
    is_absent(name);
    is_file(other, size_of(round));
    if (round % KEPT_EVERY) {
        REPEATED(result, unlink(other));
        done("unlink", other, result, ENOENT);
        is_absent(other);
    }
    if (round % 20 == 0)
        listing();
}

static _Noreturn void send(unsigned seed)
{
    srandom(seed);
    while (kill(getppid(), SIGINT) == 0)
        usleep(random() % PAUSE);
    _exit(0);
}

int main(int arguments, char **argument)
{
    struct sigaction action = {.sa_handler = count}; /* without SA_RESTART */
    int round;

    if (arguments != 3)
        return 2;
    sigaction(SIGINT, &action, NULL);
    sender = fork();
    if (sender == 0) {
        signal(SIGINT, SIG_DFL);
        send(atoi(argument[2]));
    }
    for (round = 0; succeeded < atol(argument[1]); round++)
        work(round);
    kill(sender, SIGKILL);
    while (waitpid(sender, NULL, 0) < 0 && errno == EINTR)
        ;
    printf("%ld %ld %ld %d\n", succeeded, interrupted, carried_out, (int)arrived);
    return 0;
}
