/*
 * The program that works on files inside a sandbox. src/services/files/file-protocol.ts says what it is told and what it answers.

 * It runs with the identity of whom it works for, so that the kernel decides what a path leads to and who may touch it. What it finds is
 * hostile all the same: names have any bytes, trees any depth, files change under its hands, and nothing that waits may be opened.

 *   files.c      arguments, and which operation is meant      out.c       JSON and refusals on standard output
 *   paths.c      what a path leads to; making directories     entry.c     what is said of a file
 *   names.c      users and groups of /etc                     frames.c    framed standard input
 *   show.c       stat, list, read                             write.c     write, mkdir
 *   move.c       move                                         remove.c    remove
 *   walk.c       a tree, without recursion                    search.c    search
 *   tar-out.c    archive                                      tar-in.c    extract
 *   watch.c      watch                                        shell.c     shell
 */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

/* More at a time is slower: it falls out of the cache. */
enum { megabyte = 1024 * 1024, max_frame_bytes = megabyte, piece_bytes = 256 * 1024 };

/* Flags of every open: never waits for the other end of a FIFO or for a device, never becomes a controlling terminal. */
enum { open_safely = O_NONBLOCK | O_NOCTTY | O_CLOEXEC };

/* What the command line says; missing numbers are -1, missing strings NULL. */
struct options {
  const char *path, *to;
  const char *after, *owner, *glob, *text, *busybox;
  int64_t limit, first, last, suffix, size, mode, max_ms;
  bool no_follow, parents, no_replace, recursive, ignore_missing, regex, ignore_case;
};

/* --- out.c --- */

/* Bytes that grow; `data` is followed by a NUL that `length` does not count. */
struct text { char *data; size_t length, capacity; };

void *claim(size_t bytes);                     /* malloc that ends the program with limit_reached */
void *claim_more(void *old, size_t bytes);
void text_add(struct text *text, const void *bytes, size_t length);
void text_cut(struct text *text, size_t length);
void text_join(struct text *text, const char *name);   /* adds a slash where none is, and the name */

void put(const void *bytes, size_t length);
void put_text(const char *text);
/* Nothing speaks against it: input may come. */
void put_ready(void);
void put_integer(int64_t value);
void put_size(int64_t bytes);                          /* at most what a reader of JSON tells from its neighbours */
void put_json(const char *bytes, size_t length);       /* in quotes; what is not UTF-8 becomes U+FFFD */
void put_base64(const char *bytes, size_t length);     /* in quotes */
void put_flush(void);
bool wait_for(int fd, short events);            /* of a descriptor that somebody has set not to block */
bool write_whole(int fd, const void *bytes, size_t length);
bool is_utf8(const char *bytes, size_t length);

/* Answers with a refusal and ends the program; once the header is out, the reason goes to standard error. */
_Noreturn void refuse(const char *problem, const char *path, const char *message);
_Noreturn void refuse_errno(int code, const char *path);
_Noreturn void refuse_range(const char *path, int64_t size_bytes);
_Noreturn void finish(int code);               /* flushes, clears up, ends */
extern bool is_header_out;

/* What is to be undone when the program ends before its work is done, also by a signal: a file, as it is named in a directory. */
void undo_arm(int dir, const char *name);
void undo_disarm(void);
void undo_now(void);
void undo_on_signals(void);

/* --- paths.c --- */

/* A name in a directory that is held open. `dir` is -1 when the directory cannot be had; errno says why. */
struct place { int dir; char *name; };

struct place find_place(const char *path, bool follows);
void make_parents(const char *path);           /* every directory above what path names */
bool make_directories(int base, const char *path, uid_t uid, gid_t gid);   /* path itself too; errno */
bool ends_in_slash(const char *path);
bool is_dots(const char *name);
int open_found(const char *path, int flags, struct stat *st);  /* a file or directory that is opened without waiting; else refuses */

/* --- names.c --- */

enum { keep_owner = -1 };
const char *user_name(uid_t uid);              /* NULL where it has none */
const char *group_name(gid_t gid);
void find_owner(const char *words, uid_t *uid, gid_t *gid);    /* USER[:GROUP], or refuses */
bool find_account(uid_t uid, char **home, char **shell);       /* of /etc/passwd; on the heap */
bool parse_number(const char *text, int base, int64_t max, int64_t *value);

/* --- entry.c --- */

const char *type_name(mode_t mode);
void put_entry(const char *path, size_t length, const struct stat *st, int dir, const char *name);

/* --- frames.c --- */

ssize_t next_piece(unsigned char **piece);     /* its length; 0 when all was said, -1 when it was cut off */

/* --- walk.c --- */

/* Each level holds a directory open: what lies deeper is reported as ENAMETOOLONG. Beyond any tree that is not made to hurt. */
enum { max_walk_depth = 400, max_path_bytes = 4095 };

struct walk_level;
struct walk {
  struct walk_level *levels;
  size_t depth;
  struct text path;                            /* of what was found; begins with the path that the walk began with */
  size_t max_path_bytes;                       /* what has a longer path is reported as ENAMETOOLONG; 0 for any */
  int dir;                                     /* where it was found */
  const char *name;
  struct stat st;
};
void walk_begin(struct walk *walk, int root, const char *path);        /* takes the directory over */
int walk_next(struct walk *walk);              /* 1 found, 0 at the end, -1 something cannot be read: errno */
bool walk_enter(struct walk *walk);            /* into the directory just found; errno. Kernels' own file systems are left out as if empty */
bool is_kernel_file_system(int fd);

/* --- operations --- */

void op_stat(const struct options *options);
void op_list(const struct options *options);
void op_read(const struct options *options);
void op_write(const struct options *options);
void op_mkdir(const struct options *options);
void op_move(const struct options *options);
void op_remove(const struct options *options);
void op_archive(const struct options *options);
void op_extract(const struct options *options);
void op_watch(const struct options *options);
void op_shell(const struct options *options);
void op_search(const struct options *options);

bool remove_tree(int dir, const char *name, int64_t *count, struct text *failed_at);   /* errno */
bool rename_new(int from_dir, const char *from, int to_dir, const char *to);           /* never over what is there; errno */
bool random_name(const char *prefix, char *name, size_t size);
