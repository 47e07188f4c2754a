/* The front door: arguments in, one operation, exit code out. */
#include "files.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { max_list = 100000, max_search = 100000, max_days_ms = 86400000 };

static _Noreturn void refuse_usage(const char *argument, const char *why) {
  write_whole(STDERR_FILENO, "files: ", 7);
  write_whole(STDERR_FILENO, argument, strlen(argument));
  write_whole(STDERR_FILENO, ": ", 2);
  write_whole(STDERR_FILENO, why, strlen(why));
  write_whole(STDERR_FILENO, "\n", 1);
  _exit(2);
}

enum operand { one_path = 1, two_paths = 2, no_path = 0 };
static const struct { const char *name; void (*run)(const struct options *); enum operand operands; const char *options; } operations[] = {
  { "stat", op_stat, one_path, " no-follow " },
  { "list", op_list, one_path, " after limit " },
  { "read", op_read, one_path, " first last suffix " },
  { "write", op_write, one_path, " mode owner parents no-replace size " },
  { "mkdir", op_mkdir, one_path, " parents mode " },
  { "move", op_move, two_paths, " no-replace parents busybox " },
  { "remove", op_remove, one_path, " recursive ignore-missing " },
  { "archive", op_archive, one_path, " " },
  { "extract", op_extract, one_path, " parents owner " },
  { "watch", op_watch, one_path, " recursive " },
  { "shell", op_shell, no_path, " busybox " },
  { "search", op_search, one_path, " glob text regex ignore-case limit max-ms " },
};

static struct options given = {
  .busybox = "/.berth/busybox", .limit = -1, .first = -1, .last = -1, .suffix = -1, .size = -1, .mode = -1, .max_ms = -1,
};

static const struct { const char *name; bool *value; } flags[] = {
  { "no-follow", &given.no_follow }, { "parents", &given.parents }, { "no-replace", &given.no_replace }, { "recursive", &given.recursive },
  { "ignore-missing", &given.ignore_missing }, { "regex", &given.regex }, { "ignore-case", &given.ignore_case },
};
static const struct { const char *name; const char **value; bool is_encoded; } strings[] = {
  { "after", &given.after, true }, { "owner", &given.owner, false }, { "glob", &given.glob, true }, { "text", &given.text, false },
  { "busybox", &given.busybox, false },
};
static const struct { const char *name; int64_t *value; int base; int64_t max; } numbers[] = {
  { "limit", &given.limit, 10, max_list }, { "first", &given.first, 10, INT64_MAX - 1 }, { "last", &given.last, 10, INT64_MAX - 1 },
  { "suffix", &given.suffix, 10, INT64_MAX - 1 }, { "size", &given.size, 10, INT64_MAX - 1 }, { "mode", &given.mode, 8, 07777 },
  { "max-ms", &given.max_ms, 10, max_days_ms },
};

/* Decodes in place; false where it is not base64, or has a NUL inside. */
static bool decode(char *text) {
  size_t length = strlen(text), to = 0;
  uint32_t bits = 0;
  if (length % 4) return false;
  while (length && text[length - 1] == '=' && length % 4 != 2) length--;
  for (size_t at = 0; at < length; at++) {
    const char *digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", *found = strchr(digits, text[at]);
    if (!found) return false;
    bits = bits << 6 | (uint32_t)(found - digits);
    if (at % 4 == 0) continue;
    char byte = (char)(bits >> (6 - at % 4 * 2));
    if (!byte) return false;
    text[to++] = byte;
  }
  text[to] = 0;
  return true;
}

static void take_option(char *argument, const char *allowed, bool is_base64) {
  char *name = argument + 2, *value = strchr(name, '=');
  size_t length = value ? (size_t)(value - name) : strlen(name);
  struct text padded = { 0 };
  text_add(&padded, " ", 1), text_add(&padded, name, length), text_add(&padded, " ", 1);
  bool is_allowed = strstr(allowed, padded.data);
  text_cut(&padded, padded.length - 1);
  const char *known = padded.data + 1;
  if (!is_allowed || !length) refuse_usage(argument, "this operation does not know the option");
  if (value) value++;
  for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
    if (strcmp(known, flags[i].name)) continue;
    if (value) refuse_usage(argument, "this option takes no value");
    *flags[i].value = true;
  }
  for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) {
    if (strcmp(known, strings[i].name)) continue;
    if (!value) refuse_usage(argument, "this option needs a value");
    if (is_base64 && strings[i].is_encoded && !decode(value)) refuse_usage(argument, "the value is not base64 of bytes without NUL");
    *strings[i].value = value;
  }
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    if (strcmp(known, numbers[i].name)) continue;
    if (!value || !parse_number(value, numbers[i].base, numbers[i].max, numbers[i].value)) refuse_usage(argument, "the value is not a number in range");
  }
  free(padded.data);
}

int main(int argc, char **argv) {
  if (argc < 2) refuse_usage("OPERATION", "is missing; file-protocol.ts has them");
  size_t which = 0;
  while (which < sizeof operations / sizeof *operations && strcmp(argv[1], operations[which].name)) which++;
  if (which == sizeof operations / sizeof *operations) refuse_usage(argv[1], "no such operation");
  int end = 2;
  while (end < argc && strcmp(argv[end], "--")) end++;
  bool is_base64 = false;
  for (int i = 2; i < end; i++) is_base64 |= !strcmp(argv[i], "--base64");
  for (int i = 2; i < end; i++) {
    if (!strcmp(argv[i], "--base64")) continue;
    if (strncmp(argv[i], "--", 2)) refuse_usage(argv[i], "paths stand behind --");
    take_option(argv[i], operations[which].options, is_base64);
  }
  int count = argc - end - 1;
  if ((count < 0 ? 0 : count) != (int)operations[which].operands) refuse_usage(argv[1], "takes another number of paths");
  for (int i = end + 1; i < argc; i++) {
    if (is_base64 && !decode(argv[i])) refuse_usage(argv[i], "not base64 of bytes without NUL");
    if (*argv[i] != '/') refuse_usage(argv[i], "not an absolute path");
  }
  given.path = operations[which].operands ? argv[end + 1] : NULL;
  given.to = operations[which].operands == two_paths ? argv[end + 2] : NULL;
  bool needs_limit = strstr(operations[which].options, " limit ");
  if (needs_limit && given.limit <= 0) refuse_usage("--limit", "is missing, or 0");

  if (operations[which].run != op_shell) {
    umask(0);
    /* The end of who listens is an error to be told apart, and a limit of file size likewise; neither may end it before it has tidied up. */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
  }
  operations[which].run(&given);
  finish(0);
}
