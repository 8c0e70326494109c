/* Many readers of text/event-stream in one process, as cheap as they get.
 *
 * usage: listeners PORT READERS DEAF HEADERS PATHS
 *
 * HEADERS is a file of header lines (CRLF), PATHS a file of one path a line; reader n asks for path
 * n modulo their number. Then DEAF more connections ask for the same paths with a receive
 * buffer of 4 KiB and never read. `open` on the output: everybody has been answered with 200.
 * From then on, a line on the input each: `mark` begins a window, `tell` prints it as JSON
 * and goes on with it. The end of the input is the end of the program.
 *
 * What is counted is the field `time` of a CloudEvent, which each event has once and no
 * control frame has. Its value, UTC in milliseconds, gives the latency. A field that a read
 * or a chunk's end cuts off is kept for the next read, so the count is exact as long as the
 * server puts no chunk's border into the field itself.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define FIELD ",\"time\":\""
#define FIELD_SIZE (sizeof FIELD - 1)
#define STAMP_SIZE 24 /* 2026-11-21T18:00:00.000Z */
#define KEPT (FIELD_SIZE + STAMP_SIZE - 1)
#define READ_SIZE (256 << 10)
#define OPENING 200 /* connections on the way at the same time */
#define STEPS_A_MS 10
#define LONGEST_MS 60000
#define DAY_MS 86400000L
#define DEAF_BUFFER 4096

enum { ASKED, READING, CLOSED };

struct line {
    int fd;
    unsigned char state, deaf, kept;
    char tail[KEPT];
};

static struct line *lines;
static int total, readers, begun, opened, deaf_closed, closed;
static struct sockaddr_in where;
static char *headers, **paths;
static int path_count;
static int poll_fd;
static char buffer[KEPT + READ_SIZE];

static uint32_t steps[LONGEST_MS * STEPS_A_MS + 1];
static uint64_t events_ever, events, bytes;
static struct timespec marked;

static void fail(const char *format, ...) {
    va_list given;
    va_start(given, format);
    vfprintf(stderr, format, given);
    va_end(given);
    fputc('\n', stderr);
    exit(1);
}

static char *contents(const char *name) {
    FILE *file = fopen(name, "rb");
    if (!file) fail("%s: %s", name, strerror(errno));
    size_t size = 0, room = 1 << 16;
    char *text = malloc(room);
    while (text && (size += fread(text + size, 1, room - size - 1, file)) == room - 1)
        text = realloc(text, room *= 2);
    if (!text) fail("no memory");
    fclose(file);
    text[size] = 0;
    return text;
}

static void read_paths(const char *name) {
    for (char *one = strtok(contents(name), "\n"); one; one = strtok(NULL, "\n")) {
        paths = realloc(paths, (path_count + 1) * sizeof *paths);
        if (!paths) fail("no memory");
        paths[path_count++] = one;
    }
    if (!path_count) fail("%s: no path", name);
}

/* --- what comes in --------------------------------------------------------------- */

static double now_ms_of_day(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)(now.tv_sec % 86400) * 1000 + now.tv_nsec / 1e6;
}

static int digits(const char *at, int count) {
    int value = 0;
    while (count--) value = value * 10 + (*at++ - '0');
    return value;
}

/* Many events of one read have the same time: it is taken apart once. */
static long stamp_ms_of_day(const char *at) {
    static char last[12];
    static long value;
    at += 11; /* the date */
    if (memcmp(at, last, sizeof last)) {
        memcpy(last, at, sizeof last);
        value = (digits(at, 2) * 60L + digits(at + 3, 2)) * 60000 + digits(at + 6, 2) * 1000L +
                digits(at + 9, 3);
    }
    return value;
}

static void count(const char *stamp, double now) {
    double late = now - stamp_ms_of_day(stamp);
    if (late < -DAY_MS / 2) late += DAY_MS; /* midnight between the two */
    if (late < 0) late = 0;
    if (late > LONGEST_MS) late = LONGEST_MS;
    steps[(int)(late * STEPS_A_MS)]++;
    events++;
}

/* Counts what is whole in `text` and returns where the rest begins that has to be kept. */
static const char *scan(const char *text, const char *end) {
    double now = now_ms_of_day();
    const char *found;
    while ((found = memmem(text, end - text, FIELD, FIELD_SIZE))) {
        if (end - found < (long)(FIELD_SIZE + STAMP_SIZE)) return found;
        count(found + FIELD_SIZE, now);
        text = found + FIELD_SIZE + STAMP_SIZE;
    }
    long rest = end - text;
    return end - (rest < (long)FIELD_SIZE - 1 ? rest : (long)FIELD_SIZE - 1);
}

static void watch(struct line *one, uint32_t what, int how) {
    struct epoll_event event = {.events = what, .data.ptr = one};
    if (epoll_ctl(poll_fd, how, one->fd, &event)) fail("epoll: %s", strerror(errno));
}

static void answered(struct line *one, const char *text, long size) {
    if (size < 12 || memcmp(text, "HTTP/1.1 200", 12))
        fail("refused: %.*s", (int)strcspn(text, "\r\n"), text);
    one->state = READING;
    opened++;
    if (one->deaf) watch(one, EPOLLRDHUP, EPOLL_CTL_MOD); /* and an abort, which is always told */
}

static void lost(struct line *one) {
    if (one->state == ASKED) fail("a connection ended before it was answered");
    one->state = CLOSED;
    closed += !one->deaf;
    deaf_closed += one->deaf;
    close(one->fd);
}

static void read_on(struct line *one) {
    char *fresh = buffer + KEPT, *start = fresh - one->kept;
    long size = recv(one->fd, fresh, READ_SIZE, 0);
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) {
        lost(one);
        return;
    }
    if (one->state == ASKED) {
        fresh[size < READ_SIZE ? size : READ_SIZE - 1] = 0;
        answered(one, fresh, size);
    }
    bytes += size;
    memcpy(start, one->tail, one->kept);
    const char *rest = scan(start, fresh + size);
    one->kept = fresh + size - rest;
    memcpy(one->tail, rest, one->kept);
}

static void listen_to(struct line *one, uint32_t what) {
    char start[16] = "";
    if (!one->deaf) {
        read_on(one);
    } else if (what & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
        lost(one);
    } else if (one->state == ASKED) {
        long size = recv(one->fd, start, sizeof start - 1, MSG_PEEK);
        if (size > 0) answered(one, start, size);
    }
}

/* --- opening ---------------------------------------------------------------------- */

static void ask(struct line *one, const char *path) {
    static char request[1 << 16];
    int small = DEAF_BUFFER;
    one->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (one->fd < 0) fail("socket: %s", strerror(errno));
    if (one->deaf) setsockopt(one->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    if (connect(one->fd, (struct sockaddr *)&where, sizeof where))
        fail("connect: %s", strerror(errno));
    long size = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\n%s\r\n", path, headers);
    if (size >= (long)sizeof request || send(one->fd, request, size, 0) != size)
        fail("a request could not be sent");
    fcntl(one->fd, F_SETFL, O_NONBLOCK);
    watch(one, EPOLLIN, EPOLL_CTL_ADD);
}

static void open_more(void) {
    for (; begun < total && begun - opened < OPENING; begun++) {
        lines[begun].deaf = begun >= readers;
        ask(&lines[begun], paths[begun % path_count]);
    }
}

/* --- what is told ------------------------------------------------------------------ */

static void mark(void) {
    memset(steps, 0, sizeof steps);
    events_ever += events;
    events = bytes = 0;
    clock_gettime(CLOCK_MONOTONIC, &marked);
}

static double latency(double share) {
    uint64_t rank = (uint64_t)(share * events), seen = 0;
    if (rank < 1) rank = 1;
    for (unsigned step = 0; events && step < sizeof steps / sizeof *steps; step++)
        if ((seen += steps[step]) >= rank) return (double)(step + 1) / STEPS_A_MS;
    return 0;
}

static void tell(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    double seconds = now.tv_sec - marked.tv_sec + (now.tv_nsec - marked.tv_nsec) / 1e9;
    printf("{\"open\": %d, \"closed\": %d, \"deaf_closed\": %d, \"ever\": %llu, \"events\": %llu, "
           "\"bytes\": %llu, \"seconds\": %.6f, \"p50\": %.1f, \"p99\": %.1f, \"most\": %.1f}\n",
           opened, closed, deaf_closed, (unsigned long long)(events_ever + events),
           (unsigned long long)events, (unsigned long long)bytes, seconds, latency(0.5),
           latency(0.99), latency(1));
}

static void obey(void) {
    static char said[256];
    static size_t size;
    long more = read(0, said + size, sizeof said - 1 - size);
    if (more <= 0) exit(0);
    said[size += more] = 0;
    for (char *end; (end = memchr(said, '\n', size)); memmove(said, end + 1, size + 1)) {
        *end = 0;
        if (!strcmp(said, "mark")) mark();
        else if (!strcmp(said, "tell")) tell();
        else fail("mark or tell, not: %s", said);
        size -= end + 1 - said;
    }
}

/* ------------------------------------------------------------------------------------ */

static void raise_limit(void) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
}

static void serve(void) {
    struct epoll_event ready[512];
    int said = 0;
    for (;;) {
        open_more();
        if (opened == total && !said++) {
            mark();
            puts("open");
        }
        int found = epoll_wait(poll_fd, ready, 512, -1);
        for (int n = 0; n < found; n++) {
            if (ready[n].data.ptr) listen_to(ready[n].data.ptr, ready[n].events);
            else obey();
        }
    }
}

int main(int count, char **given) {
    if (count != 6) fail("usage: listeners PORT READERS DEAF HEADERS PATHS");
    setvbuf(stdout, NULL, _IOLBF, 0);
    raise_limit();
    where.sin_family = AF_INET;
    where.sin_port = htons(atoi(given[1]));
    where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    readers = atoi(given[2]);
    total = readers + atoi(given[3]);
    headers = contents(given[4]);
    read_paths(given[5]);
    lines = calloc(total, sizeof *lines);
    poll_fd = epoll_create1(0);
    struct epoll_event input = {.events = EPOLLIN};
    if (!lines || epoll_ctl(poll_fd, EPOLL_CTL_ADD, 0, &input)) fail("no memory or no input");
    serve();
}
