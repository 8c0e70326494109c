/* Posts that arrive by the clock, over kept connections, whatever became of those before.
 *
 * usage: publisher PORT CONNECTIONS FILE RATE COPIES SECONDS
 *
 * RATE arrivals a second, each of COPIES requests at once (pipelined) over the next
 * connection. Once all are answered, or nothing was for a minute, it prints as JSON what
 * became of them. FILE holds whole requests, each after a line with its length in bytes; they
 * are taken in turn. Where a request has a CloudEvent's field `time`, the moment of sending
 * is put there.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define FIELD ",\"time\":\""
#define FIELD_SIZE (sizeof FIELD - 1)
#define STATUS "HTTP/1.1 "
#define STATUS_SIZE (sizeof STATUS) /* and the first digit of the status */
#define READ_SIZE (256 << 10)
#define PATIENCE_NS 60000000000LL

struct line {
    int fd;
    char *out; /* what could not be sent yet: from `sent` to `size` */
    size_t sent, size, room;
    unsigned char kept;
    char tail[STATUS_SIZE];
};

struct request {
    char *text, *stamp; /* stamp: where the time goes, or NULL */
    size_t size;
};

static struct line *lines;
static int line_count, poll_fd, clock_fd;
static struct request *requests;
static size_t request_count, next_request, next_line;
static long long sent, answered, refused;
static int64_t heard;
static char buffer[STATUS_SIZE + READ_SIZE];

static void fail(const char *format, ...) {
    va_list given;
    va_start(given, format);
    vfprintf(stderr, format, given);
    va_end(given);
    fputc('\n', stderr);
    exit(1);
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void read_requests(const char *name) {
    FILE *file = fopen(name, "rb");
    size_t size;
    if (!file) fail("%s: %s", name, strerror(errno));
    while (fscanf(file, "%zu%*1[\n]", &size) == 1) {
        struct request one = {.text = malloc(size + 1), .size = size};
        requests = realloc(requests, (request_count + 1) * sizeof *requests);
        if (!requests || !one.text || fread(one.text, 1, size, file) != size)
            fail("%s: cut off", name);
        one.stamp = memmem(one.text, size, FIELD, FIELD_SIZE);
        if (one.stamp) one.stamp += FIELD_SIZE;
        requests[request_count++] = one;
    }
    fclose(file);
    if (!request_count) fail("%s: no request", name);
}

/* --- one connection ------------------------------------------------------------------ */

static void watch(struct line *one, int how) {
    uint32_t what = EPOLLIN | (one->size ? EPOLLOUT : 0);
    struct epoll_event event = {.events = what, .data.ptr = one};
    if (epoll_ctl(poll_fd, how, one->fd, &event)) fail("epoll: %s", strerror(errno));
}

static void flush(struct line *one) {
    long done = send(one->fd, one->out + one->sent, one->size - one->sent, MSG_NOSIGNAL);
    if (done < 0 && errno != EAGAIN) fail("send: %s", strerror(errno));
    if (done > 0) one->sent += done;
    if (one->sent == one->size) one->sent = one->size = 0;
}

static void put(struct line *one, const char *text, size_t size) {
    if (one->size + size > one->room) {
        one->room = 2 * (one->size + size);
        one->out = realloc(one->out, one->room);
        if (!one->out) fail("no memory");
    }
    memcpy(one->out + one->size, text, size);
    one->size += size;
}

static void stamp(char *at) {
    struct timespec now;
    struct tm parts;
    char text[64];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &parts);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
    sprintf(text + 19, ".%03ldZ", now.tv_nsec / 1000000);
    memcpy(at, text, 24);
}

static void arrive(int copies) {
    struct line *one = &lines[next_line++ % line_count];
    int stuck = one->size > 0;
    while (copies--) {
        struct request *request = &requests[next_request++ % request_count];
        if (request->stamp) stamp(request->stamp);
        put(one, request->text, request->size);
        sent++;
    }
    if (stuck) return;
    flush(one);
    if (one->size) watch(one, EPOLL_CTL_MOD);
}

static void hear(struct line *one) {
    char *fresh = buffer + STATUS_SIZE, *text = fresh - one->kept, *found;
    long size = recv(one->fd, fresh, READ_SIZE, 0);
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) fail("a connection ended");
    memcpy(text, one->tail, one->kept);
    char *end = fresh + size;
    heard = now_ns();
    while ((found = memmem(text, end - 1 - text, STATUS, STATUS_SIZE - 1))) {
        answered++;
        refused += found[STATUS_SIZE - 1] != '2';
        text = found + STATUS_SIZE;
    }
    long rest = end - text;
    one->kept = rest < (long)STATUS_SIZE - 1 ? rest : (long)STATUS_SIZE - 1;
    memcpy(one->tail, end - one->kept, one->kept);
}

/* --- one run ------------------------------------------------------------------------- */

static void wake_at(int64_t ns) {
    struct itimerspec when = {.it_value = {ns / 1000000000, ns % 1000000000}};
    timerfd_settime(clock_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

static void turn(void) {
    struct epoll_event ready[64];
    int found = epoll_wait(poll_fd, ready, 64, 1000);
    for (int n = 0; n < found; n++) {
        struct line *one = ready[n].data.ptr;
        uint64_t rings;
        if (!one) {
            if (read(clock_fd, &rings, sizeof rings) < 0) continue;
        } else {
            if (ready[n].events & EPOLLOUT) {
                flush(one);
                if (!one->size) watch(one, EPOLL_CTL_MOD);
            }
            if (ready[n].events & ~EPOLLOUT) hear(one);
        }
    }
}

static void go(double rate, int copies, double seconds) {
    int64_t began = now_ns(), late = 0, now;
    heard = began + (int64_t)(seconds * 1e9);
    long long arrivals = (long long)(rate * seconds + 0.5), done = 0;
    while (done < arrivals) {
        int64_t due = began + (int64_t)(done / rate * 1e9);
        if ((now = now_ns()) < due) {
            wake_at(due);
            turn();
            continue;
        }
        if (now - due > late) late = now - due;
        arrive(copies);
        done++;
    }
    int64_t over = now_ns();
    for (now = over; answered < sent && now - heard < PATIENCE_NS; now = now_ns()) turn();
    printf("{\"sent\": %lld, \"answered\": %lld, \"refused\": %lld, \"seconds\": %.6f, "
           "\"late_ms\": %.1f}\n",
           sent, answered, refused, (over - began) / 1e9, late / 1e6);
}

static void dial(int port) {
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons(port)};
    int yes = 1;
    where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int n = 0; n < line_count; n++) {
        struct line *one = &lines[n];
        one->fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(one->fd, (struct sockaddr *)&where, sizeof where))
            fail("connect: %s", strerror(errno));
        setsockopt(one->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        fcntl(one->fd, F_SETFL, O_NONBLOCK);
        watch(one, EPOLL_CTL_ADD);
    }
}

int main(int count, char **given) {
    if (count != 7) fail("usage: publisher PORT CONNECTIONS FILE RATE COPIES SECONDS");
    line_count = atoi(given[2]);
    lines = calloc(line_count, sizeof *lines);
    poll_fd = epoll_create1(0);
    clock_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN};
    if (!lines || epoll_ctl(poll_fd, EPOLL_CTL_ADD, clock_fd, &event)) fail("no memory");
    read_requests(given[3]);
    dial(atoi(given[1]));
    go(atof(given[4]), atoi(given[5]), atof(given[6]));
}
