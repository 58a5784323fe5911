/* Programs for test_interrupts.py.
 *
 *   signals busy SIGNAL ROUNDS   work in the current directory while SIGNAL, which has a handler,
 *                                comes every half a millisecond; prints for each call that failed
 *                                its name, how often, and the last errno, then "done" and the
 *                                number of signals
 *   signals crowd COUNT          prints "ready" and waits for a byte; then that many processes each
 *                                stat a name of their own; prints "started", and in the end how many
 *                                of them ended by SIGINT, which this process ignores
 *   signals storm COUNT          that many processes ask for one missing name after the other until
 *                                they are killed; prints "started"
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t arrived;

static void count(int number)
{
    (void)number;
    arrived++;
}

enum { MOST_CALLS = 32 };

static struct {
    const char *name;
    long failures;
    int last_errno;
} calls[MOST_CALLS];

static long checked(const char *name, long result)
{
    int number = errno, i;

    if (result >= 0)
        return result;
    for (i = 0; calls[i].name && strcmp(calls[i].name, name); i++)
        ;
    calls[i].name = name;
    calls[i].failures++;
    calls[i].last_errno = number;
    return result;
}

static void work(int round)
{
    char name[32], other[32], data[5000];
    struct stat found;
    int fd;

    snprintf(name, sizeof name, "file-%d", round);
    snprintf(other, sizeof other, "renamed-%d", round);
    memset(data, 'x', sizeof data);
    checked("mkdir", mkdir("directory", 0755));
    checked("rmdir", rmdir("directory"));
    fd = checked("create", open(name, O_CREAT | O_EXCL | O_RDWR, 0644));
    checked("write", write(fd, data, sizeof data));
    checked("fstat", fstat(fd, &found));
    checked("fsync", fsync(fd));
    checked("pread", pread(fd, data, sizeof data, 100));
    checked("close", close(fd));
    checked("stat", stat(name, &found));
    checked("chmod", chmod(name, 0600));
    checked("rename", rename(name, other));
    fd = checked("open", open(other, O_RDONLY));
    checked("read", read(fd, data, sizeof data));
    checked("close", close(fd));
    checked("truncate", truncate(other, 10));
    checked("symlink", symlink(other, name));
    checked("readlink", readlink(name, data, sizeof data));
    checked("unlink", unlink(name));
    checked("unlink", unlink(other));
}

static int busy(int number, int rounds)
{
    struct sigaction action = {.sa_handler = count}; /* without SA_RESTART */
    pid_t sender;
    int i;

    sigaction(number, &action, NULL);
    sender = fork();
    if (sender == 0) {
        while (kill(getppid(), number) == 0)
            usleep(500);
        _exit(0);
    }
    for (i = 0; i < rounds; i++)
        work(i);
    kill(sender, SIGKILL);
    while (waitpid(sender, NULL, 0) < 0 && errno == EINTR)
        ;
    for (i = 0; calls[i].name; i++)
        printf("%s %ld %s\n", calls[i].name, calls[i].failures, strerror(calls[i].last_errno));
    printf("done %d\n", (int)arrived);
    return 0;
}

static int crowd(int size)
{
    char name[32];
    struct stat found;
    int i, status, ended = 0;

    puts("ready");
    fflush(stdout);
    getchar();
    for (i = 0; i < size; i++) {
        if (fork() == 0) {
            snprintf(name, sizeof name, "name-%d", i);
            stat(name, &found);
            _exit(1);
        }
    }
    signal(SIGINT, SIG_IGN);
    puts("started");
    fflush(stdout);
    while (wait(&status) > 0)
        ended += WIFSIGNALED(status) && WTERMSIG(status) == SIGINT;
    printf("%d\n", ended);
    return 0;
}

static _Noreturn void storm(int size)
{
    char name[64];
    struct stat found;
    int i, number;

    for (i = 1; i < size && fork() != 0; i++)
        ;
    if (i == size) {
        puts("started");
        fflush(stdout);
    }
    for (number = 0;; number++) {
        snprintf(name, sizeof name, "missing-%d-%d", (int)getpid(), number);
        stat(name, &found);
    }
}

int main(int count, char **arguments)
{
    if (count == 4 && !strcmp(arguments[1], "busy"))
        return busy(atoi(arguments[2]), atoi(arguments[3]));
    if (count == 3 && !strcmp(arguments[1], "crowd"))
        return crowd(atoi(arguments[2]));
    if (count == 3 && !strcmp(arguments[1], "storm"))
        storm(atoi(arguments[2]));
    return 2;
}
