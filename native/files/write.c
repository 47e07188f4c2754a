/* write and mkdir. */
#include "files.h"
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>

enum { name_attempts = 8 };

static int rename_noreplace(int from_dir, const char *from, int to_dir, const char *to) {
  return (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, RENAME_NOREPLACE);
}

bool rename_new(int from_dir, const char *from, int to_dir, const char *to) {
  if (!rename_noreplace(from_dir, from, to_dir, to)) return true;
  if (errno != EINVAL && errno != ENOSYS) return false;
  /* A file system without it: a link is never made over what is there. */
  struct stat st;
  if (fstatat(from_dir, from, &st, AT_SYMLINK_NOFOLLOW)) return false;
  if (S_ISDIR(st.st_mode)) {
    /* A directory replaces an empty directory and nothing else, so that nothing can be lost between the two. */
    if (!fstatat(to_dir, to, &st, AT_SYMLINK_NOFOLLOW)) errno = EEXIST;
    else if (errno == ENOENT) return !renameat(from_dir, from, to_dir, to);
    return false;
  }
  if (!linkat(from_dir, from, to_dir, to, 0)) return !unlinkat(from_dir, from, 0);
  if (errno != EPERM && errno != EOPNOTSUPP && errno != ENOSYS && errno != EMLINK) return false;
  int code = errno;
  int fd = S_ISREG(st.st_mode) ? openat(to_dir, to, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600) : -1;
  if (fd < 0) {
    if (!S_ISREG(st.st_mode)) errno = code;
    return false;
  }
  close(fd);
  return !renameat(from_dir, from, to_dir, to);
}

static int make_temporary(int dir, char *name, size_t size) {
  for (int i = 0; i < name_attempts; i++) {
    if (!random_name(".berth-upload-", name, size)) break;
    /* Armed before it is there: a signal may come between. */
    undo_arm(dir, name);
    int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd >= 0) return fd;
    undo_disarm();
    if (errno != EEXIST) break;
  }
  return -1;
}

/* Owner and mode: those asked for, else those of the file before. */
static void dress(int fd, const struct options *options, const struct stat *before, bool is_new, uid_t uid, gid_t gid) {
  mode_t mode = options->mode >= 0 ? (mode_t)options->mode : is_new ? 0644 : before->st_mode & 07777;
  struct stat st;
  if (fstat(fd, &st)) refuse_errno(errno, options->path);
  if (options->owner) {
    if ((st.st_uid != uid || st.st_gid != gid) && fchown(fd, uid, gid)) refuse_errno(errno, options->path);
  } else if (!is_new && (st.st_uid != before->st_uid || st.st_gid != before->st_gid) && fchown(fd, before->st_uid, before->st_gid)) {
    /* Only root gives files away. It becomes the user's, and must not carry over what let others act as its owner. */
    if (options->mode < 0) mode &= 01777;
  }
  if (fchmod(fd, mode)) refuse_errno(errno, options->path);
}

void op_write(const struct options *options) {
  uid_t uid = 0;
  gid_t gid = 0;
  if (options->owner) find_owner(options->owner, &uid, &gid);
  if (options->parents) make_parents(options->path);
  struct place place = find_place(options->path, true);
  if (place.dir < 0) refuse_errno(errno, options->path);
  struct stat st;
  bool is_new = fstatat(place.dir, place.name, &st, AT_SYMLINK_NOFOLLOW);
  if (is_new && errno != ENOENT) refuse_errno(errno, options->path);
  if (ends_in_slash(options->path) || is_dots(place.name) || (!is_new && S_ISDIR(st.st_mode))) refuse_errno(EISDIR, options->path);
  if (!is_new && !S_ISREG(st.st_mode)) refuse_errno(ENXIO, options->path);
  if (!is_new && options->no_replace) refuse_errno(EEXIST, options->path);
  struct statvfs room;
  if (options->size > 0 && !fstatvfs(place.dir, &room) && room.f_blocks && room.f_frsize) {
    if ((uint64_t)options->size / room.f_frsize >= room.f_bavail) refuse_errno(ENOSPC, options->path);
  }

  char name[64];
  undo_on_signals();
  int fd = make_temporary(place.dir, name, sizeof name);
  if (fd < 0) refuse_errno(errno, options->path);
  put_ready();
  unsigned char *piece;
  for (ssize_t length; (length = next_piece(&piece));) {
    if (length < 0) refuse("incomplete", options->path, "the input ended before all of it was there; nothing was changed, send it again");
    if (!write_whole(fd, piece, (size_t)length)) refuse_errno(errno, options->path);
  }
  dress(fd, options, &st, is_new, uid, gid);
  if (fstat(fd, &st)) refuse_errno(errno, options->path);
  if (options->no_replace ? !rename_new(place.dir, name, place.dir, place.name) : renameat(place.dir, name, place.dir, place.name)) {
    refuse_errno(errno, options->path);
  }
  undo_disarm();
  if (close(fd)) refuse_errno(errno, options->path);
  put_text("{\"ok\":true,\"entry\":");
  put_entry(options->path, strlen(options->path), &st, place.dir, place.name);
  put_text(is_new ? ",\"isNew\":true}\n" : ",\"isNew\":false}\n");
}

void op_mkdir(const struct options *options) {
  if (options->parents) make_parents(options->path);
  struct place place = find_place(options->path, false);
  if (place.dir < 0) refuse_errno(errno, options->path);
  mode_t mode = options->mode >= 0 ? (mode_t)options->mode : 0755;
  bool is_new = !mkdirat(place.dir, place.name, mode & 01777);
  struct stat st;
  if (!is_new) {
    if (errno != EEXIST || !options->parents) refuse_errno(errno, options->path);
    /* A link to a directory serves as one; a link to nothing does not. */
    if (fstatat(place.dir, place.name, &st, 0) || !S_ISDIR(st.st_mode)) refuse_errno(EEXIST, options->path);
  } else {
    int fd = mode & 06000 ? openat(place.dir, place.name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
    if (mode & 06000 && (fd < 0 || fchmod(fd, mode))) refuse_errno(errno, options->path);
    if (fstatat(place.dir, place.name, &st, AT_SYMLINK_NOFOLLOW)) refuse_errno(errno, options->path);
  }
  put_text("{\"ok\":true,\"entry\":");
  put_entry(options->path, strlen(options->path), &st, place.dir, place.name);
  put_text(is_new ? ",\"isNew\":true}\n" : ",\"isNew\":false}\n");
}
