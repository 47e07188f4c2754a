/* A tar header as POSIX and GNU have it: https://www.gnu.org/software/tar/manual/html_node/Standard.html */
#pragma once

enum { tar_block = 512 };

struct tar_header {
  char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100], magic[6], version[2];
  char user[32], group[32], major[8], minor[8], prefix[155], padding[12];
};

_Static_assert(sizeof(struct tar_header) == tar_block, "a header is a block");
