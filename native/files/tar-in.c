/* extract: a tar from framed standard input into a directory. Reads what GNU tar, bsdtar, Go, Python and npm write. */
#include "files.h"
#include "tar.h"
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

enum { max_long_bytes = megabyte, max_directories = 65536, max_directory_names = 16 * megabyte };

static struct {
  const struct options *options;
  int root;
  uid_t uid;
  gid_t gid;
  unsigned char *piece;
  size_t piece_length;
  bool is_any;
} in;

/* What is said of the next member beside its header. */
static struct { struct text name, link; bool has_name, has_link, has_size; int64_t size; bool has_mtime; int64_t mtime; } next;

/* Modes and times of directories are theirs when nothing is put into them any more. */
struct directory { size_t name_at; mode_t mode; int64_t mtime; };
static struct { struct directory *items; size_t count, capacity; struct text names; } made;

static _Noreturn void refuse_archive(const char *why) { refuse("invalid_archive", in.options->path, why); }

/* So many bytes of it, at the most; 0 at the end that the sender has said. */
static size_t take_some(unsigned char **bytes, size_t wanted) {
  if (!in.piece_length) {
    ssize_t n = next_piece(&in.piece);
    if (n < 0) refuse("incomplete", in.options->path, "the input ended before all of it was there; what came before is in place, send it again");
    in.piece_length = (size_t)n;
    in.is_any |= n > 0;
  }
  size_t length = in.piece_length < wanted ? in.piece_length : wanted;
  *bytes = in.piece;
  in.piece += length;
  in.piece_length -= length;
  return length;
}

/* Exactly so many, or what there was until the end. */
static size_t take(void *to, size_t wanted) {
  size_t length = 0;
  unsigned char *bytes;
  for (size_t n; length < wanted && (n = take_some(&bytes, wanted - length)); length += n) if (to) memcpy((char *)to + length, bytes, n);
  return length;
}

static void skip(int64_t size) {
  unsigned char *bytes;
  while (size) {
    size_t n = take_some(&bytes, size < megabyte ? (size_t)size : megabyte);
    if (!n) refuse_archive("the archive ends in the middle of a file; make it again");
    size -= (int64_t)n;
  }
}

static int64_t padding(int64_t size) { return (tar_block - size % tar_block) % tar_block; }

static int64_t number_of(const char *field, size_t size) {
  const unsigned char *at = (const unsigned char *)field;
  if (at[0] & 0x80) {
    int64_t value = at[0] & 0x40 ? -1 : 0;
    for (size_t i = 0; i < size; i++) {
      if (size - i > 8 && i) {
        if (at[i] != (value < 0 ? 0xff : 0)) refuse_archive("a number in the archive is out of range");
        continue;
      }
      if (i) value = (int64_t)((uint64_t)value << 8 | at[i]);
      else if (size <= 8) value = (int64_t)((uint64_t)value << 6 | (at[0] & 0x3f));
    }
    return value;
  }
  int64_t value = 0;
  size_t i = 0;
  while (i < size && (field[i] == ' ' || !field[i])) i++;
  for (; i < size && field[i] >= '0' && field[i] <= '7'; i++) value = value * 8 + (field[i] - '0');
  if (i < size && field[i] && field[i] != ' ') refuse_archive("a number in the archive is not one");
  return value;
}

static bool has_checksum(const struct tar_header *header) {
  int64_t plain = 0, with_sign = 0;
  for (size_t i = 0; i < sizeof header->checksum; i++) if (header->checksum[i] && !strchr(" 01234567", header->checksum[i])) return false;
  const size_t from = offsetof(struct tar_header, checksum), to = from + sizeof header->checksum;
  for (size_t i = 0; i < sizeof *header; i++) {
    char c = i >= from && i < to ? ' ' : ((const char *)header)[i];
    plain += (unsigned char)c;
    with_sign += (signed char)c;
  }
  int64_t said = number_of(header->checksum, sizeof header->checksum);
  return said == plain || said == with_sign;
}

/* What is told in the body of a member, such as a long name; bounded. */
static void take_body(int64_t size, struct text *body) {
  if (size < 0 || size > max_long_bytes) refuse_archive("a name or a header in the archive is too long");
  text_cut(body, 0);
  text_add(body, "", 0);
  char part[4096];
  for (int64_t left = size; left;) {
    size_t n = take(part, left < (int64_t)sizeof part ? (size_t)left : sizeof part);
    if (!n) refuse_archive("the archive ends in the middle of a header; make it again");
    text_add(body, part, n);
    left -= (int64_t)n;
  }
  skip(padding(size));
}

/* Records `LENGTH KEY=VALUE\n`; of a global header nothing is wanted. */
static void take_pax(int64_t size, bool is_global) {
  static struct text body;
  take_body(size, &body);
  for (size_t at = 0; at < body.length && !is_global;) {
    char *record = body.data + at, *space = memchr(record, ' ', body.length - at);
    if (!space) refuse_archive("an extended header in the archive is damaged");
    *space = 0;
    int64_t length;
    if (!parse_number(record, 10, (int64_t)(body.length - at), &length) || record + length <= space + 1 || record[length - 1] != '\n') {
      refuse_archive("an extended header in the archive is damaged");
    }
    char *key = space + 1, *end = record + length - 1, *value = memchr(key, '=', (size_t)(end - key));
    if (!value) refuse_archive("an extended header in the archive is damaged");
    *value++ = *end = 0;
    size_t value_length = (size_t)(end - value);
    if (!strcmp(key, "path")) text_cut(&next.name, 0), text_add(&next.name, value, value_length), next.has_name = true;
    else if (!strcmp(key, "linkpath")) text_cut(&next.link, 0), text_add(&next.link, value, value_length), next.has_link = true;
    else if (!strcmp(key, "size")) {
      if (!parse_number(value, 10, INT64_MAX / 2, &next.size)) refuse_archive("a size in the archive is not a number");
      next.has_size = true;
    } else if (!strcmp(key, "mtime")) {
      value[strcspn(value, ".")] = 0;
      bool is_negative = *value == '-';
      next.has_mtime = parse_number(value + is_negative, 10, INT64_MAX / 2, &next.mtime);
      if (is_negative) next.mtime = -next.mtime;
    } else if (!strncmp(key, "GNU.sparse.", 11)) refuse_archive("the archive has sparse files; make it without --sparse");
    at += (size_t)length;
  }
}

/* Without what would lead above the directory: leading slashes and dots. `.` alone becomes the empty name. */
static char *clean(struct text *name, bool is_link) {
  if (strlen(name->data) != name->length) {
    /* GNU's long names have a NUL at the end. */
    text_cut(name, strlen(name->data));
  }
  while (name->length && name->data[name->length - 1] == '/') text_cut(name, name->length - 1);
  char *at = name->data;
  for (;;) {
    if (*at == '/') at++;
    else if (at[0] == '.' && (at[1] == '/' || !at[1])) at++;
    else break;
  }
  for (const char *part = at; *part; part += strcspn(part, "/"), part += *part == '/') {
    if (!strncmp(part, "..", 2) && (!part[2] || part[2] == '/')) {
      refuse_archive(is_link ? "a hard link in the archive leads out of it" : "a name in the archive leads out of it, by ..");
    }
  }
  return at;
}

static _Noreturn void refuse_member(const char *name) {
  int code = errno;
  struct text path = { 0 };
  text_add(&path, in.options->path, strlen(in.options->path));
  text_join(&path, name);
  refuse_errno(code, path.data);
}

/* Answers whether it is worth trying again: the directory above was missing and is made, or what was in the way is gone. */
static bool clear_way(char *name) {
  if (errno == EEXIST) return !unlinkat(in.root, name, 0);
  char *slash = strrchr(name, '/');
  if (errno != ENOENT || !slash) return false;
  *slash = 0;
  bool is_made = make_directories(in.root, name, in.uid, in.gid);
  *slash = '/';
  return is_made;
}

static void own(char *name) {
  if (in.uid != (uid_t)keep_owner && fchownat(in.root, name, in.uid, in.gid, AT_SYMLINK_NOFOLLOW)) refuse_member(name);
}

static void date(int fd, char *name, int64_t mtime) {
  const struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_sec = mtime } };
  /* A file system need not have times. */
  if (fd >= 0) futimens(fd, times);
  else utimensat(in.root, name, times, AT_SYMLINK_NOFOLLOW);
}

static void extract_file(char *name, int64_t size, mode_t mode, int64_t mtime) {
  int fd = -1;
  for (int attempt = 0; attempt < 3; attempt++) {
    fd = openat(in.root, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd >= 0 || !clear_way(name)) break;
  }
  if (fd < 0) refuse_member(name);
  /* Half a file is worse than none. */
  int dir = -1;
  char *slash = strrchr(name, '/'), *base = slash ? slash + 1 : name;
  if (slash) *slash = 0, dir = openat(in.root, name, O_PATH | O_DIRECTORY | O_CLOEXEC), *slash = '/';
  bool is_armed = (!slash || dir >= 0) && strlen(base) < 64;
  if (is_armed) undo_arm(slash ? dir : in.root, base);
  unsigned char *bytes;
  for (int64_t left = size; left;) {
    size_t n = take_some(&bytes, left < megabyte ? (size_t)left : megabyte);
    if (!n) refuse_archive("the archive ends in the middle of a file; make it again");
    if (!write_whole(fd, bytes, n)) refuse_member(name);
    left -= (int64_t)n;
  }
  if (in.uid != (uid_t)keep_owner && fchown(fd, in.uid, in.gid)) refuse_member(name);
  if (fchmod(fd, mode)) refuse_member(name);
  date(fd, name, mtime);
  if (close(fd)) refuse_member(name);
  undo_disarm();
  if (dir >= 0) close(dir);
}

static void extract_directory(char *name, mode_t mode, int64_t mtime) {
  if (!*name) return;
  int outcome = -1;
  for (int attempt = 0; attempt < 2; attempt++) {
    outcome = mkdirat(in.root, name, mode | 0700);
    if (!outcome || errno == EEXIST || !clear_way(name)) break;
  }
  struct stat st;
  if (outcome && errno == EEXIST) {
    /* What is there stays as it is, a link to a directory too. */
    if (fstatat(in.root, name, &st, 0) || !S_ISDIR(st.st_mode)) errno = EEXIST, refuse_member(name);
    return;
  }
  if (outcome) refuse_member(name);
  own(name);
  if (made.count == max_directories || made.names.length > max_directory_names) return;
  if (made.count == made.capacity) {
    made.capacity = made.capacity ? made.capacity * 2 : 64;
    made.items = claim_more(made.items, made.capacity * sizeof *made.items);
  }
  made.items[made.count++] = (struct directory){ made.names.length, mode, mtime };
  text_add(&made.names, name, strlen(name) + 1);
}

static void finish_directories(void) {
  while (made.count--) {
    const struct directory *directory = &made.items[made.count];
    char *name = made.names.data + directory->name_at;
    int fd = openat(in.root, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) continue;
    date(fd, name, directory->mtime);
    if ((directory->mode | 0700) != directory->mode) fchmod(fd, directory->mode);
    close(fd);
  }
}

/* Links, FIFOs and devices: whatever one call makes. */
static void extract_other(char type, char *name, struct text *link, mode_t mode, dev_t device, int64_t mtime) {
  char *target = type == '1' ? clean(link, true) : link->data;
  int outcome = -1;
  for (int attempt = 0; attempt < 3; attempt++) {
    if (type == '1') outcome = linkat(in.root, target, in.root, name, 0);
    else if (type == '2') outcome = symlinkat(target, in.root, name);
    else outcome = mknodat(in.root, name, mode | (type == '6' ? S_IFIFO : type == '3' ? S_IFCHR : S_IFBLK), device);
    if (!outcome || !clear_way(name)) break;
  }
  if (outcome) refuse_member(name);
  if (type != '1') own(name), date(-1, name, mtime);
}

static void forget_next(void) { next.has_name = next.has_link = next.has_size = next.has_mtime = false; }

/* One header and what belongs to it. */
static void extract_member(const struct tar_header *header) {
  int64_t size = next.has_size ? next.size : number_of(header->size, sizeof header->size);
  if (size < 0) refuse_archive("a size in the archive is negative");
  switch (header->type) {
    case 'L': take_body(size, &next.name), next.has_name = true; return;
    case 'K': take_body(size, &next.link), next.has_link = true; return;
    case 'x': take_pax(size, false); return;
    case 'g': take_pax(size, true); return;
    case 'S': refuse_archive("the archive has sparse files; make it without --sparse");
    case 'V': case 'D': case 'M': case 'N': skip(size), skip(padding(size)), forget_next(); return;
  }
  if (!next.has_name) {
    text_cut(&next.name, 0);
    if (!memcmp(header->magic, "ustar", 6) /* with its NUL: GNU has times there */ && header->prefix[0]) {
      text_add(&next.name, header->prefix, strnlen(header->prefix, sizeof header->prefix));
      text_add(&next.name, "/", 1);
    }
    text_add(&next.name, header->name, strnlen(header->name, sizeof header->name));
  }
  if (!next.has_link) text_cut(&next.link, 0), text_add(&next.link, header->link, strnlen(header->link, sizeof header->link));
  bool is_directory = header->type == '5' || ((header->type == '0' || !header->type) && next.name.length && next.name.data[next.name.length - 1] == '/');
  char *name = clean(&next.name, false);
  /* Not the bits that act as an owner: the owner is another. */
  mode_t mode = (mode_t)number_of(header->mode, sizeof header->mode) & 01777;
  int64_t mtime = next.has_mtime ? next.mtime : number_of(header->mtime, sizeof header->mtime);
  if (!*name && !is_directory) refuse_archive("a file in the archive has no name");
  if (is_directory) extract_directory(name, mode, mtime);
  else if (header->type >= '1' && header->type <= '6') {
    dev_t device = makedev((unsigned)number_of(header->major, sizeof header->major), (unsigned)number_of(header->minor, sizeof header->minor));
    extract_other(header->type, name, &next.link, mode, header->type == '6' ? 0 : device, mtime);
  } else {
    extract_file(name, size, mode, mtime);
    skip(padding(size));
  }
  forget_next();
}

void op_extract(const struct options *options) {
  static const struct tar_header nothing;
  in.options = options;
  in.uid = (uid_t)keep_owner, in.gid = (gid_t)keep_owner;
  if (options->owner) find_owner(options->owner, &in.uid, &in.gid);
  if (options->parents && !make_directories(AT_FDCWD, options->path, in.uid, in.gid)) refuse_errno(errno, options->path);
  struct stat st;
  in.root = open_found(options->path, O_RDONLY, &st);
  if (!S_ISDIR(st.st_mode)) refuse_errno(ENOTDIR, options->path);
  if (faccessat(in.root, ".", W_OK | X_OK, AT_EACCESS)) refuse_errno(errno, options->path);
  undo_on_signals();
  put_ready();
  struct tar_header header;
  for (size_t length; (length = take(&header, sizeof header));) {
    if (length == sizeof header && !memcmp(&header, &nothing, sizeof header)) {
      /* The end of the archive; how much padding follows is nobody's business. */
      finish_directories();
      unsigned char *bytes;
      while (take_some(&bytes, megabyte));
      put_text("{\"ok\":true}\n");
      finish(0);
    }
    if (length < 2 || !memcmp(&header, "\x1f\x8b", 2) || !memcmp(&header, "BZh", 3) || !memcmp(&header, "\xfd""7zX", 4) || !memcmp(&header, "\x28\xb5\x2f\xfd", 4)) {
      refuse_archive("it is not a tar, or a compressed one; send a plain tar");
    }
    if (length < sizeof header || !has_checksum(&header)) refuse_archive("it is not a tar, or it is damaged; send a plain tar");
    extract_member(&header);
  }
  if (!in.is_any) refuse_archive("there is no archive; send a plain tar");
  finish_directories();
  put_text("{\"ok\":true}\n");
}
