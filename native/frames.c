/* Framed standard input: u32be length and so many bytes, again and again; length 0 says that this was all. */
#include "files.h"
#include <poll.h>
#include <string.h>

static unsigned char buffer[max_frame_bytes];
static size_t start, end;
static uint32_t left;
static bool is_done;

/* Reads behind what is there; false at the end of input. */
static bool fill(void) {
  if (start == end) start = end = 0;
  else if (sizeof buffer - end < 4) memmove(buffer, buffer + start, end - start), end -= start, start = 0;
  ssize_t n;
  do n = read(STDIN_FILENO, buffer + end, sizeof buffer - end); while (n < 0 && (errno == EINTR || (errno == EAGAIN && wait_for(STDIN_FILENO, POLLIN))));
  if (n <= 0) return false;
  end += (size_t)n;
  return true;
}

ssize_t next_piece(unsigned char **piece) {
  if (is_done) return 0;
  if (!left) {
    while (end - start < 4) if (!fill()) return -1;
    const unsigned char *at = buffer + start;
    left = (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
    start += 4;
    is_done = !left;
    if (is_done) return 0;
    if (left > max_frame_bytes) refuse("failed", NULL, "a piece of input is longer than 1 MiB, or is not framed; send u32be length and bytes");
  }
  if (start == end && !fill()) return -1;
  size_t length = end - start < left ? end - start : left;
  *piece = buffer + start;
  start += length;
  left -= (uint32_t)length;
  return (ssize_t)length;
}
