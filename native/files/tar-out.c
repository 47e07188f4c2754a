/* archive: a tar with GNU's way of telling long names and large numbers, which every tar reads. */
#include "files.h"
#include "tar.h"
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

/* Files with several names, so that the later ones are links to the first. What does not fit is archived as a file of its own. */
struct linked { dev_t device; ino_t inode; size_t name_at; };
enum { linked_slots = 131072, max_linked = 65536, max_linked_names = 16 * megabyte };
static struct { struct linked *slots; size_t count; struct text names; } known;

static size_t name_at;             /* where the name in the archive begins, in the path of the walk */

/* In octal, or in binary with the first bit set where that is too large, or negative. */
static void set_number(char *field, size_t size, int64_t value) {
  bool fits = value >= 0 && (size * 3 - 3 >= 63 || value < (int64_t)1 << (size * 3 - 3));
  if (fits) {
    for (size_t i = size - 1; i--; value >>= 3) field[i] = (char)('0' + (value & 7));
    return;
  }
  for (size_t i = size; i--; value >>= 8) field[i] = (char)(value & 255);
  field[0] = (char)((unsigned char)field[0] | 0x80);
}

static void put_padding(int64_t size) {
  static const char zeros[tar_block];
  put(zeros, (size_t)((tar_block - size % tar_block) % tar_block));
}

static void put_header(struct tar_header *header) {
  memcpy(header->magic, "ustar ", 6);
  memcpy(header->version, " ", 2);
  memset(header->checksum, ' ', sizeof header->checksum);
  unsigned sum = 0;
  for (size_t i = 0; i < sizeof *header; i++) sum += ((unsigned char *)header)[i];
  set_number(header->checksum, 7, sum);
  header->checksum[6] = 0;
  put(header, sizeof *header);
}

static void put_long(char type, const char *name, size_t length) {
  struct tar_header header = { .name = "././@LongLink", .type = type };
  set_number(header.mode, sizeof header.mode, 0);
  set_number(header.uid, sizeof header.uid, 0);
  set_number(header.gid, sizeof header.gid, 0);
  set_number(header.size, sizeof header.size, (int64_t)length + 1);
  set_number(header.mtime, sizeof header.mtime, 0);
  put_header(&header);
  put(name, length), put("", 1);
  put_padding((int64_t)length + 1);
}

static void put_member(const char *name, size_t length, char type, const struct stat *st, const char *link, size_t link_length) {
  struct tar_header header = { .type = type };
  if (length > sizeof header.name) put_long('L', name, length);
  if (link_length > sizeof header.link) put_long('K', link, link_length);
  memcpy(header.name, name, length < sizeof header.name ? length : sizeof header.name);
  memcpy(header.link, link, link_length < sizeof header.link ? link_length : sizeof header.link);
  set_number(header.mode, sizeof header.mode, st->st_mode & 07777);
  set_number(header.uid, sizeof header.uid, st->st_uid);
  set_number(header.gid, sizeof header.gid, st->st_gid);
  set_number(header.size, sizeof header.size, type == '0' ? st->st_size : 0);
  set_number(header.mtime, sizeof header.mtime, st->st_mtim.tv_sec);
  bool is_device = type == '3' || type == '4';
  set_number(header.major, sizeof header.major, is_device ? major(st->st_rdev) : 0);
  set_number(header.minor, sizeof header.minor, is_device ? minor(st->st_rdev) : 0);
  const char *user = user_name(st->st_uid), *group = group_name(st->st_gid);
  if (user && strlen(user) < sizeof header.user) strcpy(header.user, user);
  if (group && strlen(group) < sizeof header.group) strcpy(header.group, group);
  put_header(&header);
}

/* The name under which the file is already in the archive; else notes this one. */
static const char *known_name(const struct stat *st, const char *name, size_t length) {
  if (!known.slots) known.slots = calloc(linked_slots, sizeof *known.slots);
  if (!known.slots) return NULL;
  size_t slot = (size_t)((st->st_ino ^ st->st_dev * 31) * 0x9e3779b97f4a7c15u >> 40) % linked_slots;
  for (; known.slots[slot].name_at; slot = (slot + 1) % linked_slots) {
    const struct linked *found = &known.slots[slot];
    if (found->device == st->st_dev && found->inode == st->st_ino) return known.names.data + found->name_at - 1;
  }
  if (known.count == max_linked || known.names.length > max_linked_names) return NULL;
  known.count++;
  known.slots[slot] = (struct linked){ st->st_dev, st->st_ino, known.names.length + 1 };
  text_add(&known.names, name, length);
  text_add(&known.names, "", 1);
  return NULL;
}

/* So much as its header promised; what is missing, as it became shorter in the meantime, is zeros. */
static void put_content(int fd, int64_t size, const char *path) {
  static char bytes[megabyte];
  bool has_ended = false;
  for (int64_t left = size; left;) {
    size_t wanted = left < megabyte ? (size_t)left : megabyte;
    ssize_t n = has_ended ? 0 : read(fd, bytes, wanted);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) refuse_errno(errno, path);
    if (!n) {
      if (!has_ended) memset(bytes, 0, sizeof bytes);
      has_ended = true;
      n = (ssize_t)wanted;
    }
    put(bytes, (size_t)n);
    left -= n;
  }
  put_padding(size);
}

static void archive_file(int dir, const char *file, const char *path, const char *name, size_t length) {
  struct stat st;
  int fd = openat(dir, file, O_RDONLY | O_NOFOLLOW | open_safely);
  if (fd < 0 && (errno == ENOENT || errno == ELOOP || errno == ENXIO)) return;
  if (fd < 0 || fstat(fd, &st)) refuse_errno(errno, path);
  if (S_ISREG(st.st_mode)) {
    const char *first = st.st_nlink > 1 ? known_name(&st, name, length) : NULL;
    if (first) put_member(name, length, '1', &st, first, strlen(first));
    else {
      put_member(name, length, '0', &st, "", 0);
      put_content(fd, st.st_size, path);
    }
  }
  close(fd);
}

static void archive_link(int dir, const char *link, const struct stat *st, const char *path, const char *name, size_t length) {
  char target[65536];
  ssize_t target_length = readlinkat(dir, link, target, sizeof target);
  if (target_length < 0 && (errno == ENOENT || errno == EINVAL)) return;
  if (target_length < 0) refuse_errno(errno, path);
  put_member(name, length, '2', st, target, (size_t)target_length);
}

static void archive_found(struct walk *walk) {
  const char *name = walk->path.data + name_at, *path = walk->path.data;
  size_t length = walk->path.length - name_at;
  switch (walk->st.st_mode & S_IFMT) {
    case S_IFDIR:
      text_add(&walk->path, "/", 1);
      put_member(walk->path.data + name_at, length + 1, '5', &walk->st, "", 0);
      text_cut(&walk->path, name_at + length);
      if (!walk_enter(walk)) refuse_errno(errno, walk->path.data);
      return;
    case S_IFREG: archive_file(walk->dir, walk->name, path, name, length); return;
    case S_IFLNK: archive_link(walk->dir, walk->name, &walk->st, path, name, length); return;
    case S_IFIFO: put_member(name, length, '6', &walk->st, "", 0); return;
    case S_IFCHR: put_member(name, length, '3', &walk->st, "", 0); return;
    case S_IFBLK: put_member(name, length, '4', &walk->st, "", 0); return;
    default: return;               /* sockets have no place in a tar */
  }
}

void op_archive(const struct options *options) {
  struct stat st;
  int fd = open_found(options->path, O_RDONLY, &st);
  const char *path = options->path;
  /* The base name of what was asked for; the root, and what ends in dots, is "." */
  size_t end = strlen(path);
  while (end && path[end - 1] == '/') end--;
  size_t at = end;
  while (at && path[at - 1] != '/') at--;
  struct text name = { 0 };
  text_add(&name, path + at, end - at);
  if (!name.length || is_dots(name.data)) text_cut(&name, 0), text_add(&name, ".", 1);

  put_text("{\"ok\":true,\"entry\":");
  put_entry(path, strlen(path), &st, AT_FDCWD, path);
  put_text("}\n");
  is_header_out = true;
  if (S_ISDIR(st.st_mode)) {
    static struct walk walk;
    /* The walk's path ends in the name in the archive: what is in it follows. */
    size_t length = name.length;
    text_add(&name, "/", 1);
    put_member(name.data, name.length, '5', &st, "", 0);
    text_cut(&name, length);
    struct text start = { 0 };
    text_add(&start, path, at);
    name_at = start.length;
    text_add(&start, name.data, name.length);
    walk_begin(&walk, fd, start.data);
    for (int outcome; (outcome = walk_next(&walk));) {
      if (outcome < 0) refuse_errno(errno, walk.path.data);
      archive_found(&walk);
    }
  } else {
    put_member(name.data, name.length, '0', &st, "", 0);
    put_content(fd, st.st_size, path);
  }
  static const char zeros[2 * tar_block];
  put(zeros, sizeof zeros);
}
