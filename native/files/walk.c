/* A tree, without recursion, each directory before what is in it. */
#include "files.h"
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>

struct walk_level { DIR *dir; dev_t device; size_t path_length; };

/* Of linux/magic.h and kernel sources: proc, sysfs, devpts, cgroup, cgroup2, debugfs, tracefs, securityfs, bpf, binfmt_misc, mqueue, fusectl. */
static const uint32_t kernel_types[] = {
  0x9fa0, 0x62656572, 0x1cd1, 0x27e0eb, 0x63677270, 0x64626720, 0x74726163, 0x73636673, 0xcafe4a11, 0x42494e4d, 0x19800202, 0x65735543,
};

bool is_kernel_file_system(int fd) {
  struct statfs st;
  if (fstatfs(fd, &st)) return false;
  for (size_t i = 0; i < sizeof kernel_types / sizeof *kernel_types; i++) if ((uint32_t)st.f_type == kernel_types[i]) return true;
  return false;
}

static bool push(struct walk *walk, int fd, dev_t device) {
  DIR *dir = fdopendir(fd);
  if (!dir) return false;
  if (!walk->levels) walk->levels = claim(max_walk_depth * sizeof *walk->levels);
  walk->levels[walk->depth++] = (struct walk_level){ dir, device, walk->path.length };
  return true;
}

void walk_begin(struct walk *walk, int root, const char *path) {
  *walk = (struct walk){ 0 };
  text_add(&walk->path, path, strlen(path));
  while (walk->path.length > 1 && walk->path.data[walk->path.length - 1] == '/') text_cut(&walk->path, walk->path.length - 1);
  if (fstat(root, &walk->st) || !push(walk, root, walk->st.st_dev)) refuse_errno(errno, path);
}

int walk_next(struct walk *walk) {
  while (walk->depth) {
    struct walk_level *level = &walk->levels[walk->depth - 1];
    text_cut(&walk->path, level->path_length);
    errno = 0;
    struct dirent *found = readdir(level->dir);
    if (!found) {
      int code = errno;
      closedir(level->dir);
      walk->depth--;
      errno = code;
      if (code && code != ENOENT) return -1;
      continue;
    }
    if (is_dots(found->d_name)) continue;
    walk->dir = dirfd(level->dir);
    walk->name = found->d_name;
    text_join(&walk->path, found->d_name);
    if (walk->max_path_bytes && walk->path.length > walk->max_path_bytes) {
      errno = ENAMETOOLONG;
      return -1;
    }
    if (!fstatat(walk->dir, walk->name, &walk->st, AT_SYMLINK_NOFOLLOW)) return 1;
    if (errno != ENOENT) return -1;
  }
  return 0;
}

bool walk_enter(struct walk *walk) {
  if (walk->depth == max_walk_depth) {
    errno = ENAMETOOLONG;
    return false;
  }
  int fd = openat(walk->dir, walk->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | open_safely);
  if (fd < 0) return errno == ENOENT || errno == ENOTDIR || errno == ELOOP;
  struct stat st;
  int code = 0;
  if (fstat(fd, &st)) code = errno;
  else if (st.st_dev != walk->levels[walk->depth - 1].device && is_kernel_file_system(fd)) {
    close(fd);
    return true;
  } else if (push(walk, fd, st.st_dev)) return true;
  else code = errno;
  close(fd);
  errno = code;
  return false;
}
