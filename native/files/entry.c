/* What is said of a file: a FileEntry. */
#include "files.h"
#include <stdlib.h>
#include <string.h>

const char *type_name(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG: return "file";
    case S_IFDIR: return "directory";
    case S_IFLNK: return "symlink";
    case S_IFIFO: return "fifo";
    case S_IFSOCK: return "socket";
    case S_IFCHR: return "character_device";
    case S_IFBLK: return "block_device";
    default: return "unknown";
  }
}

static void put_padded(int64_t value, int width) {
  char digits[16];
  for (int i = width - 1; i >= 0; i--, value /= 10) digits[i] = (char)('0' + value % 10);
  put(digits, (size_t)width);
}

/* ISO 8601 in UTC, within the years 0000 to 9999; without the libc's, which reads the sandbox's time zone. */
static void put_time(struct timespec time) {
  const int64_t first = -62167219200, last = 253402300799;
  int64_t seconds = time.tv_sec < first ? first : time.tv_sec > last ? last : time.tv_sec;
  int64_t days = seconds / 86400 - (seconds % 86400 < 0), second = seconds - days * 86400;
  /* Days since 0000-03-01, in eras of 400 years. */
  int64_t shifted = days + 719468, era = (shifted >= 0 ? shifted : shifted - 146096) / 146097, day_of_era = shifted - era * 146097;
  int64_t year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
  int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100), part = (5 * day_of_year + 2) / 153;
  int64_t month = part < 10 ? part + 3 : part - 9, year = year_of_era + era * 400 + (month <= 2);
  put("\"", 1), put_padded(year, 4);
  put("-", 1), put_padded(month, 2);
  put("-", 1), put_padded(day_of_year - (153 * part + 2) / 5 + 1, 2);
  put("T", 1), put_padded(second / 3600, 2);
  put(":", 1), put_padded(second / 60 % 60, 2);
  put(":", 1), put_padded(second % 60, 2);
  put(".", 1), put_padded(time.tv_nsec / 1000000, 3);
  put("Z\"", 2);
}

/* What the link says, of any length that a file system allows; without `data` where it cannot be read. */
static struct text link_target(int dir, const char *name) {
  struct text target = { 0 };
  char bytes[4096];
  ssize_t length = readlinkat(dir, name, bytes, sizeof bytes);
  if (length >= 0) text_add(&target, bytes, (size_t)length);
  return target;
}

/* `dir` and `name` are where it lies, for what a link says. */
void put_entry(const char *path, size_t length, const struct stat *st, int dir, const char *name) {
  size_t end = length;
  while (end > 1 && path[end - 1] == '/') end--;
  size_t at = end;
  while (at && path[at - 1] != '/') at--;
  if (at == end) at = 0;
  struct text target = { 0 };
  if (S_ISLNK(st->st_mode)) target = link_target(dir, name);
  bool is_text = is_utf8(path, end) && (!target.data || is_utf8(target.data, target.length));
  void (*put_name)(const char *, size_t) = is_text ? put_json : put_base64;

  put_text("{\"name\":"), put_name(path + at, end - at);
  put_text(",\"path\":"), put_name(path, end);
  put_text(",\"type\":\""), put_text(type_name(st->st_mode));
  put_text("\",\"sizeBytes\":"), put_size(st->st_size);
  mode_t mode = st->st_mode & 07777;
  put_text(",\"mode\":\"0");
  if (mode > 0777) put((char[]){ (char)('0' + (mode >> 9)) }, 1);
  put((char[]){ (char)('0' + (mode >> 6 & 7)), (char)('0' + (mode >> 3 & 7)), (char)('0' + (mode & 7)) }, 3);
  put_text("\",\"uid\":"), put_integer(st->st_uid);
  put_text(",\"gid\":"), put_integer(st->st_gid);
  const char *user = user_name(st->st_uid), *group = group_name(st->st_gid);
  if (user) put_text(",\"owner\":"), put_json(user, strlen(user));
  if (group) put_text(",\"group\":"), put_json(group, strlen(group));
  put_text(",\"modifiedAt\":"), put_time(st->st_mtim);
  if (target.data) put_text(",\"target\":"), put_name(target.data, target.length);
  if (!is_text) put_text(",\"encoding\":\"base64\"");
  put("}", 1);
  free(target.data);
}
