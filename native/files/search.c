/* search: names by a glob, lines by a text or an expression, within a limit of matches and of time. */
#include "files.h"
#include <ctype.h>
#include <fnmatch.h>
#include <regex.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

enum { binary_probe_bytes = 8192, shown_bytes = 512 };

static struct {
  const struct options *options;
  size_t root_length;              /* of the path that it began with */
  int64_t found, skipped;
  bool is_truncated;
  struct timespec deadline;
  regex_t regex;
  char *text;                      /* what is looked for, in lower case where case does not matter */
  size_t text_length;
} search;

/* Expressions can be made that take for ever: they are left when time is over. Nothing but answering comes after. */
static volatile sig_atomic_t is_matching, is_late;
static sigjmp_buf out_of_time;

static void on_alarm(int number) {
  (void)number;
  is_late = 1;
  if (is_matching) siglongjmp(out_of_time, 1);
}

static _Noreturn void end_search(void) {
  put_text("{\"done\":true,\"isTruncated\":");
  put_text(search.is_truncated ? "true" : "false");
  put_text(",\"skipped\":"), put_integer(search.skipped);
  put_text("}\n");
  finish(0);
}

static void check_time(void) {
  if (is_late) search.is_truncated = true, end_search();
}

/* --- names --- */

/* Parts of a path against parts of a glob, where ** stands for any number of parts. Without recursion: only the last ** is come back to. */
static bool matches_path(const char *glob, const char *path) {
  const char *star = NULL, *resume = NULL;
  static struct text part, name;
  for (;;) {
    size_t part_length = strcspn(glob, "/"), name_length = strcspn(path, "/");
    if (part_length == 2 && glob[0] == '*' && glob[1] == '*') {
      if (!glob[2]) return *path != 0;
      star = glob += 3;
      resume = path;
      continue;
    }
    bool fits = false;
    if (part_length && name_length) {
      text_cut(&part, 0), text_add(&part, glob, part_length);
      text_cut(&name, 0), text_add(&name, path, name_length);
      fits = !fnmatch(part.data, name.data, 0);
    }
    if (fits && !glob[part_length] && !path[name_length]) return true;
    if (fits && glob[part_length] && path[name_length]) {
      glob += part_length + 1, path += name_length + 1;
      continue;
    }
    if (!star) return false;
    resume += strcspn(resume, "/");
    if (!*resume) return false;
    path = ++resume;
    glob = star;
  }
}

static bool matches_glob(const char *glob, const char *path, const char *name) {
  if (!glob) return true;
  is_matching = 1;
  bool fits = strchr(glob, '/') ? matches_path(glob + (*glob == '/'), path) : !fnmatch(glob, name, 0);
  is_matching = 0;
  return fits;
}

/* --- lines --- */

static void put_match(const struct text *path, const struct stat *st, int64_t line, const char *text, size_t length) {
  bool is_plain = is_utf8(path->data, path->length) && is_utf8(text, length) && !memchr(text, 0, length);
  void (*put_name)(const char *, size_t) = is_plain ? put_json : put_base64;
  put_text("{\"path\":"), put_name(path->data, path->length);
  put_text(",\"type\":\""), put_text(type_name(st->st_mode));
  put_text("\",\"sizeBytes\":"), put_size(st->st_size);
  if (line) put_text(",\"line\":"), put_integer(line), put_text(",\"text\":"), put_name(text, length);
  if (!is_plain) put_text(",\"encoding\":\"base64\"");
  put_text("}\n");
  if (++search.found == search.options->limit) search.is_truncated = true, end_search();
}

/* Where in the line it is; false where it is not. */
static bool find_in_line(const char *line, size_t length, size_t *at, size_t *end) {
  bool is_found = false;
  *at = *end = 0;
  is_matching = 1;
  if (search.options->regex) {
    regmatch_t match = { .rm_so = 0, .rm_eo = (regoff_t)length };
    is_found = !regexec(&search.regex, line, 1, &match, REG_STARTEND);
    *at = is_found ? (size_t)match.rm_so : 0;
    *end = is_found ? (size_t)match.rm_eo : 0;
  } else if (search.options->ignore_case) {
    const char *first = search.text;
    for (size_t from = 0; !is_found && from + search.text_length <= length; from++) {
      if (tolower((unsigned char)line[from]) != *first) continue;
      size_t same = 1;
      while (same < search.text_length && tolower((unsigned char)line[from + same]) == (unsigned char)first[same]) same++;
      is_found = same == search.text_length;
      *at = from;
    }
  } else {
    const char *found = memmem(line, length, search.text, search.text_length);
    is_found = found;
    *at = found ? (size_t)(found - line) : 0;
  }
  is_matching = 0;
  if (!search.options->regex) *end = *at + search.text_length;
  return is_found;
}

/* The line, or what is around the match, between characters. */
static void show_line(const struct text *path, const struct stat *st, int64_t number, const char *line, size_t length, size_t at, size_t end) {
  size_t from = 0, to = length;
  if (length > shown_bytes) {
    size_t match = end - at < shown_bytes ? end - at : shown_bytes, before = (shown_bytes - match) / 2;
    from = at > before ? at - before : 0;
    if (from + shown_bytes > length) from = length - shown_bytes;
    to = from + shown_bytes;
    for (int i = 0; i < 3 && from && from < to && ((unsigned char)line[from] & 0xc0) == 0x80; i++) from++;
    for (int i = 0; i < 3 && to < length && to > from && ((unsigned char)line[to] & 0xc0) == 0x80; i++) to--;
  }
  if (to > from && to == length && line[to - 1] == '\r') to--;
  put_match(path, st, number, line + from, to - from);
}

static void search_lines(int fd, const struct text *path, const struct stat *st) {
  static char bytes[megabyte];
  size_t start = 0, end = 0;
  bool is_at_end = false, is_first = true;
  for (int64_t line = 1; !is_at_end || start < end;) {
    char *stop = memchr(bytes + start, '\n', end - start);
    if (!stop && !is_at_end && (start || end < sizeof bytes)) {
      memmove(bytes, bytes + start, end -= start);
      start = 0;
      check_time();
      ssize_t n = read(fd, bytes + end, sizeof bytes - end);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) {
        search.skipped++;
        return;
      }
      is_at_end = !n;
      end += (size_t)n;
      if (is_first && memchr(bytes, 0, end < binary_probe_bytes ? end : binary_probe_bytes)) return;
      is_first = false;
      continue;
    }
    /* A line longer than the buffer is looked at in pieces. */
    size_t length = stop ? (size_t)(stop - bytes) - start : end - start, at, match_end;
    if (stop || length) {
      if (find_in_line(bytes + start, length, &at, &match_end)) show_line(path, st, line, bytes + start, length, at, match_end);
      check_time();
    }
    start += length + (stop != NULL);
    line += stop != NULL;
  }
}

static void search_file(int dir, const char *name, const struct text *path) {
  struct stat st;
  int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | open_safely);
  if (fd < 0 && errno == ENOENT) return;
  if (fd < 0 || fstat(fd, &st)) search.skipped++;
  else if (S_ISREG(st.st_mode)) search_lines(fd, path, &st);
  if (fd >= 0) close(fd);
}

static void look_at(int dir, const char *name, const struct text *path, const struct stat *st, size_t relative_at) {
  check_time();
  if (!matches_glob(search.options->glob, path->data + relative_at, name)) return;
  if (!search.options->text) put_match(path, st, 0, "", 0);
  else if (S_ISREG(st->st_mode)) search_file(dir, name, path);
}

static void prepare(const struct options *options) {
  search.options = options;
  if (options->max_ms >= 0) {
    struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
    sigaction(SIGALRM, &action, NULL);
    /* Again and again: the first may come when it cannot be acted upon. */
    struct itimerval timer = { { 0, 100000 }, { options->max_ms / 1000, options->max_ms % 1000 * 1000 + !options->max_ms } };
    setitimer(ITIMER_REAL, &timer, NULL);
  }
  if (options->glob && !*options->glob) refuse("invalid_pattern", NULL, "the glob is empty; leave it away, or give one such as *.txt");
  if (!options->text) return;
  search.text_length = strlen(options->text);
  if (!search.text_length) refuse("invalid_pattern", NULL, "the text is empty; leave it away to search for names only");
  search.text = strdup(options->text);
  if (!search.text) refuse_errno(ENOMEM, NULL);
  for (char *c = search.text; options->ignore_case && *c; c++) *c = (char)tolower((unsigned char)*c);
  if (!options->regex) return;
  is_matching = 1;
  int code = regcomp(&search.regex, options->text, REG_EXTENDED | (options->ignore_case ? REG_ICASE : 0));
  is_matching = 0;
  if (!code) return;
  struct text message = { 0 };
  char words[128];
  regerror(code, &search.regex, words, sizeof words);
  const char *head = "not a POSIX extended regular expression: ";
  text_add(&message, head, strlen(head));
  text_add(&message, words, strlen(words));
  refuse("invalid_pattern", NULL, message.data);
}

void op_search(const struct options *options) {
  static struct walk walk;
  if (sigsetjmp(out_of_time, 1)) {
    is_matching = 0;
    if (!is_header_out) put_text("{\"ok\":true}\n"), is_header_out = true;
    search.is_truncated = true;
    end_search();
  }
  prepare(options);
  struct stat st;
  int fd = open_found(options->path, O_RDONLY, &st);
  put_text("{\"ok\":true}\n");
  is_header_out = true;
  if (!S_ISDIR(st.st_mode)) {
    struct place place = find_place(options->path, true);
    struct text path = { 0 };
    text_add(&path, options->path, strlen(options->path));
    const char *name = strrchr(options->path, '/');
    if (place.dir >= 0) look_at(place.dir, place.name, &path, &st, name ? (size_t)(name + 1 - options->path) : 0);
    end_search();
  }
  walk_begin(&walk, fd, options->path);
  walk.max_path_bytes = max_path_bytes;
  size_t relative_at = walk.path.length + (walk.path.data[walk.path.length - 1] != '/');
  for (int outcome; (outcome = walk_next(&walk));) {
    if (outcome < 0) {
      check_time();
      search.skipped++;
      continue;
    }
    look_at(walk.dir, walk.name, &walk.path, &walk.st, relative_at);
    if (S_ISDIR(walk.st.st_mode) && !walk_enter(&walk)) search.skipped++;
  }
  end_search();
}
