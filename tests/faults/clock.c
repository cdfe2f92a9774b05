/* A wall clock that is wrong by the seconds in the file OUTBOX_RELAY_CLOCK_OFFSET; preloaded into relays and Postgres.
 *
 * What reads the clock is told the wrong time. What waits for a time of day (librdkafka does, through cnd_timedwait) waits for the
 * wrong clock to reach it, as the kernel would have it after a jump. The monotonic clock is left alone, as by a real jump.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define NANOS 1000000000L
/* How often the file is read, and how long a wait may not notice that the clock has jumped. */
#define STEP 50000000L

static long nanos(const struct timespec *at) { return at->tv_sec * NANOS + at->tv_nsec; }

static long seconds_off(void) {
    static atomic_long off, read_at;
    struct timespec now;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    if (nanos(&now) - atomic_load(&read_at) > STEP) {
        const char *path = getenv("OUTBOX_RELAY_CLOCK_OFFSET");
        int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        char text[32] = {0};
        if (file >= 0) {
            if (read(file, text, sizeof text - 1) > 0) atomic_store(&off, strtol(text, NULL, 10));
            close(file);
        }
        atomic_store(&read_at, nanos(&now));
    }
    return atomic_load(&off);
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    int done = (int)syscall(SYS_clock_gettime, clock, at);
    if (done == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += seconds_off();
    return done;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    (void)zone;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}

int timespec_get(struct timespec *at, int base) {
    return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, at) == 0 ? base : 0;
}

int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex, const struct timespec *restrict until) {
    static int (*_Atomic wait)(cnd_t *, mtx_t *, const struct timespec *);
    if (!wait) wait = (int (*)(cnd_t *, mtx_t *, const struct timespec *))dlsym(RTLD_NEXT, "cnd_timedwait");
    for (;;) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        long left = nanos(until) - nanos(&now);
        if (left <= 0) return thrd_timedout;
        /* In slices of the right clock. */
        syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
        long at = nanos(&now) + (left < STEP ? left : STEP);
        struct timespec slice = {.tv_sec = at / NANOS, .tv_nsec = at % NANOS};
        int done = wait(condition, mutex, &slice);
        if (done != thrd_timedout) return done;
    }
}
