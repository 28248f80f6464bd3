/* Minimum cost of reading the files of many cgroups: only the system calls, with one buffer
 * whose contents are ignored.
 *
 *     floor open|keep ROUNDS <DIRECTORIES
 *
 * Each input line is a directory and the names of files in it, separated by spaces. The
 * directories stay open. In each round, every file is either opened below its directory,
 * read and closed (open), or read through a descriptor that stays open (keep). Prints the
 * CPU nanoseconds and the number of files per round.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

struct file {
    int dir, keep_fd;
    const char *name;
};

static struct file *files;
static size_t count, capacity;
static char buffer[1 << 16];

static void add(int dir, const char *name, int keep)
{
    if (count == capacity) {
        capacity = capacity ? capacity * 2 : 1024;
        files = realloc(files, capacity * sizeof *files);
        if (!files)
            err(1, "files");
    }
    int opened = openat(dir, name, O_RDONLY | O_CLOEXEC);
    if (opened < 0)
        err(1, "%s", name);
    files[count++] = (struct file){dir, keep ? opened : -1, name};
    if (!keep)
        close(opened);
}

static void read_all(const struct file *file)
{
    int opened = file->keep_fd;
    if (opened < 0 && (opened = openat(file->dir, file->name, O_RDONLY | O_CLOEXEC)) < 0)
        err(1, "%s", file->name);
    /* The kernel generates each file in one read; none of these is larger. */
    if (pread(opened, buffer, sizeof buffer, 0) < 0)
        err(1, "%s", file->name);
    if (file->keep_fd < 0)
        close(opened);
}

static long long cpu(void)
{
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        errx(2, "usage: floor open|keep ROUNDS <DIRECTORIES");
    int keep = !strcmp(argv[1], "keep");
    int rounds = atoi(argv[2]);
    if (rounds < 1)
        errx(2, "%s: not a number of rounds", argv[2]);
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);

    static char line[8192];
    while (fgets(line, sizeof line, stdin)) {
        const char *path = strtok(line, " \n");
        if (!path)
            continue;
        int dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (dir < 0)
            err(1, "%s", path);
        for (const char *name; (name = strtok(NULL, " \n"));)
            add(dir, strdup(name), keep);
    }
    for (size_t i = 0; i < count; i++)
        read_all(&files[i]);
    long long before = cpu();
    for (int round = 0; round < rounds; round++)
        for (size_t i = 0; i < count; i++)
            read_all(&files[i]);
    printf("%lld %zu\n", (cpu() - before) / rounds, count);
    return 0;
}
