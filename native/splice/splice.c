/*
 * splice plain|framed BYTES STALL_MS: moves so many bytes from descriptor 0 to descriptor 1, inside the kernel.
 *
 * One of the two is a pipe. Both may be set not to block. `framed` puts the length before each MiB, as src/services/files/file-protocol.ts
 * says; the last frame, which says that this was all, is not written here. It ends with one of the codes below; nothing is undone.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { frame_bytes = 1024 * 1024, source = STDIN_FILENO, sink = STDOUT_FILENO };
enum end { done, source_ended, source_stalled, sink_stalled, sink_closed, usage };

static int stall_ms;

/* Until the sink takes more, or for too long. */
static void await_sink(void) {
  struct pollfd out = { .fd = sink, .events = POLLOUT };
  int ready = poll(&out, 1, stall_ms);
  if (ready == 0) _exit(sink_stalled);
  if (ready > 0 && out.revents & (POLLERR | POLLNVAL)) _exit(sink_closed);
}

/* Until the source has more, or for too long; a sink that closes meanwhile is seen. */
static void await_source(void) {
  struct pollfd both[] = { { .fd = source, .events = POLLIN }, { .fd = sink } };
  int ready = poll(both, 2, stall_ms);
  if (ready == 0) _exit(source_stalled);
  if (ready > 0 && both[1].revents & (POLLERR | POLLNVAL)) _exit(sink_closed);
  if (ready > 0 && both[0].revents) await_sink();
}

static void put_length(uint32_t length) {
  unsigned char head[] = { (unsigned char)(length >> 24), (unsigned char)(length >> 16), (unsigned char)(length >> 8), (unsigned char)length };
  for (size_t at = 0; at < sizeof head;) {
    ssize_t n = write(sink, head + at, sizeof head - at);
    if (n > 0) at += (size_t)n;
    else if (errno == EAGAIN) await_sink();
    else if (errno != EINTR) _exit(sink_closed);
  }
}

static bool parse(const char *text, int64_t max, int64_t *value) {
  char *end;
  errno = 0;
  *value = strtoll(text, &end, 10);
  return !errno && *text && !*end && *value >= 0 && *value <= max;
}

int main(int argc, char **argv) {
  int64_t left, stall;
  if (argc != 4 || !parse(argv[2], INT64_MAX, &left) || !parse(argv[3], INT32_MAX, &stall)) return usage;
  bool is_framed = !strcmp(argv[1], "framed");
  stall_ms = (int)stall;
  signal(SIGPIPE, SIG_IGN);
  for (int64_t in_frame = 0; left > 0;) {
    if (is_framed && in_frame == 0) {
      in_frame = left < frame_bytes ? left : frame_bytes;
      put_length((uint32_t)in_frame);
    }
    int64_t wanted = is_framed ? in_frame : left < frame_bytes ? left : frame_bytes;
    ssize_t moved = splice(source, NULL, sink, NULL, (size_t)wanted, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (moved > 0) {
      left -= moved;
      in_frame -= moved;
    } else if (moved == 0) {
      return source_ended;
    } else if (errno == EAGAIN) {
      await_source();
    } else if (errno == EPIPE || errno == ECONNRESET) {
      return sink_closed;
    } else if (errno != EINTR) {
      return source_ended;
    }
  }
  return done;
}
