/* The floor: two processes, a blocking ping-pong over a Unix socket pair, and nothing else.
 *
 * usage: floor ROUNDS SIZE [CPU CPU]
 *        floor fan-out ROUNDS SIZE WIDTH
 * With two CPUs, each process runs on its own. A fan-out is one message to each of WIDTH processes,
 * and an answer from each. Prints {"p50": us, "p99": us, "per_second": round trips per second}.
 */
#define _GNU_SOURCE
#ifdef __linux__
#include <sched.h>
#endif
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

static void echo(int fd, size_t size) {
    while (read_all(fd, size) && write_all(fd, size))
        ;
    _exit(0);
}

static int report(double *took, long rounds, double whole) {
    qsort(took, rounds, sizeof *took, compare);
    printf("{\"p50\": %.3f, \"p99\": %.3f, \"per_second\": %.1f}\n", took[rounds / 2],
           took[rounds * 99 / 100], rounds * 1e6 / whole);
    return 0;
}

static int one_to_each(struct pollfd *ends, long width, size_t size) {
    for (long i = 0; i < width; i++)
        if (!write_all(ends[i].fd, size))
            return 0;
    for (long left = width; left > 0;) {
        if (poll(ends, width, -1) < 0)
            return 0;
        for (long i = 0; i < width; i++)
            if (ends[i].revents) {
                if (!read_all(ends[i].fd, size))
                    return 0;
                left--;
            }
    }
    return 1;
}

static int fan_out(long rounds, size_t size, long width) {
    struct pollfd *ends = calloc(width, sizeof *ends);
    double *took = malloc(rounds * sizeof *took);
    if (!ends || !took)
        return 1;
    for (long i = 0; i < width; i++) {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
            return 1;
        pid_t child = fork();
        if (child < 0)
            return 1;
        if (child == 0) {
            close(pair[0]);
            for (long j = 0; j < i; j++)
                close(ends[j].fd);
            echo(pair[1], size);
        }
        close(pair[1]);
        ends[i] = (struct pollfd){.fd = pair[0], .events = POLLIN};
    }
    double whole = 0;
    for (long i = -10; i < rounds; i++) {
        double start = now_us();
        if (!one_to_each(ends, width, size))
            return 1;
        if (i >= 0)
            whole += took[i] = now_us() - start;
    }
    for (long i = 0; i < width; i++)
        close(ends[i].fd);
    while (wait(NULL) > 0)
        ;
    return report(took, rounds, whole);
}

int main(int argc, char **argv) {
    if (argc == 5 && !strcmp(argv[1], "fan-out"))
        return fan_out(atol(argv[2]), atol(argv[3]), atol(argv[4]));
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
        echo(ends[1], size);
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
    return report(took, rounds, whole);
}
