/* stat, list and read. */
#include "files.h"
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

/* With a slash behind it only a directory may be meant: the kernel sees to it, as long as it gets the path whole. */
void op_stat(const struct options *options) {
  struct stat st;
  struct place place = find_place(options->path, false);
  if (place.dir < 0) refuse_errno(errno, options->path);
  if (fstatat(AT_FDCWD, options->path, &st, options->no_follow ? AT_SYMLINK_NOFOLLOW : 0)) refuse_errno(errno, options->path);
  put_text("{\"ok\":true,\"entry\":");
  put_entry(options->path, strlen(options->path), &st, place.dir, place.name);
  put_text("}\n");
}

/* --- list --- */

struct listed { char *name; unsigned char type; };
/* The first names behind the cursor: a heap with the last of them at the top, so that a directory of any size needs no more than a page. */
struct page { struct listed *items; size_t count, limit; };

static int by_name(const void *left, const void *right) {
  return strcmp(((const struct listed *)left)->name, ((const struct listed *)right)->name);
}

static void sift_down(struct page *page) {
  for (size_t at = 0;;) {
    size_t largest = at;
    for (size_t child = 2 * at + 1; child <= 2 * at + 2 && child < page->count; child++) {
      if (by_name(&page->items[child], &page->items[largest]) > 0) largest = child;
    }
    if (largest == at) return;
    struct listed other = page->items[at];
    page->items[at] = page->items[largest];
    page->items[largest] = other;
    at = largest;
  }
}

static void sift_up(struct page *page, size_t at) {
  for (; at && by_name(&page->items[at], &page->items[(at - 1) / 2]) > 0; at = (at - 1) / 2) {
    struct listed other = page->items[at];
    page->items[at] = page->items[(at - 1) / 2];
    page->items[(at - 1) / 2] = other;
  }
}

static void add_to_page(struct page *page, const struct dirent *found) {
  if (page->count == page->limit && strcmp(found->d_name, page->items[0].name) >= 0) return;
  struct listed item = { strdup(found->d_name), found->d_type };
  if (!item.name) refuse_errno(ENOMEM, NULL);
  if (page->count < page->limit) {
    if (!(page->count & (page->count - 1))) {
      size_t capacity = page->count ? page->count * 2 : 64;
      page->items = claim_more(page->items, (capacity < page->limit ? capacity : page->limit) * sizeof *page->items);
    }
    page->items[page->count] = item;
    sift_up(page, page->count++);
    return;
  }
  free(page->items[0].name);
  page->items[0] = item;
  sift_down(page);
}

void op_list(const struct options *options) {
  struct stat st;
  int fd = open_found(options->path, O_RDONLY, &st);
  if (!S_ISDIR(st.st_mode)) refuse_errno(ENOTDIR, options->path);
  DIR *dir = fdopendir(fd);
  if (!dir) refuse_errno(errno, options->path);
  struct page page = { .limit = (size_t)options->limit + 1 };
  for (struct dirent *found; errno = 0, (found = readdir(dir));) {
    if (is_dots(found->d_name) || (options->after && strcmp(found->d_name, options->after) <= 0)) continue;
    add_to_page(&page, found);
  }
  if (errno && errno != ENOENT) refuse_errno(errno, options->path);
  qsort(page.items, page.count, sizeof *page.items, by_name);

  bool has_more = page.count == page.limit;
  put_text("{\"ok\":true,\"entry\":");
  put_entry(options->path, strlen(options->path), &st, AT_FDCWD, options->path);
  put_text(has_more ? ",\"hasMore\":true}\n" : ",\"hasMore\":false}\n");
  is_header_out = true;
  struct text path = { 0 };
  text_add(&path, options->path, strlen(options->path));
  while (path.length > 1 && path.data[path.length - 1] == '/') text_cut(&path, path.length - 1);
  for (size_t i = 0, length = path.length; i < page.count - has_more; i++, text_cut(&path, length)) {
    const char *name = page.items[i].name;
    if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW)) {
      if (errno == ENOENT) continue;
      /* Its name may be read and nothing else. */
      memset(&st, 0, sizeof st);
      st.st_mode = DTTOIF(page.items[i].type);
    }
    text_join(&path, name);
    put_entry(path.data, path.length, &st, fd, name);
    put("\n", 1);
  }
}

/* --- read --- */

/* So much is read before anything is said of it: what the kernel makes up as it is read says a size of 0, or a wrong one. */
enum { probe_bytes = 128 * 1024 };

static size_t read_up_to(int fd, char *bytes, size_t size, int64_t at) {
  size_t length = 0;
  for (ssize_t n; length < size; length += (size_t)n) {
    n = pread(fd, bytes + length, size - length, at + (int64_t)length);
    if (n < 0 && errno == EINTR) n = 0;
    else if (n <= 0) break;
  }
  return length;
}

/* Copies as much as there is between two offsets; false when it ended before. By hand: sendfile is slower in gVisor. */
static bool copy_out(int fd, int64_t from, int64_t to, const char *path) {
  static char bytes[piece_bytes] __attribute__((aligned(4096)));
  while (from < to) {
    ssize_t n = pread(fd, bytes, to - from < piece_bytes ? (size_t)(to - from) : piece_bytes, from);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno != EAGAIN) refuse_errno(errno, path);
    if (n <= 0) return false;
    if (!write_whole(STDOUT_FILENO, bytes, (size_t)n)) finish(1);
    from += n;
  }
  return true;
}

void op_read(const struct options *options) {
  static char probe[probe_bytes + 1];
  struct stat st;
  int fd = open_found(options->path, O_RDONLY, &st);
  if (S_ISDIR(st.st_mode)) refuse_errno(EISDIR, options->path);
  size_t probed = 0;
  int64_t size = st.st_size;
  bool is_probed = size <= probe_bytes;
  if (is_probed) {
    /* With one byte more than it may have: what is longer than it says has no length. */
    errno = 0;
    probed = read_up_to(fd, probe, sizeof probe, 0);
    if (!probed && errno && errno != EAGAIN) refuse_errno(errno, options->path);
    if (size && probed > (size_t)size) probed = (size_t)size;
    size = probed == sizeof probe ? -1 : (int64_t)probed;
  }

  int64_t first = options->first < 0 ? 0 : options->first, end = size;
  if (size >= 0) {
    if (options->suffix >= 0) first = options->suffix < size ? size - options->suffix : 0;
    bool is_range = options->first >= 0 || options->suffix >= 0;
    if (is_range && (first >= size || !options->suffix)) refuse_range(options->path, size);
    if (options->last >= 0 && options->last < size - 1) end = options->last + 1;
    if (end < first) end = first;
  } else {
    first = 0;
  }
  put_text("{\"ok\":true,\"entry\":");
  put_entry(options->path, strlen(options->path), &st, AT_FDCWD, options->path);
  put_text(",\"first\":"), put_integer(first);
  if (size >= 0) put_text(",\"lengthBytes\":"), put_integer(end - first);
  put_text("}\n");
  is_header_out = true;
  if (is_probed) {
    put(probe + first, (size >= 0 ? (size_t)end : probed) - (size_t)first);
    put_flush();
    if (size < 0) copy_out(fd, (int64_t)probed, INT64_MAX, options->path);
    return;
  }
  put_flush();
  if (!copy_out(fd, first, end, options->path)) refuse("failed", options->path, "the file became shorter while it was read; read it again");
}
