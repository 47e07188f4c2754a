/* Framed standard input: u32be length and so many bytes, again and again; length 0 says that this was all. */
#include "files.h"
#include <poll.h>
#include <string.h>

/*
 * Pieces are full as long as there is more, so that what is written of them begins at pages of the file: half as fast else, in gVisor.
 * That costs a copy in memory, which is nothing beside a call of the kernel less.
 */
static unsigned char piece_buffer[piece_bytes] __attribute__((aligned(4096)));
static unsigned char raw[piece_bytes] __attribute__((aligned(4096)));
static size_t raw_start, raw_end;
static unsigned char header[4];
static size_t header_length;
static uint32_t left;
static bool is_done;

static bool read_raw(void) {
  ssize_t n;
  do n = read(STDIN_FILENO, raw, sizeof raw); while (n < 0 && (errno == EINTR || (errno == EAGAIN && wait_for(STDIN_FILENO, POLLIN))));
  if (n <= 0) return false;
  raw_start = 0;
  raw_end = (size_t)n;
  return true;
}

ssize_t next_piece(unsigned char **piece) {
  size_t length = 0;
  *piece = piece_buffer;
  while (!is_done && length < sizeof piece_buffer) {
    if (raw_start == raw_end && !read_raw()) return -1;
    if (left) {
      size_t n = raw_end - raw_start < left ? raw_end - raw_start : left;
      if (n > sizeof piece_buffer - length) n = sizeof piece_buffer - length;
      memcpy(piece_buffer + length, raw + raw_start, n);
      raw_start += n;
      length += n;
      left -= (uint32_t)n;
      continue;
    }
    header[header_length++] = raw[raw_start++];
    if (header_length < sizeof header) continue;
    header_length = 0;
    left = (uint32_t)header[0] << 24 | (uint32_t)header[1] << 16 | (uint32_t)header[2] << 8 | header[3];
    is_done = !left;
    if (left > max_frame_bytes) refuse("failed", NULL, "a piece of input is longer than 1 MiB, or is not framed; send u32be length and bytes");
  }
  return (ssize_t)length;
}
