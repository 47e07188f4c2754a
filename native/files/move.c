/* move, also between file systems, which /.berth/busybox mv does. */
#include "files.h"
#include <signal.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

enum { max_words = 4096 };

/* What it last wrote to standard error goes to `words`; answers with its exit code. */
static int run_mv(const char *busybox, const char *from, const char *to, char *words) {
  int pipes[2];
  if (pipe2(pipes, O_CLOEXEC)) return -1;
  pid_t parent = getpid(), pid = fork();
  if (!pid) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    signal(SIGPIPE, SIG_DFL);
    dup2(pipes[1], STDERR_FILENO);
    dup2(pipes[1], STDOUT_FILENO);
    execv(busybox, (char *[]){ "mv", "-f", "--", (char *)from, (char *)to, NULL });
    dprintf(STDERR_FILENO, "%s cannot be started\n", busybox);
    _exit(127);
  }
  close(pipes[1]);
  size_t length = 0;
  for (ssize_t n; pid > 0 && (n = read(pipes[0], words + length, max_words - 1 - length)) != 0;) {
    if (n < 0 && errno != EINTR) break;
    if (n > 0) length += (size_t)n;
    /* Only the last of it is told. */
    if (length == max_words - 1) memmove(words, words + max_words / 2, length -= max_words / 2);
  }
  words[length] = 0;
  close(pipes[0]);
  int status = -1;
  while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR);
  return pid > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

/* Its last line says what was wrong, in the words of the C library. */
static _Noreturn void refuse_words(char *words, const char *path) {
  size_t length = strlen(words);
  while (length && words[length - 1] == '\n') words[--length] = 0;
  char *line = strrchr(words, '\n');
  line = line ? line + 1 : words;
  static const int codes[] = { ENOSPC, EDQUOT, EACCES, EPERM, EROFS, EFBIG, ENAMETOOLONG, EBUSY, ENOENT };
  for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) if (strstr(line, strerrordesc_np(codes[i]))) refuse_errno(codes[i], path);
  refuse("failed", path, *line ? line : "it could not be copied to the other file system");
}

static void drop_copy(int dir, const char *name) {
  int64_t count = 0;
  struct text failed_at = { 0 };
  if (unlinkat(dir, name, 0) && errno != ENOENT) remove_tree(dir, name, &count, &failed_at);
  free(failed_at.data);
}

/* To a name of its own beside the target first, so that the target is there whole or not at all. */
static void move_across(const struct options *options, const struct place *to) {
  struct stat st;
  bool exists = !fstatat(to->dir, to->name, &st, AT_SYMLINK_NOFOLLOW);
  if (exists && options->no_replace) refuse_errno(EEXIST, options->to);
  if (exists && S_ISDIR(st.st_mode)) {
    struct stat from;
    if (fstatat(AT_FDCWD, options->path, &from, AT_SYMLINK_NOFOLLOW)) refuse_errno(errno, options->path);
    if (!S_ISDIR(from.st_mode)) refuse_errno(EISDIR, options->to);
  }
  char name[64], words[max_words] = "";
  if (!random_name(".berth-upload-", name, sizeof name) || fchdir(to->dir)) refuse_errno(errno, options->to);
  if (run_mv(options->busybox, options->path, name, words)) {
    drop_copy(to->dir, name);
    refuse_words(words, options->to);
  }
  bool is_moved = options->no_replace ? rename_new(to->dir, name, to->dir, to->name) : !renameat(to->dir, name, to->dir, to->name);
  if (is_moved) return;
  int code = errno;
  /* What it came from is gone: back to where it was. */
  run_mv(options->busybox, name, options->path, words);
  refuse_errno(code, options->to);
}

void op_move(const struct options *options) {
  struct place from = find_place(options->path, false);
  struct stat st;
  if (from.dir < 0 || fstatat(from.dir, from.name, &st, AT_SYMLINK_NOFOLLOW)) refuse_errno(errno, options->path);
  if (is_dots(from.name)) refuse_errno(EBUSY, options->path);
  if (ends_in_slash(options->path) && !S_ISDIR(st.st_mode)) refuse_errno(ENOTDIR, options->path);
  if (options->parents) make_parents(options->to);
  struct place to = find_place(options->to, false);
  if (to.dir < 0) refuse_errno(errno, options->to);
  if (is_dots(to.name)) refuse_errno(EEXIST, options->to);
  if (ends_in_slash(options->to) && !S_ISDIR(st.st_mode)) refuse_errno(EISDIR, options->to);
  bool is_moved = options->no_replace ? rename_new(from.dir, from.name, to.dir, to.name) : !renameat(from.dir, from.name, to.dir, to.name);
  if (!is_moved && errno == EXDEV) move_across(options, &to);
  else if (!is_moved && errno == EINVAL) refuse("path_exists", options->to, "a directory cannot be moved into itself; choose another target");
  else if (!is_moved) refuse_errno(errno, errno == EACCES || errno == EPERM ? options->path : options->to);
  if (fstatat(to.dir, to.name, &st, AT_SYMLINK_NOFOLLOW)) refuse_errno(errno, options->to);
  put_text("{\"ok\":true,\"entry\":");
  put_entry(options->to, strlen(options->to), &st, to.dir, to.name);
  put_text("}\n");
}
