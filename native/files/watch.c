/* watch: what changes in a directory, by inotify; recursive with a watch for each directory. */
#include "files.h"
#include <dirent.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>

enum {
  max_watches = 65536,
  event_bytes = 65536,
  pair_wait_ms = 20,               /* so long the other half of a renaming may be late */
  settle_ms = 20,                  /* so long changes gather, that many writes to one file are few */
  look_ahead = 64,
  recent_slots = 8192,
  mask = IN_CREATE | IN_MODIFY | IN_ATTRIB | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF | IN_DONT_FOLLOW | IN_EXCL_UNLINK,
};

/* A directory that is watched. Paths are composed from the way up, so that to rename a directory is to rename one of these. */
struct watched { int wd; uint32_t parent; char *name; uint32_t next_by_wd, first_child, next_sibling, previous_sibling; };
enum { root_at = 1, buckets = 65536 };
static struct watched *watches;    /* from 1 on; 0 is none */
static uint32_t count, capacity, freed, by_wd[buckets];

static const struct options *options;
static int inotify_fd;
static bool is_root_directory;

/* Names that were found by looking into a new directory, and of which the kernel may tell as well. */
static uint64_t recent[recent_slots];

static uint32_t find_watch(int wd) {
  uint32_t at = by_wd[(uint32_t)wd % buckets];
  while (at && watches[at].wd != wd) at = watches[at].next_by_wd;
  return at;
}

static uint32_t find_child(uint32_t parent, const char *name) {
  uint32_t at = watches[parent].first_child;
  while (at && strcmp(watches[at].name, name)) at = watches[at].next_sibling;
  return at;
}

static void hang(uint32_t at, uint32_t parent, const char *name) {
  struct watched *one = &watches[at];
  free(one->name);
  one->name = strdup(name);
  if (!one->name) refuse_errno(ENOMEM, options->path);
  one->parent = parent;
  one->previous_sibling = 0;
  one->next_sibling = parent ? watches[parent].first_child : 0;
  if (one->next_sibling) watches[one->next_sibling].previous_sibling = at;
  if (parent) watches[parent].first_child = at;
}

static void unhang(uint32_t at) {
  struct watched *one = &watches[at];
  if (one->previous_sibling) watches[one->previous_sibling].next_sibling = one->next_sibling;
  else if (one->parent) watches[one->parent].first_child = one->next_sibling;
  if (one->next_sibling) watches[one->next_sibling].previous_sibling = one->previous_sibling;
  one->next_sibling = one->previous_sibling = one->parent = 0;
}

static uint32_t add_watch(int wd, uint32_t parent, const char *name) {
  uint32_t at = freed;
  if (at) freed = watches[at].next_sibling;
  else {
    if (count + 1 >= capacity) {
      capacity = capacity ? capacity * 2 : 64;
      watches = claim_more(watches, capacity * sizeof *watches);
    }
    at = ++count;
  }
  watches[at] = (struct watched){ .wd = wd, .next_by_wd = by_wd[(uint32_t)wd % buckets] };
  by_wd[(uint32_t)wd % buckets] = at;
  hang(at, parent, name);
  return at;
}

static void forget(uint32_t at) {
  uint32_t *link = &by_wd[(uint32_t)watches[at].wd % buckets];
  while (*link != at) link = &watches[*link].next_by_wd;
  *link = watches[at].next_by_wd;
  unhang(at);
  free(watches[at].name);
  watches[at] = (struct watched){ .wd = -1, .next_sibling = freed };
  freed = at;
}

/* The last one below, or the one itself: leaves first, without recursion. */
static uint32_t deepest(uint32_t at) {
  while (watches[at].first_child) at = watches[at].first_child;
  return at;
}

/* It went out of sight, with all below it. */
static void drop_tree(uint32_t top) {
  for (bool is_last = false; !is_last;) {
    uint32_t at = deepest(top);
    is_last = at == top;
    inotify_rm_watch(inotify_fd, watches[at].wd);
    forget(at);
  }
}

static bool is_below(uint32_t at, uint32_t top) {
  while (at && at != top) at = watches[at].parent;
  return at != 0;
}

static void add_path(struct text *path, uint32_t at, const char *name) {
  /* From the root down: the names on the way up, in reverse. */
  static uint32_t *way;
  static size_t room;
  size_t depth = 0;
  for (; at; at = watches[at].parent) {
    if (depth == room) room = room ? room * 2 : 64, way = claim_more(way, room * sizeof *way);
    way[depth++] = at;
  }
  while (depth--) {
    if (!path->length) text_add(path, watches[way[depth]].name, strlen(watches[way[depth]].name));
    else text_join(path, watches[way[depth]].name);
  }
  if (name && *name) text_join(path, name);
}

static void put_change(const char *type, uint32_t at, const char *name, uint32_t from_at, const char *from, bool is_directory) {
  static struct text path, old;
  text_cut(&path, 0), text_cut(&old, 0);
  add_path(&path, at, name);
  if (from) add_path(&old, from_at, from);
  bool is_text = is_utf8(path.data, path.length) && is_utf8(old.data ? old.data : "", old.length);
  void (*put_name)(const char *, size_t) = is_text ? put_json : put_base64;
  put_text("{\"type\":\""), put_text(type);
  put_text("\",\"path\":"), put_name(path.data, path.length);
  if (from) put_text(",\"from\":"), put_name(old.data, old.length);
  if (is_directory) put_text(",\"isDirectory\":true");
  if (!is_text) put_text(",\"encoding\":\"base64\"");
  put_text("}\n");
}

static uint64_t hash_of(int wd, const char *name) {
  uint64_t hash = 0xcbf29ce484222325u ^ (uint64_t)wd * 0x9e3779b97f4a7c15u;
  for (; *name; name++) hash = (hash ^ (unsigned char)*name) * 0x100000001b3u;
  return hash ? hash : 1;
}

static void remember(int wd, const char *name) {
  uint64_t hash = hash_of(wd, name);
  recent[hash % recent_slots] = hash;
}

static bool take_remembered(int wd, const char *name) {
  uint64_t hash = hash_of(wd, name), *slot = &recent[hash % recent_slots];
  bool is_there = *slot == hash;
  if (is_there) *slot = 0;
  return is_there;
}

/* Watches all directories of the tree that begins in `top`; tells of what is in it when it is new. False when there are too many. */
static bool watch_below(uint32_t top, bool is_new) {
  static struct text path;
  text_cut(&path, 0);
  add_path(&path, top, NULL);
  int fd = open(path.data, O_RDONLY | O_DIRECTORY | open_safely | (top == root_at ? 0 : O_NOFOLLOW));
  if (fd < 0) return true;
  static struct walk walk;
  /* Which watched directory each level of the walk is. */
  static uint32_t levels[max_walk_depth + 2];
  levels[1] = top;
  walk_begin(&walk, fd, path.data);
  walk.max_path_bytes = max_path_bytes;
  bool fits = true;
  for (int outcome; (outcome = walk_next(&walk));) {
    if (outcome < 0) continue;
    size_t depth = walk.depth;
    uint32_t parent = levels[depth];
    bool is_directory = S_ISDIR(walk.st.st_mode);
    if (is_new) {
      put_change("created", parent, walk.name, 0, NULL, is_directory);
      remember(watches[parent].wd, walk.name);
    }
    if (!is_directory || !fits) continue;
    int wd = inotify_add_watch(inotify_fd, walk.path.data, mask | IN_ONLYDIR);
    if (wd < 0) {
      fits = errno != ENOSPC && errno != ENOMEM;
      continue;
    }
    if (count >= max_watches && !freed) {
      inotify_rm_watch(inotify_fd, wd);
      fits = false;
      continue;
    }
    /* One directory may be seen twice, by a bind mount or as the events of its making follow: under its first name. */
    if (find_watch(wd)) continue;
    levels[depth + 1] = add_watch(wd, parent, walk.name);
    walk_enter(&walk);
  }
  free(walk.levels);
  free(walk.path.data);
  return fits;
}

/* A directory came to be here: it is watched from now on, and what is in it already is told of. */
static void adopt(uint32_t parent, const char *name) {
  static struct text path;
  if (!options->recursive) return;
  text_cut(&path, 0);
  add_path(&path, parent, name);
  int wd = inotify_add_watch(inotify_fd, path.data, mask | IN_ONLYDIR);
  if (wd < 0 && (errno == ENOSPC || errno == ENOMEM)) put_change("overflow", parent, name, 0, NULL, true);
  if (wd < 0 || find_watch(wd)) return;
  if (count >= max_watches && !freed) {
    inotify_rm_watch(inotify_fd, wd);
    put_change("overflow", parent, name, 0, NULL, true);
    return;
  }
  uint32_t at = add_watch(wd, parent, name);
  if (!watch_below(at, true)) put_change("overflow", at, NULL, 0, NULL, true);
}

/* --- events --- */

static union { char bytes[event_bytes]; struct inotify_event event; } events;
static size_t filled;

static struct inotify_event *event_at(size_t at) { return (struct inotify_event *)(events.bytes + at); }
static size_t behind(size_t at) { return at + sizeof(struct inotify_event) + event_at(at)->len; }
static const char *name_of(const struct inotify_event *event) { return event->len ? event->name : ""; }

/* Waits until there are events, or nobody listens any more; false when the time is over. */
static bool wait_for_events(int timeout_ms) {
  for (;;) {
    struct pollfd fds[2] = { { .fd = inotify_fd, .events = POLLIN }, { .fd = STDOUT_FILENO } };
    int n = poll(fds, 2, timeout_ms);
    if (n < 0 && errno != EINTR) refuse_errno(errno, options->path);
    if (n > 0 && fds[1].revents & (POLLERR | POLLHUP | POLLNVAL)) finish(0);
    if (n > 0 && fds[0].revents) return true;
    if (!n) return false;
  }
}

static bool read_events(void) {
  if (sizeof events.bytes - filled < sizeof(struct inotify_event) + 256) return false;
  ssize_t n = read(inotify_fd, events.bytes + filled, sizeof events.bytes - filled);
  if (n <= 0) return false;
  filled += (size_t)n;
  return true;
}

/* The other half of a renaming, which the kernel tells right after the first, as a rule. */
static struct inotify_event *find_pair(size_t at) {
  uint32_t cookie = event_at(at)->cookie;
  for (int attempt = 0; attempt < 2; attempt++) {
    for (size_t next = behind(at); next < filled; next = behind(next)) {
      if (event_at(next)->mask & IN_MOVED_TO && event_at(next)->cookie == cookie) return event_at(next);
    }
    /* Nothing came behind it: it may be on its way. */
    if (attempt || behind(at) < filled || !wait_for_events(pair_wait_ms) || !read_events()) return NULL;
  }
  return NULL;
}

/* Whether the next that is heard of the same name is another of the same. */
static bool is_repeated(size_t at) {
  const struct inotify_event *event = event_at(at);
  size_t next = behind(at);
  for (int i = 0; i < look_ahead && next < filled; i++, next = behind(next)) {
    const struct inotify_event *other = event_at(next);
    if (other->wd == event->wd && !strcmp(name_of(other), name_of(event))) return other->mask == event->mask;
  }
  return false;
}

static void handle_rename(size_t offset, uint32_t at) {
  struct inotify_event *event = event_at(offset), *pair = event->cookie ? find_pair(offset) : NULL;
  const char *name = name_of(event);
  bool is_directory = event->mask & IN_ISDIR;
  take_remembered(event->wd, name);
  uint32_t to = pair ? find_watch(pair->wd) : 0, moved = is_directory ? find_child(at, name) : 0;
  if (!to) {
    put_change("removed", at, name, 0, NULL, is_directory);
    if (moved) drop_tree(moved);
    return;
  }
  const char *target = name_of(pair);
  /* What was looked into at its new place has been told of: it only went from the old one. */
  if (take_remembered(pair->wd, target)) put_change("removed", at, name, 0, NULL, is_directory);
  else put_change("renamed", to, target, at, name, is_directory);
  uint32_t replaced = is_directory ? find_child(to, target) : 0;
  if (replaced && replaced != moved && !(moved && is_below(moved, replaced))) drop_tree(replaced);
  if (moved && !is_below(to, moved)) unhang(moved), hang(moved, to, target);
  else if (is_directory && !moved) adopt(to, target);
  /* It is done with. */
  pair->mask = 0;
}

static void handle(size_t offset) {
  const struct inotify_event *event = event_at(offset);
  if (event->mask & IN_Q_OVERFLOW) {
    put_change("overflow", root_at, NULL, 0, NULL, false);
    return;
  }
  uint32_t at = find_watch(event->wd);
  if (!at || !event->mask) return;
  bool is_directory = event->mask & IN_ISDIR, is_self = !event->len;
  const char *name = name_of(event);
  if (event->mask & IN_IGNORED) {
    if (at == root_at) finish(0);
    while (watches[at].first_child) drop_tree(watches[at].first_child);
    forget(at);
  } else if (at == root_at && event->mask & (IN_DELETE_SELF | IN_MOVE_SELF)) {
    put_change("removed", at, NULL, 0, NULL, is_root_directory);
    finish(0);
  } else if (is_self && at != root_at) {
    return;                        /* its parent tells of it as well */
  } else if (event->mask & (IN_CREATE | IN_MOVED_TO)) {
    if (!take_remembered(event->wd, name)) put_change("created", at, name, 0, NULL, is_directory);
    if (is_directory && !find_child(at, name)) adopt(at, name);
  } else if (event->mask & IN_DELETE) {
    take_remembered(event->wd, name);
    put_change("removed", at, name, 0, NULL, is_directory);
    uint32_t gone = is_directory ? find_child(at, name) : 0;
    if (gone) drop_tree(gone);
  } else if (event->mask & IN_MOVED_FROM) {
    handle_rename(offset, at);
  } else if (event->mask & (IN_MODIFY | IN_ATTRIB) && !is_repeated(offset)) {
    put_change(event->mask & IN_MODIFY ? "modified" : "attributes", at, name, 0, NULL, is_directory);
  }
}

void op_watch(const struct options *asked) {
  options = asked;
  struct stat st;
  if (stat(options->path, &st)) refuse_errno(errno, options->path);
  is_root_directory = S_ISDIR(st.st_mode);
  if (!is_root_directory && !S_ISREG(st.st_mode)) refuse_errno(ENXIO, options->path);
  inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
  if (inotify_fd < 0) refuse_errno(errno, options->path);
  int wd = inotify_add_watch(inotify_fd, options->path, mask & ~IN_DONT_FOLLOW);
  if (wd < 0) refuse_errno(errno == ENOSPC ? EMFILE : errno, options->path);
  size_t length = strlen(options->path);
  while (length > 1 && options->path[length - 1] == '/') length--;
  char *name = strndup(options->path, length);
  if (!name) refuse_errno(ENOMEM, options->path);
  add_watch(wd, 0, name);
  if (options->recursive && is_root_directory && !watch_below(root_at, false)) {
    refuse("limit_reached", options->path, "there are more directories than can be watched; watch one further down, or without recursive");
  }
  put_text("{\"ok\":true}\n");
  is_header_out = true;
  put_change("ready", root_at, NULL, 0, NULL, false);
  for (;;) {
    put_flush();
    wait_for_events(-1);
    /* Who listens may go meanwhile. */
    poll(NULL, 0, settle_ms);
    filled = 0;
    if (!read_events()) continue;
    for (size_t at = 0; at < filled; at = behind(at)) handle(at);
  }
}
