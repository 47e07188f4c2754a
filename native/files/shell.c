/*
 * shell: becomes the user's shell, for a terminal.
 *
 * It is interactive, and not a login shell: the PATH of an image stands in its environment, and /etc/profile of most distributions
 * would replace it, so that what the image is about were not found. Who wants the profile says `sh -l`, as in docker exec.
 */
#include "files.h"
#include <stdlib.h>
#include <string.h>

/* Shells that stand for having none. */
static bool is_refusal(const char *shell) {
  static const char *const names[] = { "nologin", "false", "true", "sync", "halt", "shutdown" };
  const char *name = strrchr(shell, '/');
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) if (!strcmp(name ? name + 1 : shell, names[i])) return true;
  return false;
}

static void become(const char *path, const char *name) {
  setenv("SHELL", path, 1);
  execv(path, (char *[]){ (char *)name, NULL });
}

void op_shell(const struct options *options) {
  char *home, *shell;
  find_account(getuid(), &home, &shell);
  setenv("TERM", "xterm-256color", 0);
  setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 0);
  if (!getenv("HOME") || !*getenv("HOME")) setenv("HOME", home ? home : "/", 1);
  if (shell && *shell == '/' && !is_refusal(shell)) become(shell, strrchr(shell, '/') + 1);
  static const char *const shells[] = { "/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash", "/bin/sh", "/usr/bin/sh" };
  for (size_t i = 0; i < sizeof shells / sizeof *shells; i++) become(shells[i], strrchr(shells[i], '/') + 1);
  become(options->busybox, "sh");
  refuse_errno(errno, options->busybox);
}
