/* remove, of trees of any depth. */
#include "files.h"
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statfs.h>

/*
 * The way down to where it works. Directories near the top of the way are held open; deeper ones are left, and come back to by "..":
 * only if that leads to the very directory, for it may have been moved elsewhere in the meantime.
 */
struct level { dev_t device; ino_t inode; size_t name_at; DIR *dir; bool has_removed; };
enum { held_levels = 128, max_levels = 1000000, max_rounds = 16 };
struct way { struct level *levels; size_t count, capacity; struct text names; };

/* Names are kept one after the other, each with its NUL. */
static bool push(struct way *way, int parent, const char *name) {
  if (way->count == max_levels) {
    errno = ENAMETOOLONG;
    return false;
  }
  int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | open_safely);
  if (fd < 0) return false;
  struct stat st;
  bool is_other = fstat(fd, &st) || (way->count && st.st_dev != way->levels[0].device);
  DIR *dir = is_other ? NULL : fdopendir(fd);
  if (!dir) {
    int code = is_other ? EBUSY : errno;
    close(fd);
    errno = code;
    return false;
  }
  if (way->count == way->capacity) {
    way->capacity = way->capacity ? way->capacity * 2 : 64;
    way->levels = claim_more(way->levels, way->capacity * sizeof *way->levels);
  }
  way->levels[way->count++] = (struct level){ .device = st.st_dev, .inode = st.st_ino, .name_at = way->names.length, .dir = dir };
  text_add(&way->names, name, strlen(name) + 1);
  return true;
}

/* Goes back to the level above, and opens it again if it was left; errno. */
static bool reopen(struct way *way, int below) {
  struct level *level = &way->levels[way->count - 1];
  if (level->dir) return true;
  struct stat st;
  int fd = openat(below, "..", O_RDONLY | O_DIRECTORY | open_safely);
  if (fd < 0) return false;
  if (fstat(fd, &st) || st.st_dev != level->device || st.st_ino != level->inode || !(level->dir = fdopendir(fd))) {
    close(fd);
    errno = EBUSY;
    return false;
  }
  return true;
}

static void tell_path(const struct way *way, const char *name, struct text *path) {
  /* Enough to find it; the whole of a path may be longer than anything can take. */
  for (size_t i = 0; i < way->count && path->length < 4096; i++) text_join(path, way->names.data + way->levels[i].name_at);
  if (name) text_join(path, name);
}

/* Removes what is neither a directory nor must be entered: 1 gone, 0 to be entered, -1 errno. */
static int remove_one(int dir, const char *name, bool is_directory) {
  for (int attempt = 0; attempt < 2; attempt++, is_directory = !is_directory) {
    if (!unlinkat(dir, name, is_directory ? AT_REMOVEDIR : 0)) return 1;
    if (errno == ENOENT) return 1;
    if (is_directory && (errno == ENOTEMPTY || errno == EEXIST)) return 0;
    if (is_directory ? errno != ENOTDIR : errno != EISDIR && errno != EPERM) return -1;
    if (!is_directory && errno == EPERM) {
      /* POSIX and some file systems say so of a directory. */
      struct stat st;
      if (!fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) && !S_ISDIR(st.st_mode)) {
        errno = EPERM;
        return -1;
      }
    }
  }
  return -1;
}

/* Empties the level that the way ends in, until it must go down: 1 went down, 0 it is empty, -1 errno. */
static int empty(struct way *way, int64_t *count, struct text *failed_at) {
  struct level *level = &way->levels[way->count - 1];
  for (struct dirent *found; errno = 0, (found = readdir(level->dir));) {
    if (is_dots(found->d_name)) continue;
    int outcome = remove_one(dirfd(level->dir), found->d_name, found->d_type == DT_DIR);
    if (outcome == 1) {
      level->has_removed = true;
      ++*count;
      continue;
    }
    size_t held = way->count;
    if (!outcome && push(way, dirfd(level->dir), found->d_name)) {
      level = &way->levels[held - 1];
      if (held > held_levels) closedir(level->dir), level->dir = NULL;
      return 1;
    }
    if (!outcome && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP)) continue;
    tell_path(way, found->d_name, failed_at);
    return -1;
  }
  if (errno && errno != ENOENT) {
    tell_path(way, NULL, failed_at);
    return -1;
  }
  return 0;
}

bool remove_tree(int dir, const char *name, int64_t *count, struct text *failed_at) {
  struct way way = { 0 };
  int rounds = 0;
  if (!push(&way, dir, name)) {
    text_add(failed_at, name, strlen(name));
    return false;
  }
  while (way.count) {
    int outcome = empty(&way, count, failed_at);
    if (outcome < 0) return false;
    if (outcome) continue;
    struct level *level = &way.levels[way.count - 1];
    const char *last = way.names.data + level->name_at;
    if (way.count > 1) way.count--;
    bool is_top = level == way.levels;
    bool is_back = is_top || reopen(&way, dirfd(level->dir));
    int above = is_top ? dir : is_back ? dirfd(way.levels[way.count - 1].dir) : -1;
    if (!is_back || (unlinkat(above, last, AT_REMOVEDIR) && errno != ENOENT)) {
      bool is_refilled = is_back && (errno == ENOTEMPTY || errno == EEXIST);
      if (!is_top) way.count++;
      /* Something was made in it, or missed as others went: once more, as long as that helps. */
      if (is_refilled && (level->has_removed || rounds++ < max_rounds)) {
        level->has_removed = false;
        rewinddir(level->dir);
        continue;
      }
      int code = errno;
      tell_path(&way, NULL, failed_at);
      errno = code;
      return false;
    }
    ++*count;
    closedir(level->dir);
    text_cut(&way.names, level->name_at);
    if (is_top) break;
    way.levels[way.count - 1].has_removed = true;
  }
  free(way.levels);
  free(way.names.data);
  return true;
}

static bool is_mount_point(const struct place *place, const struct stat *st) {
  struct statx found;
  if (!statx(place->dir, place->name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_TYPE, &found) &&
    found.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT && found.stx_attributes & STATX_ATTR_MOUNT_ROOT) return true;
  struct stat parent, root;
  if (!stat("/", &root) && root.st_dev == st->st_dev && root.st_ino == st->st_ino) return true;
  return S_ISDIR(st->st_mode) && !fstat(place->dir, &parent) && parent.st_dev != st->st_dev;
}

void op_remove(const struct options *options) {
  struct place place = find_place(options->path, false);
  struct stat st;
  bool is_there = place.dir >= 0 && !fstatat(place.dir, place.name, &st, AT_SYMLINK_NOFOLLOW);
  int64_t count = 0;
  if (!is_there) {
    if (errno != ENOENT || !options->ignore_missing) refuse_errno(errno, options->path);
  } else {
    if (is_dots(place.name) || is_mount_point(&place, &st)) refuse_errno(EBUSY, options->path);
    if (ends_in_slash(options->path) && !S_ISDIR(st.st_mode)) refuse_errno(ENOTDIR, options->path);
    int outcome = remove_one(place.dir, place.name, S_ISDIR(st.st_mode));
    if (outcome < 0) refuse_errno(errno, options->path);
    count = outcome;
    if (!outcome) {
      if (!options->recursive) refuse_errno(ENOTEMPTY, options->path);
      struct text failed_at = { 0 };
      text_add(&failed_at, options->path, strlen(options->path));
      while (failed_at.length && failed_at.data[failed_at.length - 1] == '/') text_cut(&failed_at, failed_at.length - 1);
      while (failed_at.length && failed_at.data[failed_at.length - 1] != '/') text_cut(&failed_at, failed_at.length - 1);
      if (!remove_tree(place.dir, place.name, &count, &failed_at)) refuse_errno(errno, failed_at.data);
    }
  }
  put_text("{\"ok\":true,\"removed\":"), put_integer(count);
  put_text("}\n");
}
