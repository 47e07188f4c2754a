/* JSON and refusals on standard output, and what is undone when the program ends. */
#include "files.h"
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

static char buffer[65536];
static size_t used;
bool is_header_out;

static struct { int dir; char name[64]; volatile sig_atomic_t is_armed; } undo;

void *claim_more(void *old, size_t bytes) {
  void *got = realloc(old, bytes ? bytes : 1);
  if (!got) refuse("limit_reached", NULL, "there is not enough memory in the sandbox for this; ask for less at a time");
  return got;
}

void *claim(size_t bytes) { return claim_more(NULL, bytes); }

void text_add(struct text *text, const void *bytes, size_t length) {
  if (text->capacity - text->length < length + 1 || !text->data) {
    size_t wanted = text->length + length + 1;
    if (wanted < length) abort();
    text->capacity = wanted + wanted / 2 + 64;
    text->data = claim_more(text->data, text->capacity);
  }
  if (length) memcpy(text->data + text->length, bytes, length);
  text->length += length;
  text->data[text->length] = 0;
}

void text_cut(struct text *text, size_t length) {
  if (length > text->length) abort();
  text->length = length;
  if (text->data) text->data[length] = 0;
}

void text_join(struct text *text, const char *name) {
  if (text->length && text->data[text->length - 1] != '/') text_add(text, "/", 1);
  text_add(text, name, strlen(name));
}

bool wait_for(int fd, short events) {
  struct pollfd one = { .fd = fd, .events = events };
  return poll(&one, 1, -1) >= 0 || errno == EINTR;
}

bool write_whole(int fd, const void *bytes, size_t length) {
  const char *at = bytes;
  while (length) {
    ssize_t n = write(fd, at, length);
    if (n < 0 && (errno == EINTR || (errno == EAGAIN && wait_for(fd, POLLOUT)))) continue;
    if (n < 0) return false;
    at += n;
    length -= (size_t)n;
  }
  return true;
}

/* Nobody reads any more, or nothing can be said: there is nobody to answer. */
static _Noreturn void give_up(void) {
  undo_now();
  _exit(1);
}

void put_flush(void) {
  size_t length = used;
  used = 0;
  if (length && !write_whole(STDOUT_FILENO, buffer, length)) give_up();
}

void put(const void *bytes, size_t length) {
  if (length > sizeof buffer - used) put_flush();
  if (length > sizeof buffer) {
    if (!write_whole(STDOUT_FILENO, bytes, length)) give_up();
    return;
  }
  memcpy(buffer + used, bytes, length);
  used += length;
}

void put_text(const char *text) { put(text, strlen(text)); }

void put_size(int64_t bytes) {
  const int64_t largest = (1ll << 53) - 1;
  put_integer(bytes < 0 ? 0 : bytes > largest ? largest : bytes);
}

void put_ready(void) {
  put_text("{\"ok\":true,\"isReady\":true}\n");
  put_flush();
}

void put_integer(int64_t value) {
  char digits[24], *at = digits + sizeof digits;
  uint64_t rest = value < 0 ? -(uint64_t)value : (uint64_t)value;
  do *--at = (char)('0' + rest % 10); while (rest /= 10);
  if (value < 0) *--at = '-';
  put(at, (size_t)(digits + sizeof digits - at));
}

/* How many bytes the character at the beginning has; 0 when it is not UTF-8. */
static size_t utf8_length(const unsigned char *at, size_t length) {
  if (at[0] < 0x80) return 1;
  size_t wanted = at[0] >= 0xf0 ? 4 : at[0] >= 0xe0 ? 3 : 2;
  if (at[0] < 0xc2 || at[0] > 0xf4 || length < wanted) return 0;
  for (size_t i = 1; i < wanted; i++) if ((at[i] & 0xc0) != 0x80) return 0;
  if (at[0] == 0xe0 && at[1] < 0xa0) return 0;
  if (at[0] == 0xed && at[1] > 0x9f) return 0;
  if (at[0] == 0xf0 && at[1] < 0x90) return 0;
  if (at[0] == 0xf4 && at[1] > 0x8f) return 0;
  return wanted;
}

bool is_utf8(const char *bytes, size_t length) {
  for (size_t at = 0; at < length;) {
    size_t n = utf8_length((const unsigned char *)bytes + at, length - at);
    if (!n) return false;
    at += n;
  }
  return true;
}

void put_json(const char *bytes, size_t length) {
  static const char digits[] = "0123456789abcdef";
  put("\"", 1);
  for (size_t at = 0; at < length;) {
    const unsigned char *c = (const unsigned char *)bytes + at;
    size_t n = utf8_length(c, length - at);
    if (!n) put("\xef\xbf\xbd", 3), n = 1;
    else if (*c == '"' || *c == '\\') put((char[]){ '\\', (char)*c }, 2);
    else if (*c < 0x20 || *c == 0x7f) put((char[]){ '\\', 'u', '0', '0', digits[*c >> 4], digits[*c & 15] }, 6);
    else put(c, n);
    at += n;
  }
  put("\"", 1);
}

void put_base64(const char *bytes, size_t length) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const unsigned char *from = (const unsigned char *)bytes;
  put("\"", 1);
  for (size_t at = 0; at < length; at += 3) {
    size_t left = length - at;
    unsigned group = (unsigned)from[at] << 16 | (left > 1 ? (unsigned)from[at + 1] << 8 : 0) | (left > 2 ? from[at + 2] : 0u);
    put((char[]){ digits[group >> 18], digits[group >> 12 & 63], left > 1 ? digits[group >> 6 & 63] : '=', left > 2 ? digits[group & 63] : '=' }, 4);
  }
  put("\"", 1);
}

_Noreturn void finish(int code) {
  put_flush();
  undo_now();
  _exit(code);
}

static _Noreturn void refuse_with(const char *problem, const char *path, const char *message, int64_t size_bytes) {
  undo_now();
  if (is_header_out) {
    put_flush();
    struct text said = { 0 };
    if (path) text_add(&said, path, strlen(path)), text_add(&said, ": ", 2);
    text_add(&said, message, strlen(message));
    text_add(&said, "\n", 1);
    write_whole(STDERR_FILENO, said.data, said.length);
    _exit(1);
  }
  used = 0;
  put_text("{\"ok\":false,\"problem\":\"");
  put_text(problem);
  put_text("\",\"message\":");
  put_json(message, strlen(message));
  if (path) put_text(",\"path\":"), put_json(path, strlen(path));
  if (size_bytes >= 0) put_text(",\"sizeBytes\":"), put_size(size_bytes);
  put_text("}\n");
  finish(1);
}

_Noreturn void refuse(const char *problem, const char *path, const char *message) { refuse_with(problem, path, message, -1); }

_Noreturn void refuse_range(const char *path, int64_t size_bytes) {
  refuse_with("range_not_satisfiable", path, "the range begins behind the end of the file; ask for one within sizeBytes", size_bytes);
}

static const struct { int code; const char *problem, *message; } problems[] = {
  { ENOENT, "path_not_found", "there is no such file or directory, or one above it is missing; check the path" },
  { ENOTDIR, "not_a_directory", "it, or something above it, is not a directory; check the path" },
  { EISDIR, "is_directory", "it is a directory; name a file, or use what works on directories" },
  { EACCES, "permission_denied", "the user may not do this here; check owner and mode, or ask as another user" },
  { EPERM, "permission_denied", "the user may not do this here; check owner and mode, or ask as another user" },
  { ENOSPC, "no_space", "the file system is full; remove something, or make the sandbox with a larger disk" },
  { EDQUOT, "no_space", "the quota of the file system is used up; remove something" },
  { EEXIST, "path_exists", "it exists already; remove it, or allow it to be replaced" },
  { ENOTEMPTY, "directory_not_empty", "the directory is not empty; ask for recursive, or empty it" },
  { EROFS, "read_only", "the file system is read-only; use another directory" },
  { EBUSY, "busy", "it is in use by the sandbox, as a mount point is; use another path" },
  { ETXTBSY, "busy", "it is a program that runs; end it first" },
  { ELOOP, "too_many_links", "too many symbolic links, or a loop of them, are on the way; check the links" },
  { EMLINK, "too_many_links", "the directory or file has as many links as its file system allows; use another directory" },
  { ENAMETOOLONG, "name_too_long", "the path or a name in it is longer than the file system allows; use a shorter one" },
  { EFBIG, "file_too_large", "the file is larger than the file system or a limit of the user allows; write less" },
  { ENXIO, "not_a_file", "it is neither a file nor a directory; it is not touched" },
  { ENODEV, "not_a_file", "it is neither a file nor a directory; it is not touched" },
  { EMFILE, "limit_reached", "as many files are open as the user's limit allows; end something, or raise the limit" },
  { ENFILE, "limit_reached", "as many files are open as the sandbox allows; end something" },
  { ENOMEM, "limit_reached", "there is not enough memory in the sandbox for this; end something, or ask for less at a time" },
};

_Noreturn void refuse_errno(int code, const char *path) {
  for (size_t i = 0; i < sizeof problems / sizeof *problems; i++) {
    if (problems[i].code == code) refuse(problems[i].problem, path, problems[i].message);
  }
  struct text message = { 0 };
  const char *words = strerrordesc_np(code), head[] = "the kernel of the sandbox refuses: ";
  text_add(&message, head, sizeof head - 1);
  text_add(&message, words ? words : "unknown error", strlen(words ? words : "unknown error"));
  refuse("failed", path, message.data);
}

void undo_arm(int dir, const char *name) {
  if (strlen(name) >= sizeof undo.name) abort();
  strcpy(undo.name, name);
  undo.dir = dir;
  undo.is_armed = 1;
}

void undo_disarm(void) { undo.is_armed = 0; }

void undo_now(void) {
  if (undo.is_armed) unlinkat(undo.dir, undo.name, 0);
  undo.is_armed = 0;
}

static void end_by_signal(int number) {
  undo_now();
  _exit(128 + number);
}

void undo_on_signals(void) {
  static const int numbers[] = { SIGTERM, SIGINT, SIGHUP, SIGQUIT };
  struct sigaction action = { .sa_handler = end_by_signal };
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) sigaddset(&action.sa_mask, numbers[i]);
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) sigaction(numbers[i], &action, NULL);
}

bool random_name(const char *prefix, char *name, size_t size) {
  static const char digits[] = "abcdefghijklmnopqrstuvwxyz234567";
  unsigned char bytes[8];
  if (strlen(prefix) + sizeof bytes + 1 > size || getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes) return false;
  size_t length = strlen(prefix);
  memcpy(name, prefix, length);
  for (size_t i = 0; i < sizeof bytes; i++) name[length + i] = digits[bytes[i] & 31];
  name[length + sizeof bytes] = 0;
  return true;
}
