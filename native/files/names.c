/* Users and groups, by the files of the sandbox itself, read by hand: nothing of a libc that loads what the sandbox says. */
#include "files.h"
#include <stdlib.h>
#include <string.h>

enum { max_file_bytes = 1024 * 1024, max_name_bytes = 256, cache_size = 256 };

/* A file of lines with fields between colons. */
struct table { const char *path; bool is_read; struct text text; };
static struct table users = { .path = "/etc/passwd" }, groups = { .path = "/etc/group" };

struct cached { bool is_known; uint32_t id; char *name; };
static struct cached user_cache[cache_size], group_cache[cache_size];

static void read_table(struct table *table) {
  if (table->is_read) return;
  table->is_read = true;
  text_add(&table->text, "", 0);
  struct stat st;
  if (stat(table->path, &st) || !S_ISREG(st.st_mode)) return;
  int fd = open(table->path, O_RDONLY | open_safely);
  if (fd < 0) return;
  char part[16384];
  ssize_t n;
  while (!fstat(fd, &st) && S_ISREG(st.st_mode) && table->text.length < max_file_bytes && (n = read(fd, part, sizeof part)) > 0) {
    text_add(&table->text, part, (size_t)n);
  }
  close(fd);
}

enum { max_fields = 7 };
struct line { const char *fields[max_fields]; size_t lengths[max_fields]; int count; };

/* The line at *at, and *at behind it; false at the end. */
static bool next_line(const struct table *table, size_t *at, struct line *line) {
  const char *text = table->text.data;
  if (*at >= table->text.length) return false;
  const char *end = memchr(text + *at, '\n', table->text.length - *at);
  size_t stop = end ? (size_t)(end - text) : table->text.length;
  line->count = 0;
  for (size_t from = *at; from <= stop && line->count < max_fields;) {
    const char *colon = memchr(text + from, ':', stop - from);
    size_t to = colon ? (size_t)(colon - text) : stop;
    line->fields[line->count] = text + from;
    line->lengths[line->count++] = to - from;
    from = to + 1;
  }
  *at = stop + 1;
  return true;
}

bool parse_number(const char *text, int base, int64_t max, int64_t *value) {
  int64_t sum = 0;
  if (!*text) return false;
  for (; *text; text++) {
    if (*text < '0' || *text >= '0' + base) return false;
    int digit = *text - '0';
    if (sum > (max - digit) / base) return false;
    sum = sum * base + digit;
  }
  *value = sum;
  return true;
}

static bool field_number(const struct line *line, int field, uint32_t *value) {
  char digits[12];
  int64_t number;
  if (field >= line->count || line->lengths[field] >= sizeof digits) return false;
  memcpy(digits, line->fields[field], line->lengths[field]);
  digits[line->lengths[field]] = 0;
  if (!parse_number(digits, 10, UINT32_MAX - 1, &number)) return false;
  *value = (uint32_t)number;
  return true;
}

static bool find_by_id(struct table *table, uint32_t id, struct line *line) {
  read_table(table);
  uint32_t found;
  for (size_t at = 0; next_line(table, &at, line);) if (field_number(line, 2, &found) && found == id) return true;
  return false;
}

static bool find_by_name(struct table *table, const char *name, size_t length, struct line *line) {
  read_table(table);
  uint32_t id;
  for (size_t at = 0; next_line(table, &at, line);) {
    if (length && line->lengths[0] == length && !memcmp(line->fields[0], name, length) && field_number(line, 2, &id)) return true;
  }
  return false;
}

static const char *cached_name(struct table *table, struct cached *cache, uint32_t id) {
  struct cached *slot = &cache[id % cache_size];
  if (slot->is_known && slot->id == id) return slot->name;
  free(slot->name);
  *slot = (struct cached){ .is_known = true, .id = id };
  struct line line;
  if (find_by_id(table, id, &line) && line.lengths[0] && line.lengths[0] <= max_name_bytes && is_utf8(line.fields[0], line.lengths[0])) {
    slot->name = strndup(line.fields[0], line.lengths[0]);
  }
  return slot->name;
}

const char *user_name(uid_t uid) { return cached_name(&users, user_cache, uid); }
const char *group_name(gid_t gid) { return cached_name(&groups, group_cache, gid); }

void find_owner(const char *words, uid_t *uid, gid_t *gid) {
  const char *colon = strchr(words, ':');
  size_t length = colon ? (size_t)(colon - words) : strlen(words);
  char *user = strndup(words, length);
  if (!user) refuse_errno(ENOMEM, NULL);
  struct line line;
  uint32_t found;
  int64_t number;
  bool has_group = false;
  if (find_by_name(&users, user, length, &line) && field_number(&line, 2, &found)) {
    *uid = found;
    has_group = field_number(&line, 3, &found);
    *gid = found;
  } else if (parse_number(user, 10, UINT32_MAX - 1, &number)) {
    *uid = (uid_t)number;
    has_group = find_by_id(&users, *uid, &line) && field_number(&line, 3, &found);
    *gid = has_group ? found : *uid;
    has_group = true;
  } else {
    refuse("unknown_owner", NULL, "the sandbox has no user of this name in /etc/passwd; give a number, or a name that is there");
  }
  free(user);
  if (!colon) {
    if (!has_group) refuse("unknown_owner", NULL, "the user's line in /etc/passwd has no group; give one, as USER:GROUP");
    return;
  }
  if (find_by_name(&groups, colon + 1, strlen(colon + 1), &line) && field_number(&line, 2, &found)) *gid = found;
  else if (parse_number(colon + 1, 10, UINT32_MAX - 1, &number)) *gid = (gid_t)number;
  else refuse("unknown_owner", NULL, "the sandbox has no group of this name in /etc/group; give a number, or a name that is there");
}

bool find_account(uid_t uid, char **home, char **shell) {
  struct line line;
  *home = *shell = NULL;
  if (!find_by_id(&users, uid, &line)) return false;
  if (line.count > 5 && line.lengths[5]) *home = strndup(line.fields[5], line.lengths[5]);
  if (line.count > 6 && line.lengths[6]) *shell = strndup(line.fields[6], line.lengths[6]);
  return true;
}
