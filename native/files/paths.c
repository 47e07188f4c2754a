/* What a path leads to. The kernel walks it; a final link is followed by hand where what is beside its target matters. */
#include "files.h"
#include <stdlib.h>
#include <string.h>

enum { max_links = 40, max_target_bytes = 65536 };

bool ends_in_slash(const char *path) {
  size_t length = strlen(path);
  return length && path[length - 1] == '/';
}

bool is_dots(const char *name) { return !strcmp(name, ".") || !strcmp(name, ".."); }

/* Where the last name of the path begins, without slashes behind it; an empty name for the root. */
static void split(const char *path, size_t *name_at, size_t *name_length) {
  size_t end = strlen(path);
  while (end && path[end - 1] == '/') end--;
  size_t at = end;
  while (at && path[at - 1] != '/') at--;
  *name_at = at;
  *name_length = end - at;
}

/* The directory that the last name of the path lies in, from a directory on. */
static int open_parent(int base, const char *path, size_t name_at) {
  if (!name_at) return openat(base, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
  char *parent = claim(name_at + 1);
  memcpy(parent, path, name_at);
  parent[name_at] = 0;
  int dir = openat(base, parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
  int code = errno;
  free(parent);
  errno = code;
  return dir;
}

/* What the link says; NULL where there is no link. */
static char *read_link(int dir, const char *name) {
  for (size_t size = 256; size <= max_target_bytes; size *= 4) {
    char *target = claim(size);
    ssize_t length = readlinkat(dir, name, target, size);
    if (length >= 0 && (size_t)length < size) {
      target[length] = 0;
      return target;
    }
    free(target);
    if (length < 0) return NULL;
  }
  return NULL;
}

struct place find_place(const char *path, bool follows) {
  struct place place = { .dir = AT_FDCWD };
  char *rest = strdup(path);
  for (int links = 0; rest; links++) {
    size_t at, length;
    split(rest, &at, &length);
    int dir = open_parent(place.dir, rest, at);
    int code = errno;
    if (place.dir != AT_FDCWD) close(place.dir);
    free(place.name);
    place.name = length ? strndup(rest + at, length) : strdup(".");
    free(rest);
    errno = code;
    place.dir = dir;
    if (dir < 0 || !follows) return place;
    rest = read_link(dir, place.name);
    if (rest && links == max_links) {
      close(dir);
      place.dir = -1;
      errno = ELOOP;
      return place;
    }
  }
  return place;
}

bool make_directories(int base, const char *path, uid_t uid, gid_t gid) {
  struct text name = { 0 };
  int dir = openat(base, *path == '/' ? "/" : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
  for (const char *at = path; dir >= 0;) {
    while (*at == '/') at++;
    size_t length = strcspn(at, "/");
    if (!length) break;
    text_cut(&name, 0);
    text_add(&name, at, length);
    at += length;
    int next = openat(dir, name.data, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (next < 0 && errno == ENOENT) {
      bool is_made = !mkdirat(dir, name.data, 0755);
      if (is_made || errno == EEXIST) next = openat(dir, name.data, O_PATH | O_DIRECTORY | O_CLOEXEC);
      if (is_made && uid != (uid_t)keep_owner && fchownat(dir, name.data, uid, gid, AT_SYMLINK_NOFOLLOW) && next >= 0) {
        int code = errno;
        close(next);
        next = -1;
        errno = code;
      }
    }
    int code = errno;
    close(dir);
    dir = next;
    errno = code;
  }
  int code = errno;
  free(name.data);
  if (dir >= 0) close(dir);
  errno = code;
  return dir >= 0;
}

void make_parents(const char *path) {
  size_t at, length;
  split(path, &at, &length);
  if (!at) return;
  char *parent = strndup(path, at);
  if (!parent) refuse_errno(ENOMEM, path);
  if (!make_directories(AT_FDCWD, parent, keep_owner, keep_owner)) refuse_errno(errno, path);
  free(parent);
}

int open_found(const char *path, int flags, struct stat *st) {
  /* To open a FIFO or a device has effects, even without waiting: look first. */
  if (fstatat(AT_FDCWD, path, st, 0)) refuse_errno(errno, path);
  if (!S_ISREG(st->st_mode) && !S_ISDIR(st->st_mode)) refuse_errno(ENXIO, path);
  int fd = open(path, flags | open_safely);
  if (fd < 0 || fstat(fd, st)) refuse_errno(errno, path);
  if (!S_ISREG(st->st_mode) && !S_ISDIR(st->st_mode)) refuse_errno(ENXIO, path);
  return fd;
}
