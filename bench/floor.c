/* The floor: two processes, a blocking ping-pong over a Unix socket pair, and nothing else.
 *
 * usage: floor ROUNDS SIZE [CPU CPU]
 * With two CPUs, each process runs on its own. Prints {"p50": us, "p99": us, "per_second": round trips per second}.
 */
#define _GNU_SOURCE
#ifdef __linux__
#include <sched.h>
#endif
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WARM_UP = 2000, MAX_SIZE = 65536 };

static char buffer[MAX_SIZE];

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static int read_all(int fd, size_t size) {
    size_t have = 0;
    while (have < size) {
        ssize_t n = read(fd, buffer + have, size - have);
        if (n <= 0)
            return 0;
        have += n;
    }
    return 1;
}

static int write_all(int fd, size_t size) {
    size_t gone = 0;
    while (gone < size) {
        ssize_t n = write(fd, buffer + gone, size - gone);
        if (n <= 0)
            return 0;
        gone += n;
    }
    return 1;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void stay_on(const char *cpu) {
#ifdef __linux__
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(atoi(cpu), &set);
    sched_setaffinity(0, sizeof set, &set);
#endif
}

int main(int argc, char **argv) {
    long rounds = argc > 1 ? atol(argv[1]) : 20000;
    size_t size = argc > 2 ? (size_t)atol(argv[2]) : 40;
    int ends[2];
    if (rounds < 1 || size < 1 || size > MAX_SIZE || socketpair(AF_UNIX, SOCK_STREAM, 0, ends))
        return 1;
    pid_t child = fork();
    if (child < 0)
        return 1;
    if (child == 0) {
        close(ends[0]);
        if (argc > 4)
            stay_on(argv[4]);
        while (read_all(ends[1], size) && write_all(ends[1], size))
            ;
        _exit(0);
    }
    close(ends[1]);
    if (argc > 4)
        stay_on(argv[3]);
    double *took = malloc(rounds * sizeof *took);
    if (!took)
        return 1;
    double began = 0;
    for (long i = -WARM_UP; i < rounds; i++) {
        double start = now_us();
        if (i == 0)
            began = start;
        if (!write_all(ends[0], size) || !read_all(ends[0], size))
            return 1;
        if (i >= 0)
            took[i] = now_us() - start;
    }
    double whole = now_us() - began;
    close(ends[0]);
    waitpid(child, NULL, 0);
    qsort(took, rounds, sizeof *took, compare);
    printf("{\"p50\": %.3f, \"p99\": %.3f, \"per_second\": %.1f}\n", took[rounds / 2],
           took[rounds * 99 / 100], rounds * 1e6 / whole);
    return 0;
}
